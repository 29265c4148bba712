"""The rows of the benchmark: the one table of what is done on every contender, and of what each of them is.

A row is a *load*: a generator that runs in a process of its own, in a folder of the contender, and yields `BEGIN` where
what counts begins and the number of its operations where that ends, both as often as it likes. What it does in between
is not counted. A new row is a load in the module of its family and a line in that family's `ROWS`; then
`make bench-baseline ONLY=NAME` writes its figures beside the others.

How often something is done is chosen so that counts say the same on a busy machine as on a quiet one: what must still
be known (names and attributes, for a second) is made in small batches right before it is used, and what must not be
known any more was never seen by this mount, or is older than `EXPIRED_S`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

BEGIN = 0
KIB, MIB = 1 << 10, 1 << 20
#: No client trusts attributes or names for longer without asking: neither ours (1 s) nor the kernel's (3 s).
EXPIRED_S = 3.5

Load = Callable[[], Iterator[int]]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a contender's rate is to another's at least, or its CPU at most, but for the noise."""

    rate: float = 0.0
    cpu: float = 0.0  # of daemon and load together
    of: str = "mount"
    to: str = "mount, write-behind=0s"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row. Its mount is a fresh one in every round: cold is what the load has not touched before it begins."""

    name: str
    load: Load
    state: str  # of the client when what counts begins, for people
    unit: str = "operation"
    data: str = ""  # of DATA: made once, the load runs in it and changes nothing; a fresh folder of its own otherwise
    beside: str = ""  # more of DATA, in a folder of that name beside it
    on_server: Callable[[Path], None] | None = None  # fills that fresh folder, natively: what another node has made
    kills_daemon: bool = False  # before each begin; for mounts that have one
    once: bool = False  # one round tells its counts, and more would take long
    promises: tuple[Promise, ...] = ()  # beside counts and CPU, which every row has


def fill(folder: Path, *, count: int, size: int = 0) -> None:
    """Files named by numbers of five digits, of random bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    block = os.urandom(size)
    for number in range(count):
        (folder / f"{number:05}").write_bytes(block)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Data that rows share: folders of files of one size."""

    files: int
    size: int = 0
    folders: tuple[str, ...] = field(default=(".",))

    def make(self, folder: Path) -> None:
        """Makes them in `folder` on the server."""
        for name in self.folders:
            fill(folder / name, count=self.files, size=self.size)


def numbered(count: int) -> tuple[str, ...]:
    """Names of folders."""
    return tuple(f"{number:03}" for number in range(count))


DATA = {
    "one file of 256 MiB": Data(files=1, size=256 * MIB),
    "a tree of 2,000 files of 4 KiB": Data(files=100, size=4 * KIB, folders=numbered(20)),
    "300 files of 4 KiB": Data(files=300, size=4 * KIB),
    "10,000 entries": Data(files=10_000),
    "400 entries": Data(files=400),
    "16 files of 4 MiB": Data(files=16, size=4 * MIB),
    "150,000 files": Data(files=1000, folders=numbered(150)),
}


def families() -> dict[str, tuple[Row, ...]]:
    """All rows, by family."""
    from bench import names, programs, reads, reopening, writes

    return {
        "reads": reads.ROWS, "writes": writes.ROWS, "names": names.ROWS, "programs": programs.ROWS,
        "reopening": reopening.ROWS,
    }  # fmt: skip
