"""Calls of NFS per operation, ours beside those of the kernel's own client, on one server.

Once in a directory that the node has just made, and once in one of 1,000 entries that another node made and nobody
listed. Both clients trust names and attributes for longer than an operation runs, or it would depend on the machine's
speed what expires; but for the listings, which tell what a second one costs with default options.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bench.clients import Client, Fuse, KernelNfs, no_kernel_nfs
from tests.faults import figures
from tests.kernels import calls
from tests.kernels.calls import Counts
from tests.kernels.operations import FOREIGN, OWN
from tests.kernels.running import release
from tests.support.keeper import Keeper
from tests.support.nas import Nas

#: Trust in what was learnt, for longer than an operation runs.
_LONG = {"efc": ("attr-ttl=600s", "entry-ttl=600s"), "linux": ("actimeo=600",)}
_DEFAULT = {"efc": (), "linux": ()}
#: Whose figures expected.toml has.
_EXPECTED_ON = (6, 1)
_LIMIT_S = 1800


@dataclass(kw_only=True)
class Measured:
    """Client -> its counts; repetitions by operation."""

    counts: dict[str, Counts] = field(default_factory=dict)
    repetitions: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, client: Client, nas: Nas, *, expires: bool) -> None:
        """Runs the operations that want such trust on one client."""
        counted, repetitions = calls.count(client, nas, expires=expires, places=(OWN, FOREIGN))
        for place, rows in counted.items():
            self.counts.setdefault(name, {}).setdefault(place, {}).update(rows)
        self.repetitions |= repetitions


@pytest.fixture(scope="module")
def measured(nas: Nas) -> Measured:
    """Both clients' counts, also for people."""
    why_not = no_kernel_nfs()
    assert not why_not or release() not in ((6, 1), (6, 12)), why_not
    found = Measured()
    with Keeper() as keeper:
        for expires, options in ((False, _LONG), (True, _DEFAULT)):
            found.add("efc", Fuse(nas=nas, keeper=keeper, options=options["efc"]), nas, expires=expires)
            if not why_not:
                found.add("linux", KernelNfs(nas=nas, options=options["linux"]), nas, expires=expires)
    linux, efc = found.counts.get("linux", {}), found.counts["efc"]
    for name, counts in found.counts.items():
        figures.record("calls", name, counts)
    figures.record("calls", "table", {"lines": calls.table(linux, efc, calls.read_expected())})
    return found


@pytest.mark.short
@pytest.mark.timeout(_LIMIT_S)
def test_no_more_calls_than_expected(measured: Measured) -> None:
    assert calls.worse(measured.counts["efc"], calls.read_expected(), measured.repetitions) == []


@pytest.mark.short
@pytest.mark.timeout(_LIMIT_S)
def test_the_kernels_client_makes_the_calls_that_are_known_of_it(measured: Measured) -> None:
    if release() != _EXPECTED_ON:
        pytest.skip("expected.toml has the figures of another release's client")
    assert calls.not_as_expected(measured.counts["linux"], calls.read_expected(), measured.repetitions) == []
