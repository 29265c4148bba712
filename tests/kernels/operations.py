"""What is counted on a client of NFS, in a directory: operations on names, attributes and data.

An operation's load is a generator that yields `BEGIN` where what counts begins, and the number of repetitions where it
ends; what it does before that prepares it. It runs in a directory that is empty and was just made by this node (`OWN`),
or in one of `OTHERS` entries that another node made and this one has not listed (`FOREIGN`), under names of its own.
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
OTHERS, OTHERS_WITH_DATA = 1000, 500
#: Of an operation.
REPETITIONS = 50
#: No client trusts an attribute of something that has just changed for longer, with default options. Linux trusts one
#: the longer the older it is, so its calls after that depend on how long it took to make the files.
EXPIRED_S = 3.5
_BLOCK = b"x" * 4096
#: Files that this node makes in a directory of its own, to list or to remove them.
_LISTED, _REMOVED = 400, 200


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an operation runs: a directory, in there a prefix of its names, and another node's files that are its."""

    folder: str
    prefix: str = ""
    others: tuple[str, ...] = ()
    is_own: bool = False

    def new(self) -> list[str]:
        """Paths of what is to be made."""
        return [f"{self.folder}/{self.prefix}-{number}" for number in range(REPETITIONS)]


Load = Callable[[Place], Iterator[int]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation.

    With `expires` names and attributes are trusted as by default, otherwise for longer than it runs. Those of one
    `folder` share it, in the order of the table; in OWN the others have one each.
    """

    name: str
    load: Load
    places: tuple[str, ...] = (OWN, FOREIGN)
    expires: bool = False
    folder: str = "names"


def make_foreign(folder: Path) -> None:
    """Fills a directory on the server itself."""
    folder.mkdir()
    for number in range(OTHERS):
        file = os.open(folder / other(number), os.O_CREAT | os.O_WRONLY, 0o644)
        if number < OTHERS_WITH_DATA:
            os.write(file, _BLOCK)
        os.close(file)


def other(number: int) -> str:
    """The name of another node's file."""
    return f"other-{number:04}"


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

    def load(place: Place) -> Iterator[int]:
        yield BEGIN
        for path in place.new():
            make(path)
        yield REPETITIONS

    return load


def _just_made(
    act: Callable[[str], object], *, make: Callable[[str], None] = _write, first: Callable[[str], object] | None = None
) -> Load:
    """Something is done with what this node has just made, and has done `first` with."""

    def load(place: Place) -> Iterator[int]:
        for path in place.new():
            make(path)
            if first is not None:
                first(path)
        yield BEGIN
        for path in place.new():
            act(path)
        yield REPETITIONS

    return load


def _of_others(act: Callable[[str], object], *, first: Callable[[str], object] | None = None) -> Load:
    """Something is done with what another node has made, after this one has done `first` with it."""

    def load(place: Place) -> Iterator[int]:
        paths = [f"{place.folder}/{name}" for name in place.others]
        if first is not None:
            for path in paths:
                first(path)
        yield BEGIN
        for path in paths:
            act(path)
        yield len(paths)

    return load


def _through_one_open(size: int, count: int, *, mode: str = "wb", sync_each: bool = False) -> Load:
    """Writes in sequence, synced each or not, and the close."""

    def load(place: Place) -> Iterator[int]:
        file = open(place.new()[0], mode, buffering=0)  # noqa: SIM115 -- its close is counted
        yield BEGIN
        for _ in range(count):
            file.write(_BLOCK[:size])
            if sync_each:
                os.fsync(file.fileno())
        file.close()
        yield count

    return load


def _write_and_read_in_turn(place: Place) -> Iterator[int]:
    count = 5 * REPETITIONS
    file = open(place.new()[0], "w+b", buffering=0)  # noqa: SIM115 -- its close is counted
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


def _listing(*, makes: bool = False, before: int = 0, after_s: float = 0) -> Load:
    """One listing with attributes is one operation, after so many others; `makes` files first, where there are none."""

    def load(place: Place) -> Iterator[int]:
        if makes and place.is_own:
            for number in range(_LISTED):
                _create(f"{place.folder}/{number}")
        for _ in range(before):
            _list(place.folder)
        time.sleep(after_s)
        yield BEGIN
        _list(place.folder)
        yield 1

    return load


def _remove_tree(place: Place) -> Iterator[int]:
    if place.is_own:
        for number in range(_REMOVED):
            _create(f"{place.folder}/{number}")
    yield BEGIN
    shutil.rmtree(place.folder)
    yield 1 + (_REMOVED if place.is_own else OTHERS)


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
    Operation(name="rm -r, per entry", load=_remove_tree, folder="removed"),
    Operation(name="stat, another node's", load=_of_others(os.stat), places=(FOREIGN,)),
    Operation(name="chmod, another node's", load=_of_others(lambda path: os.chmod(path, 0o600)), places=(FOREIGN,)),
    Operation(
        name="rename, another node's", load=_of_others(lambda path: os.rename(path, f"{path}-new")), places=(FOREIGN,)
    ),
    Operation(
        name="link, another node's", load=_of_others(lambda path: os.link(path, f"{path}-link")), places=(FOREIGN,)
    ),
    Operation(name="unlink, another node's", load=_of_others(os.unlink), places=(FOREIGN,)),
    Operation(name="open, read 4 KiB, close, another node's: first", load=_of_others(_read), places=(FOREIGN,)),
    Operation(
        name="open, read 4 KiB, close, another node's: again", load=_of_others(_read, first=_read), places=(FOREIGN,)
    ),
    Operation(name="ls -l: cold", load=_listing(makes=True), folder="listed"),
    Operation(name="ls -l: at once again", load=_listing(before=1), folder="listed"),
    Operation(
        name="ls -l: after 3.5 s", load=_listing(makes=True, before=1, after_s=EXPIRED_S), expires=True, folder="listed"
    ),
)  # fmt: skip
