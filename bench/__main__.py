"""Runs all cases: `python -m bench [--rounds N] [CASE...]`, as root, in tests/support/sandbox as `make bench` does."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import pauses, publishing
from bench.network import round_trip
from bench.runs import Contender, Programs, Round, idle_daemon_mib, run_bare, run_fresh_mount, run_mount, run_native
from tests.support.keeper import Keeper
from tests.support.leaks import no_leaks
from tests.support.nas import Export, Nas
from tests.support.netns import netns_pair
from tests.support.paths import RESULTS

BIG_BYTES = 2 << 30
SMALL_DIRECTORIES, SMALL_PER_DIRECTORY, SMALL_BYTES = 50, 100, 4096
LINK_BYTES_PER_S = 650_000_000
ROUND_TRIP_US = 1000
JUMBO_FRAME_BYTES = 9000  # as storage networks have them: headers then take under 1 % of the link

#: What can be run alone: comparisons, and figures by themselves.
COMPARED, OTHERS = ("loopback", "link"), ("publishing", "pauses")
NATIVE, BARE, MOUNT = "native ext4", "bare NFS client", "mount"
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
        """Reads without any limit, and the small files with and without a round trip."""
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
            with round_trip(nas, program=self.programs.delay_proxy, round_trip_us=ROUND_TRIP_US) as url:
                case = self.compare("small files, 1 ms round trip", "small", "small", url=url, keeper=keeper)
                case.gates.append(Gate(text="files/s to the bare client's", value=case.ratio(), limit=0.4))
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


def other_figures(part: str, console: Console) -> dict[str, dict[str, object]]:
    """Of `publishing` or `pauses`: compared with nothing, so they pass no gate."""
    measured: dict[str, dict[str, object]] = {}
    if part == "publishing":
        measured = {name: vars(result) for name, result in publishing.measure()}
    else:
        measured = dict(pauses.measure_all())
    for name, figures in measured.items():
        console.print(f"{part}, {name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    return measured


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


def write(cases: list[Case], others: dict[str, dict[str, dict[str, object]]], *, load_before: float) -> None:
    """results/bench.json."""
    document = {
        "conditions": "client cold (no page of the file, no name known), server's page cache warm, rounds interleaved",
        "processors": os.cpu_count(),
        "load_before": load_before,
        "cases": [
            {
                "name": case.name,
                "figure": case.figure,
                "contenders": {name: one.as_json(case.figure) for name, one in case.contenders.items()},
                "gates": [vars(gate) | {"holds": gate.holds} for gate in case.gates],
            }
            for case in cases
        ],
        **others,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(document, indent=2) + "\n")


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


def main() -> int:
    """Exit status 0 when all gates hold."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each contender in each case (default: 3)")
    parser.add_argument("part", nargs="*", choices=[*COMPARED, *OTHERS, []], help="only these (default: all)")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    cases: list[Case] = []
    load_before = os.getloadavg()[0]
    if load_before > 1:
        console.print(
            f"The machine is busy (load {load_before:.1f}): the mount, which needs most processes, will look worse."
        )
    parts = arguments.part or [*COMPARED, *OTHERS]
    with no_leaks():
        if compared := [part for part in COMPARED if part in parts]:
            with workshop(rounds=arguments.rounds, console=console) as bench:
                for name in compared:
                    cases.extend(getattr(bench, name)())
        others = {part: other_figures(part, console) for part in OTHERS if part in parts}
    if cases:
        show(cases, console)
    write(cases, others, load_before=load_before)
    gates = [(case, gate) for case in cases for gate in case.gates]
    for case, gate in gates:
        console.print(f"{case.name}: {gate}")
    failed = [gate for _, gate in gates if not gate.holds and not gate.only_aimed_at]
    ratios = ", ".join(
        f"{case.name} {case.median(MOUNT):,.0f} {unit(case.figure)} = {case.ratio():.2f} of bare" for case in cases
    )
    console.print(f"bench: {len(gates) - len(failed)} of {len(gates)} gates hold; {ratios}", soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
