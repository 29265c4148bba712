"""Calls of NFS per operation, ours beside those of the kernel's own client, on one server.

Once in a directory that the node has just made, and once in one of 1,000 entries that another node made and nobody
listed. Both clients trust names and attributes for longer than an operation runs, or it would depend on the machine's
speed what expires; but for a listing after a while, which tells what that costs with default options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

EFC, LINUX = "efc", "linux"
#: Mount options: names and attributes are trusted for longer than an operation runs, or as by default (see `expires`).
_OPTIONS = {
    EFC: {False: ("attr-ttl=600s", "entry-ttl=600s"), True: ()},
    LINUX: {False: ("actimeo=600",), True: ()},
}
#: Whose figures expected.toml has.
_EXPECTED_ON = (6, 1)
_LIMIT_S = 1800


@dataclass(kw_only=True)
class Measured:
    """Counts of both clients, each place of each when it is first asked for."""

    nas: Nas
    keeper: Keeper
    counts: dict[str, Counts] = field(default_factory=dict)
    repetitions: dict[str, int] = field(default_factory=dict)

    def of(self, name: str, place: str) -> Counts:
        """Of one client in one place."""
        if place not in self.counts.setdefault(name, {}):
            rows: dict[str, float] = {}
            for expires, options in _OPTIONS[name].items():
                counted, repetitions = calls.count(self._client(name, options), self.nas, expires=expires, place=place)
                rows |= counted
                self.repetitions |= repetitions
            self.counts[name][place] = rows
            figures.record("calls", name, self.counts[name])
            table = calls.table(self.counts.get(LINUX, {}), self.counts.get(EFC, {}), calls.read_expected())
            figures.record("calls", "table", {"lines": table})
        return {place: self.counts[name][place]}

    def _client(self, name: str, options: Sequence[str]) -> Client:
        if name == EFC:
            return Fuse(nas=self.nas, keeper=self.keeper, options=options)
        return KernelNfs(nas=self.nas, options=options)


@pytest.fixture(scope="module")
def measured(nas: Nas) -> Iterator[Measured]:
    """Nothing yet."""
    with Keeper() as keeper:
        yield Measured(nas=nas, keeper=keeper)


@pytest.mark.timeout(_LIMIT_S)
@pytest.mark.parametrize("place", [pytest.param(OWN, marks=pytest.mark.short), FOREIGN])
def test_no_more_calls_than_expected(measured: Measured, place: str) -> None:
    assert calls.worse(measured.of(EFC, place), calls.read_expected(), measured.repetitions) == []


@pytest.mark.timeout(_LIMIT_S)
@pytest.mark.parametrize("place", [OWN, FOREIGN])
def test_the_kernels_client_makes_the_calls_that_are_known_of_it(measured: Measured, place: str) -> None:
    assert no_kernel_nfs() == ""
    found = measured.of(LINUX, place)
    if release() != _EXPECTED_ON:
        pytest.skip("expected.toml has the figures of another release's client")
    assert calls.not_as_expected(found, calls.read_expected(), measured.repetitions) == []
