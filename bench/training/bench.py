"""All contenders at all networks, one after another: `measure`."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.training import dlio, files
from bench.training.case import NETWORKS, Case, Network, judge, profile
from bench.training.clients import (
    ANEW,
    BOUNDED,
    BUCKET,
    DEFAULT,
    SEALED,
    Client,
    FuseNfs,
    Native,
    Ours,
    Place,
    Rclone,
    S3fs,
)  # fmt: skip
from bench.training.run import EPOCHS, run, run_anew
from tests.support.nas import Export
from tests.support.site import CLOCK, REST_S, Site

FILES = 50_000
#: Room for all files, and for what a store rounds up.
_STORE_KIB_PER_FILE = 64
_STORE_MIB_MIN = 256


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cases work with."""

    site: Site
    disk: Path
    clients: Sequence[Client]
    others: Sequence[Client]
    console: Console

    def at(self, network: Network) -> Case:
        """All contenders at one network."""
        case = Case(name=network.name)
        with self.place(network) as place:
            for client in (*self.clients, *(self.others if network.with_others else ())):
                self._run(case, client, place)
        if network.is_gated:
            judge(case)
        profile(case)
        return case

    def _run(self, case: Case, client: Client, place: Place) -> None:
        """Adds what it took, or why it could not: a client of others that fails fails alone."""
        why_not = client.why_not()
        if not why_not:
            try:
                if isinstance(client, Ours) and client.name == ANEW:
                    done = run_anew(client, place)
                else:
                    done = run(client, place)
                case.runs[client.name] = done
                epochs = ", ".join(f"{done.epoch_s(number):.1f}" for number in range(EPOCHS))
                self.console.print(f"  {case.name}, {client.name}: {done.total_s:.1f} s, epochs {epochs} s")
                return
            except Exception as error:
                if isinstance(client, Native | Ours):
                    raise
                why_not = f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', []))}"
        case.skipped[client.name] = why_not
        self.console.print(f"  {case.name}, {client.name}: SKIPPED: {why_not}", soft_wrap=True)

    @contextmanager
    def place(self, network: Network) -> Iterator[Place]:
        """A node with such a network to the NAS."""
        host = self.site.network.host()
        self.site.network.limit(self.site.nas_host, network.rate_mbit)
        with ExitStack() as stack:
            url = self.site.nas.url
            if network.round_trip_us:
                url = stack.enter_context(self.site.far_nas(round_trip_us=network.round_trip_us))
            yield Place(site=self.site, host=host, url=url, round_trip_us=network.round_trip_us, disk=self.disk)


def contenders(count: int) -> list[Client]:
    """Those that take part at each network."""
    cache_mib = _cache_mib(count)
    return [
        Native(),
        Ours(name=SEALED, options=("consistency=sealed",), cache_mib=cache_mib),
        Ours(name=BOUNDED, options=("consistency=bounded", "attr-ttl=3600s"), cache_mib=cache_mib),
        Ours(name=DEFAULT),
        FuseNfs(),
    ]


def others(count: int) -> list[Client]:
    """Those that take part where the network says so."""
    return [Ours(name=ANEW, options=("consistency=sealed",), cache_mib=_cache_mib(count)), Rclone(), S3fs()]


def _cache_mib(count: int) -> int:
    return max(count * _STORE_KIB_PER_FILE // 1024, _STORE_MIB_MIN)


def measure(*, count: int, only: str, console: Console) -> list[Case | dlio.Case]:
    """The networks, and DLIO, with `only` in their names."""
    networks = [network for network in NETWORKS if only in network.name]
    with_dlio = only in dlio.NAME
    if not networks and not with_dlio:
        return []
    with workshop(count=count, console=console) as bench:
        cases: list[Case | dlio.Case] = [bench.at(network) for network in networks]
        if with_dlio:
            with bench.place(next(one for one in NETWORKS if one.is_gated)) as place:
                cases.append(dlio.measure(place, bench.clients, console=console))
        return cases


@contextmanager
def workshop(*, count: int, console: Console) -> Iterator[Bench]:
    """The files at a NAS, on the disk that the nodes' caches are on too, for the time of the block."""
    count = max(count // files.DIRECTORIES, 1) * files.DIRECTORIES
    console.print(f"Making {count:,} files of {files.SIZE_MIN >> 10} to {files.SIZE_MAX >> 10} KiB")
    with tempfile.TemporaryDirectory(prefix="efc-bench-", dir="/var/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        for place in ("data", "disk"):
            (folder / place).mkdir(mode=0o755)
        files.make(folder / "data" / BUCKET, count)
        subprocess.run(["sync", "-f", folder], check=True, timeout=600)
        site = stack.enter_context(Site.made(exports=[Export(path=folder / "data")]))
        time.sleep(REST_S)
        (folder / "data" / CLOCK).touch()
        yield Bench(
            site=site, disk=folder / "disk", clients=contenders(count), others=others(count), console=console
        )  # fmt: skip
