"""What is counted on a client of NFS, in a directory: operations on names, attributes and data.

An operation's load is a generator that yields `BEGIN` where what counts begins, and the number of repetitions where it
ends; what it does before that prepares it. It runs in a directory of its own: empty and just made by this node
(`OWN`), or with `OTHERS` entries that another node made and this one has neither listed nor looked up (`FOREIGN`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BEGIN = 0
OWN, FOREIGN = "own", "foreign"
#: Entries of a foreign directory: files, of which the first have 4 KiB.
OTHERS, OTHERS_WITH_DATA = 1000, 100
#: Repetitions of an operation.
REPETITIONS = 100
#: No client trusts an attribute of something that has just changed for longer, with default options.
EXPIRED_S = 3.5
_BLOCK = b"x" * 4096
_LISTED = 400

Load = Callable[[str], Iterator[int]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation. With `expires` names and attributes are trusted as by default, otherwise longer than it runs."""

    name: str
    load: Load
    places: tuple[str, ...] = (OWN, FOREIGN)
    expires: bool = False


def make_foreign(folder: Path) -> None:
    """Fills a directory on the server itself."""
    folder.mkdir()
    for number in range(OTHERS):
        (folder / f"{number:05}").write_bytes(_BLOCK if number < OTHERS_WITH_DATA else b"")


def _write(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(_BLOCK)


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _read(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        assert len(file.read(len(_BLOCK))) == len(_BLOCK)


def _new(make: Callable[[str], None]) -> Load:
    """Something is made under each of new names."""

    def load(folder: str) -> Iterator[int]:
        yield BEGIN
        for number in range(REPETITIONS):
            make(f"{folder}/new-{number}")
        yield REPETITIONS

    return load


def _just_made(
    act: Callable[[str], object], *, make: Callable[[str], None] = _write, first: Callable[[str], object] | None = None
) -> Load:
    """Something is done with what this node has just made, and has done `first` with."""

    def load(folder: str) -> Iterator[int]:
        paths = [f"{folder}/made-{number}" for number in range(REPETITIONS)]
        for path in paths:
            make(path)
            if first is not None:
                first(path)
        yield BEGIN
        for path in paths:
            act(path)
        yield REPETITIONS

    return load


def _of_others(act: Callable[[str], object], *, first: Callable[[str], object] | None = None) -> Load:
    """Something is done with what another node has made, after this one has done `first` with it."""

    def load(folder: str) -> Iterator[int]:
        paths = [f"{folder}/{number:05}" for number in range(REPETITIONS)]
        if first is not None:
            for path in paths:
                first(path)
        yield BEGIN
        for path in paths:
            act(path)
        yield REPETITIONS

    return load


def _through_one_open(size: int, count: int, *, mode: str = "wb", sync_each: bool = False) -> Load:
    """Writes in sequence, synced each or not, and the close."""

    def load(folder: str) -> Iterator[int]:
        file = open(f"{folder}/through-one-open", mode, buffering=0)  # noqa: SIM115 -- its close is counted
        yield BEGIN
        for _ in range(count):
            file.write(_BLOCK[:size])
            if sync_each:
                os.fsync(file.fileno())
        file.close()
        yield count

    return load


def _write_and_read_in_turn(folder: str) -> Iterator[int]:
    count = 5 * REPETITIONS
    file = open(f"{folder}/in-turn", "w+b", buffering=0)  # noqa: SIM115 -- its close is counted
    yield BEGIN
    for number in range(count):
        os.pwrite(file.fileno(), _BLOCK, number * len(_BLOCK))
        assert os.pread(file.fileno(), len(_BLOCK), number * len(_BLOCK)) == _BLOCK
    file.close()
    yield count


def _list(folder: str) -> int:
    """As `ls -l` does: how many entries."""
    with os.scandir(folder) as entries:
        return len([entry.stat(follow_symlinks=False) for entry in entries])


def _listing(*, before: int = 0, after_s: float = 0) -> Load:
    """One listing with attributes is one operation, after so many others."""

    def load(folder: str) -> Iterator[int]:
        if not folder.endswith(FOREIGN):
            for number in range(_LISTED):
                _create(f"{folder}/made-{number}")
        for _ in range(before):
            _list(folder)
        time.sleep(after_s)
        yield BEGIN
        _list(folder)
        yield 1

    return load


def _remove_tree(folder: str) -> Iterator[int]:
    count = OTHERS + 1
    if not folder.endswith(FOREIGN):
        for number in range(_LISTED):
            _create(f"{folder}/made-{number}")
        count = _LISTED + 1
    yield BEGIN
    shutil.rmtree(folder)
    yield count


OPERATIONS = (
    Operation(name="create, write 4 KiB, close", load=_new(_write)),
    Operation(name="create O_EXCL", load=_new(_create)),
    Operation(name="mkdir", load=_new(os.mkdir)),
    Operation(name="rmdir", load=_just_made(os.rmdir, make=os.mkdir)),
    Operation(name="symlink", load=_new(lambda path: os.symlink("target", path))),
    Operation(name="link", load=_just_made(lambda path: os.link(path, f"{path}-link"))),
    Operation(name="rename", load=_just_made(lambda path: os.rename(path, f"{path}-new"))),
    Operation(name="unlink", load=_just_made(os.unlink)),
    Operation(name="chmod", load=_just_made(lambda path: os.chmod(path, 0o600))),
    Operation(name="stat", load=_just_made(os.stat)),
    Operation(name="open, read 4 KiB, close: first", load=_just_made(_read)),
    Operation(name="open, read 4 KiB, close: again", load=_just_made(_read, first=_read)),
    Operation(name="append 100 B through one open", load=_through_one_open(100, 5 * REPETITIONS, mode="ab")),
    Operation(name="write 4 KiB through one open", load=_through_one_open(4096, 5 * REPETITIONS)),
    Operation(name="write 4 KiB + fsync", load=_through_one_open(4096, REPETITIONS, sync_each=True)),
    Operation(name="write and read 4 KiB in turn", load=_write_and_read_in_turn),
    Operation(name="ls -l: cold", load=_listing(), expires=True),
    Operation(name="ls -l: at once again", load=_listing(before=1), expires=True),
    Operation(name="ls -l: after 3.5 s", load=_listing(before=1, after_s=EXPIRED_S), expires=True),
    Operation(name="rm -r, per entry", load=_remove_tree),
    Operation(name="stat of another node's", load=_of_others(os.stat), places=(FOREIGN,)),
    Operation(name="chmod of another node's", load=_of_others(lambda path: os.chmod(path, 0o600)), places=(FOREIGN,)),
    Operation(
        name="rename of another node's", load=_of_others(lambda path: os.rename(path, f"{path}-new")), places=(FOREIGN,)
    ),
    Operation(
        name="link to another node's", load=_of_others(lambda path: os.link(path, f"{path}-link")), places=(FOREIGN,)
    ),
    Operation(name="unlink of another node's", load=_of_others(os.unlink), places=(FOREIGN,)),
    Operation(name="open, read 4 KiB, close of another node's: first", load=_of_others(_read), places=(FOREIGN,)),
    Operation(
        name="open, read 4 KiB, close of another node's: again", load=_of_others(_read, first=_read), places=(FOREIGN,)
    ),
)
