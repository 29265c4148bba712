"""What a local store gives a node's second reader: `python -m bench stores`, beside the same files on its own disk.

The NAS has its data in memory. What is read a second time is read through a mount that has read all of it before, with
no page of the file in the kernel, neither the mount's nor, on a disk, the store's; so from a disk it is the disk that
is compared. A file of `native` lies on that disk. Contenders take turns in each round; figures are medians.

Gated are ratios and counts: what the second reading had from the NAS, and its rate to native.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.bare import Case, Gate, unit
from bench.clients import NATIVE
from bench.runs import Programs, Round, memory_kib_max, nfs_calls, run_mount, run_native
from tests.support.delay import delayed
from tests.support.keeper import Keeper
from tests.support.mounts import small_disk
from tests.support.nas import Export, Nas
from tests.support.processes import awake_processors, cpu_s

MIB = 1 << 20
UNCACHED = "mount, no store"
ON_DISK, IN_PAGES, ON_TMPFS = "store on the disk", "store on the disk, in its page cache", "store on a tmpfs"
SEALED, SMALL_FILES = "store on the disk, sealed", "store on the disk, small-files"
NATIVE_TMPFS = "native tmpfs"
ROUND_TRIP_US = 1000
SMALL_DIRECTORIES, SMALL_PER_DIRECTORY, SMALL_BYTES = 100, 100, 4096
RANDOM_READS, RANDOM_BYTES = 4000, 4096
#: A file that has changed less than ten seconds ago is not kept.
_REST_S = 12.0
_FILLED_LIMIT_S = 300.0
#: A daemon keeps blocks that it has just read for two seconds at most.
_RECENT_S = 2.1
_CLOCK = "clock"


def read_at_random(path: Path) -> Round:
    """Reads of 4 KiB all over the file, by a process that has it open."""
    size = path.stat().st_size
    places = random.Random(1).sample(range(size // RANDOM_BYTES), RANDOM_READS)
    used = resource.getrusage(resource.RUSAGE_SELF)
    with path.open("rb", buffering=0) as file:
        began = time.monotonic()
        for place in places:
            os.pread(file.fileno(), RANDOM_BYTES, place * RANDOM_BYTES)
        seconds = time.monotonic() - began
    now = resource.getrusage(resource.RUSAGE_SELF)
    reader_cpu_s = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return Round(
        seconds=seconds, bytes=RANDOM_READS * RANDOM_BYTES, files=RANDOM_READS, cpu_s=0, reader_cpu_s=reader_cpu_s,
        memory_mib_max=0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A mount with or without a store, of which all was read once."""

    keeper: Keeper
    mount: Path
    programs: Programs
    #: Where its store is, if there are pages of it to be dropped.
    directory: Path | None = None

    def read(self, command: str, path: str) -> Round:
        """Reads once more, as the programs of the benchmark do."""
        self.forget()
        return run_mount(self.programs, command, self.mount, path, keeper=self.keeper)

    def read_at_random(self, path: str) -> Round:
        """The same in small pieces."""
        self.forget()
        drop(self.mount / path)
        (daemon,) = self.keeper.daemon_pids()
        before_s, before_calls = cpu_s(daemon), nfs_calls(self.keeper, self.mount)
        found = read_at_random(self.mount / path)
        return Round(
            seconds=found.seconds, bytes=found.bytes, files=found.files, cpu_s=cpu_s(daemon) - before_s,
            reader_cpu_s=found.reader_cpu_s, memory_mib_max=memory_kib_max(daemon) / 1024,
            nfs_calls=nfs_calls(self.keeper, self.mount) - before_calls,
        )  # fmt: skip

    def forget(self) -> None:
        """The store's files have no pages, and the daemon no block that it has just read."""
        time.sleep(_RECENT_S)
        if self.directory is not None:
            subprocess.run(["sync", "-f", self.directory], check=True, timeout=600)
            for path in self.directory.rglob("*"):
                if path.is_file():
                    drop(path)

    def fill(self, paths: Sequence[str]) -> None:
        """Reads until nothing comes from the NAS any more: not all is kept that is read in a hurry."""
        os.stat(self.mount / _CLOCK)
        end = time.monotonic() + _FILLED_LIMIT_S
        before = -1
        while (now := self._bytes_from_nas()) != before:
            assert time.monotonic() < end, "the store does not fill"
            before = now
            for path in paths:
                for file in files_of(self.mount / path):
                    drop(file)
                    file.read_bytes()
            time.sleep(_RECENT_S)

    def _bytes_from_nas(self) -> int:
        return int(self.keeper.status(self.mount)["stats"]["nfs"]["bytes_read"])


def files_of(path: Path) -> Iterator[Path]:
    """A file, or all beneath a folder."""
    return (file for file in sorted(path.rglob("*")) if file.is_file()) if path.is_dir() else iter([path])


def drop(path: Path) -> None:
    """Lets the kernel's pages of a file go."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cases work with: the data at the NAS, the same on the disk, and two places for stores."""

    programs: Programs
    nas: Nas
    native: Path
    disk: Path
    tmpfs: Path
    size_mib: int
    rounds: int
    console: Console

    def large(self) -> Case:
        """A large file from front to back."""
        with ExitStack() as stack:
            readers = self._readers(stack, ["big"], more={SEALED: ("consistency=sealed",)})
            runs: dict[str, Callable[[], Round]] = {
                NATIVE: self._read_native,
                NATIVE_TMPFS: lambda: run_native(self.programs, "read", self.tmpfs / "big"),
            }
            runs |= {name: _reading(reader, "read", "big") for name, reader in readers.items()}
            case = self._run("second read of a large file", "mb_per_s", runs)
        judge(case, {ON_DISK: 0.5, SEALED: 0.9}, calls_max=50)
        ratio = case.median(ON_TMPFS) / case.median(NATIVE_TMPFS)
        case.gates.append(Gate(text=f"{ON_TMPFS}, to {NATIVE_TMPFS}", value=ratio, limit=0.35))
        return case

    def at_random(self) -> Case:
        """4 KiB at random."""
        with ExitStack() as stack:
            readers = self._readers(stack, ["big"], more={SEALED: ("consistency=sealed",)})
            runs: dict[str, Callable[[], Round]] = {NATIVE: self._read_native_at_random}
            runs |= {name: _reading_at_random(reader, "big") for name, reader in readers.items()}
            case = self._run("4 KiB at random in a file that was read", "files_per_s", runs)
        judge(case, {SEALED: 0.7}, calls_max=50)
        return case

    def small(self, *, is_awake: bool = False) -> Case:
        """10,000 files of 4 KiB, 1 ms from the NAS, in `bounded`, with processors that sleep at each open, or not."""
        name = "10,000 files of 4 KiB, second pass, bounded, 1 ms"
        with ExitStack() as stack:
            port = stack.enter_context(delayed(self.nas.port, round_trip_us=ROUND_TRIP_US))
            url = self.nas.url_of(self.nas.exports[0].name, port=port)
            options = ("consistency=bounded", "attr-ttl=3600s")
            more = {SMALL_FILES: ("ro", "small-files=0:0")}
            readers = self._readers(stack, ["small"], url=url, options=options, more=more)
            runs: dict[str, Callable[[], Round]] = {
                NATIVE: lambda: run_native(self.programs, "small", self.native / "small")
            }
            runs |= {name: _reading(reader, "small", "small") for name, reader in readers.items()}
            if is_awake:
                name += ", processors awake"
                stack.enter_context(awake_processors())
            case = self._run(name, "files_per_s", runs)
        judge(case, {ON_DISK: 0.2, SMALL_FILES: 0.6}, calls_max=500)
        return case

    # ------------------------------------------------------------ inside

    def _run(self, name: str, figure: str, runs: dict[str, Callable[[], Round]]) -> Case:
        return Case.run(name, figure=figure, runs=runs, rounds=self.rounds, console=self.console)

    def _read_native(self) -> Round:
        drop(self.native / "big")
        return run_native(self.programs, "read", self.native / "big")

    def _read_native_at_random(self) -> Round:
        drop(self.native / "big")
        return read_at_random(self.native / "big")

    def _readers(
        self, stack: ExitStack, paths: Sequence[str], *, url: str = "", options: Sequence[str] = (),
        more: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, Reader]:  # fmt: skip
        """All contenders, whose stores are full; ``more`` have a store on the disk and these options besides."""
        wanted = {
            UNCACHED: (None, options), ON_DISK: (self.disk, options), IN_PAGES: (self.disk, options),
            ON_TMPFS: (self.tmpfs, options),
        }  # fmt: skip
        wanted |= {name: (self.disk, (*options, *besides)) for name, besides in (more or {}).items()}
        readers = {}
        for name, (caches, given) in wanted.items():
            store = (f"cache-dir={caches}", f"cache-size={2 * self.size_mib}MiB", "cache-free=1") if caches else ()
            keeper = stack.enter_context(Keeper())
            mount = stack.enter_context(keeper.mounted(url or self.nas.url, options=(*given, *store)))
            found = keeper.status(mount)["store"]
            directory = Path(found["directory"]) if found and caches == self.disk and name != IN_PAGES else None
            readers[name] = Reader(keeper=keeper, mount=mount, programs=self.programs, directory=directory)
            if caches:
                readers[name].fill(paths)
        return readers


def _reading(reader: Reader, command: str, path: str) -> Callable[[], Round]:
    return lambda: reader.read(command, path)


def _reading_at_random(reader: Reader, path: str) -> Callable[[], Round]:
    return lambda: reader.read_at_random(path)


def judge(case: Case, least: dict[str, float], *, calls_max: int) -> None:
    """Adds its gates: rates to native, and calls of the NAS, which validate and give no data.

    A disk is not waited for longer than the NAS would take, so what has to be read from one is not all read there.
    """
    for contender, limit in least.items():
        ratio = case.median(contender) / case.median(NATIVE)
        case.gates.append(Gate(text=f"{contender}, to {NATIVE}", value=ratio, limit=limit))
    for contender in case.contenders:
        if contender in (IN_PAGES, ON_TMPFS, SEALED, SMALL_FILES):
            calls = case.median(contender, "nfs_calls")
            case.gates.append(Gate(text=f"{contender}: calls", value=calls, limit=calls_max, at_most=True))


CASES: dict[str, Callable[[Bench], Case]] = {
    "large": Bench.large, "at random": Bench.at_random, "small": Bench.small,
    "small, awake": partial(Bench.small, is_awake=True),
}  # fmt: skip


def measure(*, size_mib: int, rounds: int, only: str, console: Console) -> list[Case]:
    """The cases with `only` in their names."""
    chosen = [case for name, case in CASES.items() if only in name]
    if not chosen:
        return []
    console.print(f"Building the programs and {size_mib} MiB of data, twice")
    with workshop(size_mib=size_mib, rounds=rounds, console=console) as bench:
        return [case(bench) for case in chosen]


@contextmanager
def workshop(*, size_mib: int, rounds: int, console: Console) -> Iterator[Bench]:
    """The programs, the data in the NAS's memory and on the disk, and places for stores, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="efc-bench-", dir="/var/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        programs = Programs.build(folder)
        places = {place: folder / place for place in ("data", "native", "disk", "tmpfs")}
        for place, path in places.items():
            path.mkdir(mode=0o755)
            if place in ("data", "tmpfs"):
                stack.enter_context(small_disk(path, size_mib=4 * size_mib + 512))
        for place in ("data", "native"):
            make_data(places[place], size_mib=size_mib)
        shutil.copy(places["data"] / "big", places["tmpfs"] / "big")
        subprocess.run(["sync", "-f", places["native"]], check=True, timeout=600)
        nas = stack.enter_context(Nas(exports=[Export(path=places["data"])]))
        time.sleep(_REST_S)
        (places["data"] / _CLOCK).touch()
        yield Bench(
            programs=programs, nas=nas, native=places["native"], disk=places["disk"], tmpfs=places["tmpfs"],
            size_mib=size_mib, rounds=rounds, console=console,
        )  # fmt: skip


def make_data(folder: Path, *, size_mib: int) -> None:
    """A large file, no two blocks of it alike, and many small ones."""
    block = os.urandom(MIB)
    with (folder / "big").open("wb", buffering=0) as file:
        for number in range(size_mib):
            file.write(number.to_bytes(8) + block[8:])
    for directory in range(SMALL_DIRECTORIES):
        (folder / "small" / f"{directory:02}").mkdir(parents=True)
        for number in range(SMALL_PER_DIRECTORY):
            (folder / "small" / f"{directory:02}" / f"{number:03}").write_bytes(block[number : number + SMALL_BYTES])


def show(cases: Sequence[Case], console: Console) -> None:
    """The table of all cases."""
    table = Table(title="Local stores: medians; read before, no page of the file in the kernel", title_justify="left")
    headings = ("case", "contender", "median", "range", "to native", "CPU s", "reader CPU s", "NFS calls")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for case in cases:
        for number, contender in enumerate(case.contenders.values()):
            values = [getattr(one, case.figure) for one in contender.rounds]
            median = contender.median(case.figure)
            table.add_row(
                "" if number else case.name, contender.name, f"{median:,.0f} {unit(case.figure)}",
                f"{min(values):,.0f}-{max(values):,.0f}", f"{median / case.median(NATIVE):.2f}",
                f"{contender.median('cpu_s'):.2f}", f"{contender.median('reader_cpu_s'):.2f}",
                f"{contender.median('nfs_calls'):,.0f}",
            )  # fmt: skip
        table.add_section()
    console.print(table)
