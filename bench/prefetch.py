"""What asking ahead for small files gives: `python -m bench prefetch`, 1 ms of round trip from the NAS, one reader.

Beside the mount stand the same mount with `prefetch=off`, and a client that asks for one file after the other, LOOKUP
and READ, and caches nothing. Contenders take turns in each round; figures are medians. The kernel has no page of any
file: a fresh mount, or a reader that lets go of what it has read.

Gated are ratios to that client, and how much was asked for in vain.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.bare import BARE, Case, Gate
from bench.clients import MOUNT, ROUND_TRIP_US
from bench.runs import Programs, Round, run_bare, run_reader
from tests.support.delay import delayed
from tests.support.keeper import Keeper
from tests.support.nas import Export, Nas

DIRECTORIES, FILES_PER_DIRECTORY, FILE_BYTES = 100, 100, 4096
OFF = "mount, prefetch=off"
BOUNDED, SEALED = ("consistency=bounded",), ("consistency=sealed",)
#: A file that was changed less than so long ago may change again without another version.
_SETTLED_S = 3.0
#: Nothing that was asked for within the time of `bounded` is relied on after it.
_EXPIRED_S = 3.5
#: When what nobody has opened is known to have been asked for in vain.
_OUTCOME_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A mount that stays, and who reads through it."""

    programs: Programs
    keeper: Keeper
    mount: Path
    names: Path

    def visit(self, command: str, seed: int) -> Round:
        """Reads all files once, at random."""
        line = (self.programs.reader, command, self.names, self.mount / "small", str(seed))
        return run_reader(line, self.mount, keeper=self.keeper)

    def outcomes(self) -> dict[str, int]:
        """Of what was asked for ahead so far."""
        found = self.keeper.status(self.mount)["stats"]["prefetch"]
        return {
            outcome: sum(int(found[f"{reason}_{outcome}"]) for reason in ("order", "directory"))
            for outcome in ("asked", "used", "wasted")
        }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cases work with."""

    programs: Programs
    url: str
    data: Path
    rounds: int
    console: Console

    def in_order(self) -> Case:
        """Each directory is listed, and its files are read in that order: nothing is known before."""
        reader = self.programs.reader

        def walk(*options: str) -> Round:
            with Keeper() as keeper, keeper.mounted(self.url, options=(*BOUNDED, *options)) as mount:
                return run_reader((reader, "walk", mount / "small"), mount, keeper=keeper)

        runs: dict[str, Callable[[], Round]] = {
            BARE: self._read_one_by_one,
            OFF: lambda: walk("prefetch=off"),
            MOUNT: walk,
        }
        case = self._run("first pass in the order of the listing, bounded", runs)
        case.gates.append(Gate(text="files/s to one by one", value=case.ratio(), limit=8))
        return case

    def at_random(self) -> Case:
        """One directory after the other, its files at random: later visits, when all has to be validated again."""
        return self._again("second visit, each directory at random, bounded", "shuffled", BOUNDED, pause_s=_EXPIRED_S)

    def mixed(self) -> Case:
        """All files of all directories in one random order: the second and later visits."""
        return self._again("second visit, all files at random, sealed", "mixed", SEALED, pause_s=0)

    # ------------------------------------------------------------ inside

    def _again(self, name: str, command: str, options: Sequence[str], *, pause_s: float) -> Case:
        with ExitStack() as stack:
            readers = {OFF: self._reader(stack, *options, "prefetch=off"), MOUNT: self._reader(stack, *options)}
            seeds = itertools.count(1)
            for reader in readers.values():
                reader.visit(command, next(seeds))
            before = readers[MOUNT].outcomes()

            def visit(reader: Reader) -> Round:
                time.sleep(pause_s)
                return reader.visit(command, next(seeds))

            runs: dict[str, Callable[[], Round]] = {BARE: self._read_one_by_one}
            runs |= {contender: partial(visit, reader) for contender, reader in readers.items()}
            case = self._run(name, runs)
            time.sleep(_OUTCOME_S)
            now = readers[MOUNT].outcomes()
        asked, wasted = (now[outcome] - before[outcome] for outcome in ("asked", "wasted"))
        case.gates += [
            Gate(text="files/s to one by one", value=case.ratio(), limit=3),
            Gate(text="asked for in vain, of what was asked for ahead", value=wasted / asked, limit=0.1, at_most=True),
        ]
        return case

    def _read_one_by_one(self) -> Round:
        return run_bare(self.programs, "small", self.url, "small")

    def _reader(self, stack: ExitStack, *options: str) -> Reader:
        keeper = stack.enter_context(Keeper())
        mount = stack.enter_context(keeper.mounted(self.url, options=options))
        return Reader(programs=self.programs, keeper=keeper, mount=mount, names=self.data / "small")

    def _run(self, name: str, runs: dict[str, Callable[[], Round]]) -> Case:
        return Case.run(name, figure="files_per_s", runs=runs, rounds=self.rounds, console=self.console)


CASES: dict[str, Callable[[Bench], Case]] = {
    "in order": Bench.in_order,
    "at random": Bench.at_random,
    "mixed": Bench.mixed,
}


def measure(*, rounds: int, only: str, console: Console, directories: int = DIRECTORIES) -> list[Case]:
    """The cases with `only` in their names."""
    chosen = [case for name, case in CASES.items() if only in name]
    if not chosen:
        return []
    with workshop(rounds=rounds, console=console, directories=directories) as bench:
        return [case(bench) for case in chosen]


@contextmanager
def workshop(*, rounds: int, console: Console, directories: int) -> Iterator[Bench]:
    """The programs, and the files at a NAS that is a round trip away, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="efc-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        programs = Programs.build(folder)
        data = folder / "data"
        make_data(data, directories)
        nas = stack.enter_context(Nas(exports=[Export(path=data)]))
        port = stack.enter_context(delayed(nas.port, round_trip_us=ROUND_TRIP_US))
        time.sleep(_SETTLED_S)
        url = nas.url_of(nas.exports[0].name, port=port)
        yield Bench(programs=programs, url=url, data=data, rounds=rounds, console=console)


def make_data(folder: Path, directories: int) -> None:
    """Many small files."""
    block = os.urandom(FILE_BYTES + FILES_PER_DIRECTORY)
    for directory in range(directories):
        path = folder / "small" / f"{directory:03}"
        path.mkdir(parents=True)
        for number in range(FILES_PER_DIRECTORY):
            (path / f"{number:03}").write_bytes(block[number : number + FILE_BYTES])
