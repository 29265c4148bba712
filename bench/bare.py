"""Reads, and a large write, beside native ext4 and our NFS client without a mount (the bare client); their gates."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.clients import MOUNT, NATIVE, ROUND_TRIP_US
from bench.runs import Contender, Programs, Round, idle_daemon_mib, run_bare, run_fresh_mount, run_mount, run_native
from tests.support.delay import delayed
from tests.support.keeper import Keeper
from tests.support.nas import Export, Nas
from tests.support.netns import netns_pair

BIG_BYTES = 2 << 30
SMALL_DIRECTORIES, SMALL_PER_DIRECTORY, SMALL_BYTES = 50, 100, 4096
WRITTEN_MIB = 256
LINK_BYTES_PER_S = 650_000_000
JUMBO_FRAME_BYTES = 9000  # as storage networks have them: headers then take under 1 % of the link

BARE = "bare NFS client"
Run = Callable[[], Round]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Something that must hold. `limit` is a least value unless `at_most` is set."""

    text: str
    value: float
    limit: float
    at_most: bool = False
    only_aimed_at: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "holds" if self.holds else "below the aim" if self.only_aimed_at else "FAILED"
        return f"{self.text}: {self.value:.3g} (asked {sign} {self.limit:g}): {verdict}"


@dataclass(kw_only=True)
class Case:
    """One comparison: who takes part, and which figure counts."""

    name: str
    figure: str  # mb_per_s or files_per_s
    contenders: dict[str, Contender]
    gates: list[Gate] = field(default_factory=list)

    @classmethod
    def run(cls, name: str, *, figure: str, runs: dict[str, Run], rounds: int, console: Console) -> Case:
        """Runs all contenders `rounds` times, one after another in each round."""
        contenders = {contender: Contender(name=contender) for contender in runs}
        for number in range(rounds):
            for contender, action in runs.items():
                done = action()
                contenders[contender].rounds.append(done)
                console.print(f"  {name}, round {number + 1}, {contender}: {getattr(done, figure):,.0f} {unit(figure)}")
        what = {(one.bytes, one.files) for contender in contenders.values() for one in contender.rounds}
        assert len(what) == 1, f"{name}: not everybody read the same: {what}"
        return cls(name=name, figure=figure, contenders=contenders)

    def median(self, contender: str, figure: str = "") -> float:
        """The median of a contender's figure."""
        return self.contenders[contender].median(figure or self.figure)

    def ratio(self, figure: str = "") -> float:
        """The mount's median to the bare client's."""
        return self.median(MOUNT, figure) / self.median(BARE, figure)


def unit(figure: str) -> str:
    """How a figure is counted, for people."""
    return {"mb_per_s": "MB/s", "files_per_s": "files/s"}[figure]


def make_data(folder: Path) -> None:
    """The files that are read, in the server's folder, and all of them in its page cache."""
    block = os.urandom(1 << 20)
    with (folder / "big").open("wb", buffering=0) as file:
        for number in range(BIG_BYTES >> 20):
            file.write(number.to_bytes(8) + block[8:])
    for directory in range(SMALL_DIRECTORIES):
        (folder / "small" / f"{directory:02}").mkdir(parents=True)
        for number in range(SMALL_PER_DIRECTORY):
            (folder / "small" / f"{directory:02}" / f"{number:03}").write_bytes(block[number : number + SMALL_BYTES])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cases work with."""

    programs: Programs
    data: Path
    rounds: int
    console: Console

    def loopback(self) -> Iterator[Case]:
        """Reads and a write without any limit, and the small files with and without a round trip."""
        with Nas(exports=[Export(path=self.data)]) as nas, Keeper() as keeper:
            case = self.compare("sequential, loopback", "read", "big", url=nas.url, keeper=keeper)
            case.gates.append(
                Gate(text="throughput to the bare client's", value=case.ratio(), limit=0.6, only_aimed_at=True)
            )
            yield case
            case = self.compare("small files, loopback", "small", "small", url=nas.url, keeper=keeper)
            case.gates.append(Gate(text="files/s to the bare client's", value=case.ratio(), limit=0.4))
            idle_mib = idle_daemon_mib(nas.url, keeper=keeper)
            case.gates.append(Gate(text="MiB of an idle daemon", value=idle_mib, limit=16, at_most=True))
            yield case
            with delayed(nas.port, round_trip_us=ROUND_TRIP_US) as port:
                url = nas.url_of(nas.exports[0].name, port=port)
                case = self.compare("small files, 1 ms round trip", "small", "small", url=url, keeper=keeper)
                case.gates.append(Gate(text="files/s to the bare client's", value=case.ratio(), limit=0.4))
                yield case
            case = self.compare_writes(url=nas.url, keeper=keeper)
            case.gates.append(Gate(text="throughput to the bare client's", value=case.ratio(), limit=0.9))
            yield case

    def link(self) -> Iterator[Case]:
        """Reads over a link of a given rate."""
        with ExitStack() as stack:
            link = stack.enter_context(netns_pair(LINK_BYTES_PER_S * 8 // 1_000_000, mtu=JUMBO_FRAME_BYTES))
            exports = [Export(path=self.data)]
            nas = stack.enter_context(Nas(exports=exports, address=link.server_address, command_prefix=link.server))
            keeper = stack.enter_context(Keeper(command_prefix=link.client))
            case = self.compare(
                "sequential, 650 MB/s link", "read", "big", url=nas.url, keeper=keeper, prefix=link.client
            )
            of_link = case.median(MOUNT) * 1e6 / LINK_BYTES_PER_S
            case.gates += [
                Gate(text="throughput to the link's rate", value=of_link, limit=0.95),
                Gate(
                    text="daemon's CPU per GiB to the bare client's",
                    value=case.ratio("cpu_s_per_gib"),
                    limit=2,
                    at_most=True,
                ),
            ]
            yield case

    def compare(
        self, name: str, command: str, path: str, *, url: str, keeper: Keeper, prefix: Sequence[str] = ()
    ) -> Case:
        """One case with its three contenders.

        Files of a page or so: a fresh mount in each round, with no name known. A large file: one mount, the file's
        pages dropped before each round, and one round first that does not count. Otherwise the mount alone would pay
        for 2 GiB of memory that it is the first to touch, which costs a virtual machine more than the reading.
        """
        figure = "mb_per_s" if command == "read" else "files_per_s"
        with ExitStack() as stack:
            if command == "read":
                mount = stack.enter_context(keeper.mounted(url))
                on_mount: Run = lambda: run_mount(self.programs, command, mount, path, keeper=keeper)  # noqa: E731
                on_mount()
            else:
                on_mount = lambda: run_fresh_mount(self.programs, command, url, path, keeper=keeper)  # noqa: E731
            runs: dict[str, Run] = {
                NATIVE: lambda: run_native(self.programs, command, self.data / path),
                BARE: lambda: run_bare(self.programs, command, url, path, prefix=prefix),
                MOUNT: on_mount,
            }
            return Case.run(name, figure=figure, runs=runs, rounds=self.rounds, console=self.console)

    def compare_writes(self, *, url: str, keeper: Keeper) -> Case:
        """A new file in each round, of blocks of 1 MiB, synced in the end. The mount is a fresh one each time."""
        arguments = {NATIVE: (str(WRITTEN_MIB),), BARE: ("--count", str(WRITTEN_MIB)), MOUNT: (str(WRITTEN_MIB),)}

        def new_file() -> str:
            path = self.data / "written"
            path.unlink(missing_ok=True)
            path.touch()
            return path.name

        def on_mount() -> Round:
            path = new_file()
            with keeper.mounted(url) as mount:
                return run_mount(self.programs, "write", mount, path, *arguments[MOUNT], keeper=keeper)

        runs: dict[str, Run] = {
            NATIVE: lambda: run_native(self.programs, "write", self.data / new_file(), *arguments[NATIVE]),
            BARE: lambda: run_bare(self.programs, "write", url, new_file(), *arguments[BARE]),
            MOUNT: on_mount,
        }
        name = f"{WRITTEN_MIB} MiB written and synced, loopback"
        return Case.run(name, figure="mb_per_s", runs=runs, rounds=self.rounds, console=self.console)


def show(cases: list[Case], console: Console) -> None:
    """The table of all cases."""
    table = Table(
        title="Medians; client cold (no page of the file, no name known), server's page cache warm",
        title_justify="left",
    )
    for heading in (
        "case",
        "contender",
        "median",
        "range",
        "to bare",
        "CPU s",
        "reader CPU s",
        "memory MiB",
        "NFS calls",
    ):
        table.add_column(heading, justify="left" if heading in ("case", "contender") else "right")
    for case in cases:
        for contender in case.contenders.values():
            values = [getattr(one, case.figure) for one in contender.rounds]
            table.add_row(
                case.name, contender.name, f"{contender.median(case.figure):,.0f} {unit(case.figure)}",
                f"{min(values):,.0f}-{max(values):,.0f}", f"{contender.median(case.figure) / case.median(BARE):.2f}",
                f"{contender.median('cpu_s'):.2f}", f"{contender.median('reader_cpu_s'):.2f}",
                f"{contender.median('memory_mib_max'):.1f}",
                f"{calls:,.0f}" if (calls := contender.median("nfs_calls")) else "",
            )  # fmt: skip
        table.add_section()
    console.print(table)


@contextmanager
def workshop(*, rounds: int, console: Console) -> Iterator[Bench]:
    """Builds the programs and the data, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="efc-bench-") as name:
        folder = Path(name)
        console.print("Building the programs and 2 GiB of data")
        programs = Programs.build(folder)
        (folder / "data").mkdir()
        make_data(folder / "data")
        yield Bench(programs=programs, data=folder / "data", rounds=rounds, console=console)
