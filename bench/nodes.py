"""What nodes share through workers: `python -m bench nodes`, on nodes in network namespaces with links of their own.

A NAS, workers and nodes are a namespace each, joined by a bridge (`tests.support.site`). A *reading* is one file read
by one node or by several at once, each on a fresh mount: nothing is known and no page of the file is there. The reader
lets go of pages that it has read, so that the machine holds the data once, and the workers' copy. The NAS has the data
in memory. Contenders take turns in each round, with workers that were started anew; figures are medians of the rounds.

Gated are ratios and counts only. What a machine of few processors cannot show is said: `busy` is the part of all
processors' time that was used while it was read, and beside it stands who used it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.bare import Gate
from bench.measuring import machine_cpu_s, threads_cpu_s
from bench.runs import GIB, Amount, Programs, Round, run_bare
from tests.support.nas import Export
from tests.support.netns import Host
from tests.support.nodes import Node
from tests.support.processes import cpu_s
from tests.support.site import CLOCK, REST_S, Site
from tests.support.workers import Worker

MIB = 1 << 20
#: Links, in 10**6 bit per second: 200 MB/s, 648 MiB/s, 650 MB/s.
SLOW_NAS_MBIT, FAST_NAS_MBIT, LINK_MBIT = 1600, 648 * MIB * 8 // 1_000_000, 5200
#: Of four nodes that read at once from workers: little enough for a machine of two processors to serve them.
SHORT_LINK_MBIT = 800
ROUND_TRIP_US = 1000
#: So many nodes read at once.
CROWDS = (2, 3, 4)
SMALL_MIN, SMALL_MAX, SMALL_PER_DIRECTORY = 4 << 10, 150 << 10, 100
#: That is 40 KiB in the mean, and 16 KiB at most for what a worker rounds up.
_SMALL_KIB_AT_WORKER = 64
#: Ends hangs only.
_READING_LIMIT_S = 3600
_SEALING_THREAD = "worker-seals"
#: What is still being sealed and sent when a reader has ended counts too.
_BEHIND_S = 1.0
#: From one crowd to the next: 1.125 and 1.185 if links are all that limits them, as n nodes get n/(n-1) of a link each.
_GROWTH_MIN = 1.05


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is read: less for tries."""

    data_bytes: int = 4 * GIB
    small_files: int = 100_000


@dataclass(frozen=True, kw_only=True)
class Reading(Amount):
    """What it took. Bytes and CPU seconds are sums over the nodes that read at once; `seconds` is of the last one."""

    nas_bytes: int  # of READ
    workers_bytes: int
    refused: int
    daemons_cpu_s: float
    seals_cpu_s: float  # of it, of threads that seal blocks and send them to workers
    readers_cpu_s: float
    workers_cpu_s: float
    nas_cpu_s: float
    busy: float  # how much of all processors' time was used meanwhile, by others too

    @property
    def cpu_s_per_gib(self) -> float:
        """Of daemons."""
        return self.daemons_cpu_s * GIB / self.bytes

    @property
    def nas_part(self) -> float:
        """Bytes from the NAS, to those that were read."""
        return self.nas_bytes / self.bytes


@dataclass(kw_only=True)
class Case:
    """Contenders that took turns: the name of each and its readings, one a round."""

    name: str
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    bare: list[Round] = field(default_factory=list)  # of the client without a mount
    notes: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    def add(self, contender: str, reading: Reading, console: Console) -> None:
        """One more, which is said."""
        self.readings.setdefault(contender, []).append(reading)
        console.print(
            f"  {self.name}, {contender}: {reading.mb_per_s:,.0f} MB/s, {reading.nas_part:.1%} from the NAS, "
            f"daemons' CPU {reading.cpu_s_per_gib:.2f} s per GiB, processors {reading.busy:.0%} busy"
        )

    def median(self, contender: str, figure: str) -> float:
        """Of a contender's rounds."""
        return float(statistics.median(getattr(one, figure) for one in self.readings[contender]))

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        figures = ("mb_per_s", "files_per_s", "cpu_s_per_gib", "nas_part", "busy")
        return {
            "contenders": {
                name: {
                    "median": {figure: round(self.median(name, figure), 4) for figure in figures},
                    "rounds": [asdict(one) for one in readings],
                }
                for name, readings in self.readings.items()
            },
            "bare_client_cpu_s_per_gib": [round(one.cpu_s_per_gib, 3) for one in self.bare],
            "notes": self.notes,
            "gates": [vars(gate) | {"holds": gate.holds} for gate in self.gates],
        }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cases work with. Hosts are made when they are needed, and are there until the end."""

    site: Site
    programs: Programs
    sizes: Sizes
    rounds: int
    console: Console

    # ------------------------------------------------------------ cases

    def slow_nas(self) -> Case:
        """A NAS of 200 MB/s: the second node reads at the rate of its link."""
        case = Case(name="second node, NAS 200 MB/s, link 650 MB/s")
        first, second = self.hosts(2, rate_mbit=LINK_MBIT)
        self._pairs(case, first, second, nas_rate_mbit=SLOW_NAS_MBIT)
        judge_slow_nas(case)
        return case

    def free_links(self) -> Case:
        """A NAS of 648 MiB/s, and links without limits: what time and CPU a reading from workers takes."""
        case = Case(name="second node, NAS 648 MiB/s, links free")
        first, second = self.hosts(2)
        self._pairs(case, first, second, nas_rate_mbit=FAST_NAS_MBIT, with_tls=True, with_bare=True)
        judge_free_links(case, seal_cpu_s=_seal_cpu_s_per_gib())
        return case

    def crowds(self) -> Case:
        """Two, three and four nodes with a worker each read one file at once, from empty workers and from full ones.

        Workers are filled over links that are no limit, and read over links that are all that limits.
        """
        case = Case(name="nodes at once, NAS 200 MB/s")
        self.site.network.limit(self.site.nas_host, SLOW_NAS_MBIT)
        hosts = self.hosts(max(CROWDS))

        def read(what: str, count: int, workers: Sequence[Worker] = (), *, link_mbit: int = SHORT_LINK_MBIT) -> None:
            for host in hosts[:count]:
                self.site.network.limit(host, link_mbit)
            case.add(crowd(count, what, link_mbit), self.read(hosts[:count], workers), self.console)

        for _ in range(self.rounds):
            for count in CROWDS:
                read("NAS alone", count)
                with self._workers(hosts[:count]) as workers:
                    read("empty workers", count, workers, link_mbit=LINK_MBIT)
                    read("full workers", count, workers)
                with self._workers(hosts[:count]) as workers:
                    read("empty workers", count, workers)
        judge_crowds(case)
        return case

    def small_files(self) -> Case:
        """Many small files, one round trip from the NAS, in `bounded`; no gate. One round: each takes minutes."""
        case = Case(name=f"{self.sizes.small_files:,} files of 4 to 150 KiB, 1 ms from the NAS, bounded")
        self.site.network.limit(self.site.nas_host, 0)
        shelf, first, second = self.hosts(3)
        _make_small_files(self.site.nas.export_folder() / "small", self.sizes.small_files)
        self.rest()
        with self.site.far_nas(round_trip_us=ROUND_TRIP_US) as url:

            def read(contender: str, host: Host, *workers: Worker) -> None:
                reading = self.read([host], workers, "small", url=url, options=("consistency=bounded",))
                case.add(contender, reading, self.console)

            read("NAS alone", second)
            for state in ("empty", "that was full of large blocks"):
                memory_mib = 256 + self.sizes.small_files * _SMALL_KIB_AT_WORKER // 1024
                with self.site.worker(shelf, memory_mib=memory_mib, is_ours=True) as worker:
                    if state != "empty":
                        worker.fill(memory_mib, MIB)
                    read(f"first node, worker {state}", first, worker)
                    read(f"second node, worker {state}", second, worker)
        for contender in [name for name in case.readings if name.startswith("second")]:
            ratio = case.median(contender, "files_per_s") / case.median("NAS alone", "files_per_s")
            case.notes.append(f"{contender}: {ratio:.2f} times the rate of the NAS alone")
        return case

    # ------------------------------------------------------------ inside

    def _pairs(
        self, case: Case, first: Host, second: Host, *, nas_rate_mbit: int, with_tls: bool = False,
        with_bare: bool = False,
    ) -> None:  # fmt: skip
        """In each round: a node without workers; one that fills a worker, and one that reads what it has left there."""
        self.site.network.limit(self.site.nas_host, nas_rate_mbit)
        (shelf,) = self.hosts(1)
        tls = self.site.certificates(shelf) if with_tls else None
        for _ in range(self.rounds):
            case.add("NAS alone", self.read([second]), self.console)
            if with_bare:
                bare = run_bare(self.programs, "read", self.site.nas.url, "big", prefix=second.prefix)
                case.bare.append(bare)
                self.console.print(f"  {case.name}, bare client: {bare.mb_per_s:,.0f} MB/s")
            for folder in (None, tls) if tls else (None,):
                with self.worker(shelf, tls=folder) as worker:
                    for name, host in (("first node", first), ("second node", second)):
                        reading = self.read([host], [worker], tls=folder)
                        case.add(f"{name}, TLS" if folder else name, reading, self.console)

    def hosts(self, count: int, *, rate_mbit: int = 0) -> list[Host]:
        """So many more, with such links; 0: no limit."""
        return [self.site.network.host(rate_mbit) for _ in range(count)]

    @contextmanager
    def _workers(self, hosts: Sequence[Host]) -> Iterator[list[Worker]]:
        """One beside each node."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.worker(host, among=len(hosts))) for host in hosts]

    def worker(self, host: Host, *, among: int = 1, tls: Path | None = None) -> Worker:
        """Empty; it has room for its part of the large file."""
        memory_mib = int(1.3 * self.sizes.data_bytes / MIB / among) + 256
        return self.site.worker(host, memory_mib=memory_mib, is_ours=True, tls=tls)

    def rest(self) -> None:
        """Lets the data rest, so that it may be put at workers."""
        time.sleep(REST_S)
        (self.site.nas.export_folder() / CLOCK).touch()

    def read(
        self, hosts: Sequence[Host], workers: Sequence[Worker] = (), what: str = "big", *, url: str = "",
        options: Sequence[str] = (), tls: Path | None = None,
    ) -> Reading:  # fmt: skip
        """All these nodes at once, on fresh mounts."""
        with ExitStack() as stack:
            nodes = [
                stack.enter_context(self.site.node(host, workers=workers, options=options, tls=tls, url=url))
                for host in hosts
            ]
            for node in nodes:
                os.stat(node.mount / CLOCK)
            before = self._costs(nodes, workers)
            busy_s, began = machine_cpu_s(), time.monotonic()
            command = (self.programs.reader, "small" if what == "small" else "stream")
            readers = [subprocess.Popen([*command, node.mount / what], stdout=subprocess.PIPE) for node in nodes]
            try:
                found = [json.loads(reader.communicate(timeout=_READING_LIMIT_S)[0]) for reader in readers]
            finally:
                for reader in readers:
                    reader.kill()
            busy = (machine_cpu_s() - busy_s) / (time.monotonic() - began) / (os.cpu_count() or 1)
            time.sleep(_BEHIND_S)
            spent = self._costs(nodes, workers) - before
            return Reading(
                seconds=max(one["seconds"] for one in found),
                bytes=sum(one["bytes"] for one in found),
                files=sum(one["files"] for one in found),
                readers_cpu_s=sum(one["cpu_seconds"] for one in found),
                busy=busy,
                **vars(spent),
            )

    def _costs(self, nodes: Sequence[Node], workers: Sequence[Worker]) -> _Costs:
        daemons = [node.keeper.daemon_pids()[0] for node in nodes]
        daemons_cpu_s = sum(threads_cpu_s(pid) for pid in daemons)
        seals_cpu_s = sum(threads_cpu_s(pid, name=_SEALING_THREAD) for pid in daemons)
        status = [node.keeper.status(node.mount) for node in nodes]
        caches = [one["cache"] or {} for one in status]
        return _Costs(
            nas_bytes=sum(int(one["stats"]["nfs"]["bytes_read"]) for one in status),
            workers_bytes=sum(int(one.get("workers_bytes", 0)) for one in caches),
            refused=sum(int(one.get("workers_refused", 0)) for one in caches),
            daemons_cpu_s=daemons_cpu_s,
            seals_cpu_s=seals_cpu_s,
            workers_cpu_s=sum(cpu_s(worker.pid) for worker in workers),
            nas_cpu_s=self.site.nas.cpu_s(),
        )


def judge_slow_nas(case: Case) -> None:
    """Adds its gates."""
    of_link = case.median("second node", "mb_per_s") * 8 / LINK_MBIT
    from_nas = case.median("second node", "nas_part")
    case.gates += [
        Gate(text="the second node's part of its link", value=of_link, limit=0.9),
        Gate(text="part that it had from the NAS", value=from_nas, limit=0.01, at_most=True),
    ]


def judge_free_links(case: Case, *, seal_cpu_s: float) -> None:
    """Adds its gates; `seal_cpu_s`: of the seal of a GiB alone."""
    into_memory = statistics.median(
        (one.daemons_cpu_s - one.seals_cpu_s) * GIB / one.bytes for one in case.readings["first node"]
    )
    cpu, by_tls = (case.median(name, "cpu_s_per_gib") for name in ("second node", "second node, TLS"))
    bare = statistics.median(one.cpu_s_per_gib for one in case.bare)
    case.notes.append(
        f"CPU seconds per GiB: second node {cpu:.2f}, by TLS {by_tls:.2f}; first node without the thread that seals "
        f"{into_memory:.2f}; bare client {bare:.2f}; the seal alone, by `openssl speed`, {seal_cpu_s:.2f}"
    )
    times = case.median("second node", "seconds") / case.median("first node", "seconds")
    text = "CPU per GiB from a worker, to 1.3 times that from the NAS into memory and the seal"
    case.gates += [
        Gate(text="the second node's time to the first's", value=times, limit=0.63, at_most=True),
        Gate(text=text, value=cpu / (1.3 * into_memory + seal_cpu_s), limit=1, at_most=True),
        Gate(text="processors per GB/s from a worker", value=cpu / GIB * 1e9, limit=1, at_most=True),
    ]


def judge_crowds(case: Case) -> None:
    """Adds its gates. With short links, blocks of one node are late for another: that each comes once is aimed at."""

    def median(what: str, count: int, figure: str, *, link_mbit: int = SHORT_LINK_MBIT) -> float:
        return case.median(crowd(count, what, link_mbit), figure)

    rates = {count: median("full workers", count, "mb_per_s") for count in CROWDS}
    ideal = {count: count * count / (count - 1) * SHORT_LINK_MBIT / 8 for count in CROWDS}
    case.notes.append(
        f"all nodes together, full workers, links {SHORT_LINK_MBIT // 8} MB/s: "
        + ", ".join(f"{count} nodes {rate:,.0f} of {ideal[count]:,.0f} MB/s" for count, rate in rates.items())
    )
    for link_mbit in (LINK_MBIT, SHORT_LINK_MBIT):
        for count in CROWDS:
            times = median("empty workers", count, "nas_part", link_mbit=link_mbit) * count
            text = f"times that {count} nodes had each block from the NAS, links {link_mbit // 8} MB/s"
            is_short = link_mbit == SHORT_LINK_MBIT
            case.gates.append(Gate(text=text, value=times, limit=1.2, at_most=True, only_aimed_at=is_short))
    for fewer, more in itertools.pairwise(CROWDS):
        text = f"throughput of {more} nodes to {fewer}"
        case.gates.append(Gate(text=text, value=rates[more] / rates[fewer], limit=_GROWTH_MIN))


def crowd(count: int, what: str, link_mbit: int) -> str:
    """The name of a contender."""
    return f"{count} nodes, {what}, links {link_mbit // 8} MB/s"


@dataclass(frozen=True, kw_only=True)
class _Costs:
    """So far, or between two moments; as in :class:`Reading`."""

    nas_bytes: int
    workers_bytes: int
    refused: int
    daemons_cpu_s: float
    seals_cpu_s: float
    workers_cpu_s: float
    nas_cpu_s: float

    def __sub__(self, earlier: _Costs) -> _Costs:
        return _Costs(**{each.name: getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)})


def _make_large_file(path: Path, size: int) -> None:
    """No two blocks alike."""
    block = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8) + block[8:])


def _make_small_files(folder: Path, count: int) -> None:
    """Of sizes from SMALL_MIN to SMALL_MAX, as many between 8 and 16 KiB as between 16 and 32."""
    block = os.urandom(SMALL_MAX + count)
    for number in range(count):
        size = int(SMALL_MIN * (SMALL_MAX / SMALL_MIN) ** ((number * 0.618034) % 1))
        path = folder / f"{number // SMALL_PER_DIRECTORY:04}" / f"{number % SMALL_PER_DIRECTORY:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(block[number : number + size])


def _seal_cpu_s_per_gib() -> float:
    """AES-256-GCM on blocks of 1 MiB, in CPU seconds per GiB, by another library than the daemon's."""
    command = ("openssl", "speed", "-seconds", "2", "-evp", "aes-256-gcm", "-bytes", str(MIB), "-mr")
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    rate = re.search(r"^\+F:.*:([0-9.]+)$", done.stdout, re.MULTILINE)
    assert rate is not None, done.stdout
    return GIB / float(rate[1])


@contextmanager
def workshop(*, sizes: Sizes, rounds: int, console: Console) -> Iterator[Bench]:
    """Builds the programs, and the data in memory, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="efc-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        programs = Programs.build(folder)
        data = folder / "data"
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90%,mode=755", "efc-bench", data], check=True, timeout=60)
        stack.callback(lambda: subprocess.run(["umount", data], check=True, timeout=60))
        _make_large_file(data / "big", sizes.data_bytes)
        site = stack.enter_context(Site.made(exports=[Export(path=data)]))
        bench = Bench(site=site, programs=programs, sizes=sizes, rounds=rounds, console=console)
        bench.rest()
        yield bench


CASES: dict[str, Callable[[Bench], Case]] = {
    "slow NAS": Bench.slow_nas,
    "free links": Bench.free_links,
    "nodes at once": Bench.crowds,
    "small files": Bench.small_files,
}


def measure(*, sizes: Sizes, rounds: int, only: str, console: Console) -> list[Case]:
    """The cases with `only` in their names."""
    chosen = [case for name, case in CASES.items() if only in name]
    if not chosen:
        return []
    console.print(f"Building the programs and {sizes.data_bytes / GIB:g} GiB of data")
    with workshop(sizes=sizes, rounds=rounds, console=console) as bench:
        return [case(bench) for case in chosen]


def show(cases: Sequence[Case], console: Console) -> None:
    """The table of all cases."""
    table = Table(title="Nodes: medians; CPU in seconds per GiB; fresh mounts, the NAS's data in memory")
    cpu_of = ("daemon", "of it seals", "reader", "workers", "NAS")
    headings = ("case", "contender", "MB/s", "files/s", "from the NAS", *cpu_of, "busy")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for case in cases:
        for number, (contender, readings) in enumerate(case.readings.items()):
            cpu = [
                statistics.median(getattr(one, f"{who}_cpu_s") * GIB / one.bytes for one in readings)
                for who in ("daemons", "seals", "readers", "workers", "nas")
            ]
            table.add_row(
                "" if number else case.name, contender, f"{case.median(contender, 'mb_per_s'):,.0f}",
                f"{case.median(contender, 'files_per_s'):,.0f}", f"{case.median(contender, 'nas_part'):.1%}",
                *(f"{value:.2f}" for value in cpu), f"{case.median(contender, 'busy'):.0%}",
            )  # fmt: skip
        table.add_section()
    console.print(table)
    for case in cases:
        for note in case.notes:
            console.print(f"{case.name}: {note}", soft_wrap=True)
