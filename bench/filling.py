"""What it costs that a store and workers fill while a node reads and writes: `python -m bench filling`.

A large file of a NAS that has it in memory is read once through a fresh mount, over a link of 650 MB/s and without a
limit: in turn with default options, with an empty store on the disk of `/var/tmp`, with an empty worker, and with both.
What is asked is that a reader does not notice it. Then a node writes a large file and many small ones: nothing of that
is kept anywhere, so it must not cost a call more.

Gated are ratios of one run. The daemon's CPU has in it what it seals, sends and stores; a worker's is beside it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import nodes
from bench.bare import Gate
from bench.measuring import threads_cpu_s
from bench.runs import GIB
from tests.support.netns import Host
from tests.support.workers import Worker

MIB = 1 << 20
UNCACHED, FILLING = "default options", "empty store and worker"
#: Each level alone, which says what of it costs how much; only reads have them.
STORE, WORKER = "empty store", "empty worker"
#: Bytes of the large file that is written, small files, and bytes of each of these.
WRITTEN_MIB, SMALL_FILES, SMALL_BYTES = 512, 1000, 16 << 10
OF_LINK_MIN, CPU_READ_MAX, OF_FREE_MIN, CPU_WRITE_MAX = 0.95, 1.15, 0.95, 1.1
#: Attributes that expire meanwhile are asked for again: on a busy machine more often.
_CALLS_MARGIN = 1.01
#: What is still on its way when a writer has ended counts too.
_BEHIND_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What it took."""

    seconds: float
    nfs_calls: int
    daemon_cpu_s: float


@dataclass(kw_only=True)
class Writings:
    """Both contenders' rounds."""

    name: str = "512 MiB and 1,000 files of 16 KiB written"
    rounds: dict[str, list[Writing]] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)

    def median(self, contender: str, figure: str) -> float:
        """Of a contender's rounds."""
        return float(statistics.median(getattr(one, figure) for one in self.rounds[contender]))

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "rounds": {name: [asdict(one) for one in rounds] for name, rounds in self.rounds.items()},
            "gates": [vars(gate) | {"holds": gate.holds} for gate in self.gates],
        }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cases work with."""

    workshop: nodes.Bench
    shelf: Host
    disk: Path

    def link(self) -> nodes.Case:
        """Cold reads over a link."""
        case = self._read(f"cold read, link of {nodes.LINK_MBIT // 8} MB/s", rate_mbit=nodes.LINK_MBIT)
        judge_link(case)
        return case

    def loopback(self) -> nodes.Case:
        """Cold reads that nothing limits but this machine."""
        case = self._read("cold read, loopback", rate_mbit=0)
        judge_loopback(case)
        return case

    def writes(self) -> Writings:
        """A large file and small ones."""
        (host,) = self.workshop.hosts(1)
        case = Writings()
        for number in range(self.workshop.rounds):
            for contender in in_turn((UNCACHED, FILLING), number):
                with self._levels(contender) as (workers, options):
                    done = self._write(host, workers, options)
                case.rounds.setdefault(contender, []).append(done)
                self.workshop.console.print(
                    f"  {case.name}, {contender}: {done.seconds:.1f} s, {done.nfs_calls:,} calls, "
                    f"daemon's CPU {done.daemon_cpu_s:.2f} s"
                )
        judge_writes(case)
        return case

    # ------------------------------------------------------------ inside

    def _read(self, name: str, *, rate_mbit: int) -> nodes.Case:
        (host,) = self.workshop.hosts(1, rate_mbit=rate_mbit)
        case = nodes.Case(name=name)
        for number in range(self.workshop.rounds):
            for contender in in_turn((UNCACHED, STORE, WORKER, FILLING), number):
                with self._levels(contender) as (workers, options):
                    case.add(contender, self.workshop.read([host], workers, options=options), self.workshop.console)
        return case

    @contextmanager
    def _levels(self, contender: str) -> Iterator[tuple[Sequence[Worker], Sequence[str]]]:
        """A worker and a store's options, both empty, as far as the contender has them."""
        with ExitStack() as stack:
            options: tuple[str, ...] = ()
            if contender in (STORE, FILLING):
                store = stack.enter_context(tempfile.TemporaryDirectory(prefix="store-", dir=self.disk))
                mib = 2 * self.workshop.sizes.data_bytes // MIB
                options = (f"cache-dir={store}", f"cache-size={mib}MiB", "cache-free=1")
            with_worker = contender in (WORKER, FILLING)
            yield [stack.enter_context(self.workshop.worker(self.shelf))] if with_worker else (), options

    def _write(self, host: Host, workers: Sequence[Worker], options: Sequence[str]) -> Writing:
        with self.workshop.site.node(host, workers=workers, options=options) as node:
            (daemon,) = node.keeper.daemon_pids()
            before, calls = threads_cpu_s(daemon), node.calls()
            began = time.monotonic()
            write_all(node.mount / "written")
            seconds = time.monotonic() - began
            time.sleep(_BEHIND_S)
            done = Writing(seconds=seconds, nfs_calls=node.calls() - calls, daemon_cpu_s=threads_cpu_s(daemon) - before)
        shutil.rmtree(self.workshop.site.nas.export_folder() / "written")
        return done


def write_all(folder: Path) -> None:
    """The load: a file in blocks of 1 MiB with an fsync in the end, then small files, one after another."""
    block = os.urandom(MIB)
    folder.mkdir()
    with (folder / "large").open("wb", buffering=0) as file:
        for _ in range(WRITTEN_MIB):
            file.write(block)
        os.fsync(file.fileno())
    for number in range(SMALL_FILES):
        (folder / f"{number:04}").write_bytes(block[number : number + SMALL_BYTES])


def in_turn(contenders: Sequence[str], number: int) -> Sequence[str]:
    """All, the last one first in every second round."""
    return contenders if number % 2 == 0 else contenders[::-1]


def judge_link(case: nodes.Case) -> None:
    """Adds its gates."""
    of_link = case.median(FILLING, "mb_per_s") * 8 / nodes.LINK_MBIT
    ratio = case.median(FILLING, "cpu_s_per_gib") / case.median(UNCACHED, "cpu_s_per_gib")
    without_seals = statistics.median(
        (one.daemons_cpu_s - one.seals_cpu_s) * GIB / one.bytes for one in case.readings[FILLING]
    )
    case.gates += [
        Gate(text=f"{FILLING}: part of the link", value=of_link, limit=OF_LINK_MIN),
        Gate(text="daemon's CPU to that of default options", value=ratio, limit=CPU_READ_MAX, at_most=True),
    ]
    case.notes.append(
        f"daemon's CPU per GiB: {case.median(UNCACHED, 'cpu_s_per_gib'):.2f} s with default options, "
        f"{case.median(FILLING, 'cpu_s_per_gib'):.2f} s filling, {without_seals:.2f} s of it without the thread that "
        f"seals; default options had {case.median(UNCACHED, 'mb_per_s') * 8 / nodes.LINK_MBIT:.3f} of the link"
    )


def judge_loopback(case: nodes.Case) -> None:
    """Adds its gate."""
    ratio = case.median(FILLING, "mb_per_s") / case.median(UNCACHED, "mb_per_s")
    case.gates.append(Gate(text="throughput to that of default options", value=ratio, limit=OF_FREE_MIN))


def judge_writes(case: Writings) -> None:
    """Adds its gates."""
    calls, cpu = (
        case.median(FILLING, figure) / case.median(UNCACHED, figure) for figure in ("nfs_calls", "daemon_cpu_s")
    )
    case.gates += [
        Gate(text="calls to those of default options", value=calls, limit=_CALLS_MARGIN, at_most=True),
        Gate(text="daemon's CPU to that of default options", value=cpu, limit=CPU_WRITE_MAX, at_most=True),
    ]


CASES: dict[str, Callable[[Bench], nodes.Case | Writings]] = {
    "link": Bench.link, "loopback": Bench.loopback, "writes": Bench.writes,
}  # fmt: skip


def measure(*, size_mib: int, rounds: int, only: str, console: Console) -> list[nodes.Case | Writings]:
    """The cases with `only` in their names."""
    chosen = [case for name, case in CASES.items() if only in name]
    if not chosen:
        return []
    sizes = nodes.Sizes(data_bytes=size_mib * MIB)
    with (
        nodes.workshop(sizes=sizes, rounds=rounds, console=console) as workshop,
        tempfile.TemporaryDirectory(prefix="efc-bench-", dir="/var/tmp") as disk,
    ):
        (shelf,) = workshop.hosts(1)
        bench = Bench(workshop=workshop, shelf=shelf, disk=Path(disk))
        return [case(bench) for case in chosen]


def show(cases: Sequence[nodes.Case | Writings], console: Console) -> None:
    """The tables of all cases."""
    if reads := [case for case in cases if isinstance(case, nodes.Case)]:
        nodes.show(reads, console)
    for case in cases:
        if isinstance(case, Writings):
            table = Table(title=f"{case.name}: medians", title_justify="left")
            for heading in ("contender", "seconds", "NFS calls", "daemon's CPU s"):
                table.add_column(heading, justify="left" if heading == "contender" else "right")
            for name in case.rounds:
                seconds, calls, cpu = (case.median(name, one) for one in ("seconds", "nfs_calls", "daemon_cpu_s"))
                table.add_row(name, f"{seconds:.1f}", f"{calls:,.0f}", f"{cpu:.2f}")
            console.print(table)
