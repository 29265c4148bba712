"""Rows of names and attributes: what costs no data."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.rows import BEGIN, EXPIRED_S, KIB, Load, Row, fill, numbered

#: Files that are made right before something is done with them, and how often that is repeated.
_BATCH, _BATCHES = 20, 25


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _open_close(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _new(make: Callable[[str], None]) -> Load:
    """Something is made under each of 500 names."""

    def load() -> Iterator[int]:
        yield BEGIN
        for number in range(_BATCH * _BATCHES):
            make(f"new-{number}")
        yield _BATCH * _BATCHES

    return load


def _just_made(act: Callable[[str], None], *, make: Callable[[str], None] = _create) -> Load:
    """Something is done with what was just made."""

    def load() -> Iterator[int]:
        for batch in range(_BATCHES):
            paths = [f"{batch}-{number}" for number in range(_BATCH)]
            for path in paths:
                make(path)
            yield BEGIN
            for path in paths:
                act(path)
            yield _BATCH

    return load


def _each_of_tree(act: Callable[[str], object]) -> Load:
    """Each file of a tree by its path, which is known without a listing."""

    def load() -> Iterator[int]:
        paths = [f"{folder}/{number:05}" for folder in numbered(20) for number in range(100)]
        yield BEGIN
        for path in paths:
            act(path)
        yield len(paths)

    return load


def each_again(act: Callable[[str], object], *, batch: int = _BATCH, after_s: float = 0) -> Load:
    """Each of 300 files a second time: at once, in batches, or when nothing is trusted any more."""

    def load() -> Iterator[int]:
        for first in range(0, 300, batch):
            paths = [f"{number:05}" for number in range(first, first + batch)]
            for path in paths:
                act(path)
            time.sleep(after_s)
            yield BEGIN
            for path in paths:
                act(path)
            yield batch

    return load


def _list(*, long: bool) -> int:
    """How many entries: their names as `find` does, or with attributes as `ls -l` does."""
    count = 0
    with os.scandir(".") as entries:
        for entry in entries:
            if long:
                entry.stat(follow_symlinks=False)
            count += 1
    return count


def _listing(*, long: bool, before: int = 0, after_s: float = 0) -> Load:
    """One listing is one operation, after so many others."""

    def load() -> Iterator[int]:
        for _ in range(before):
            _list(long=long)
        time.sleep(after_s)
        yield BEGIN
        _list(long=long)
        yield 1

    return load


def _remove_tree() -> Iterator[int]:
    yield BEGIN
    shutil.rmtree("tree")
    yield 1 + 10 + 10 * 50


def _tree_on_server(folder: Path) -> None:
    for name in numbered(10):
        fill(folder / "tree" / name, count=50, size=4 * KIB)


_NEW, _MADE = "in a folder just made, empty", "just made"
_EXPIRED = f"known for {EXPIRED_S} s"
_TREE, _FEW, _LONG, _SHORT = "a tree of 2,000 files of 4 KiB", "300 files of 4 KiB", "10,000 entries", "400 entries"
ROWS = (
    Row(name="create O_EXCL", load=_new(_create), state=_NEW),
    Row(name="mkdir", load=_new(os.mkdir), state=_NEW),
    Row(name="symlink", load=_new(lambda path: os.symlink("target", path)), state=_NEW),
    Row(name="link", load=_just_made(lambda path: os.link(path, f"{path}-link")), state=_MADE),
    Row(name="rename", load=_just_made(lambda path: os.rename(path, f"{path}-new")), state=_MADE),
    Row(name="chmod", load=_just_made(lambda path: os.chmod(path, 0o600)), state=_MADE),
    Row(name="stat", load=_just_made(lambda path: os.stat(path) and None), state=_MADE),
    Row(name="unlink", load=_just_made(os.unlink), state=_MADE),
    Row(name="rmdir", load=_just_made(os.rmdir, make=os.mkdir), state=_MADE),
    Row(name="rm -r, per entry", load=_remove_tree, state="cold", unit="entry", on_server=_tree_on_server),
    Row(name="stat of a tree", load=_each_of_tree(os.stat), state="cold", unit="file", data=_TREE),
    Row(name="stat of 300 files, at once again", load=each_again(os.stat), state="just asked", unit="file", data=_FEW),
    Row(
        name="stat of 300 files, after 3.5 s", load=each_again(os.stat, batch=300, after_s=EXPIRED_S), state=_EXPIRED,
        unit="file", data=_FEW,
    ),
    Row(name="open, close", load=_each_of_tree(_open_close), state="cold", unit="file", data=_TREE),
    Row(name="open, close: again", load=each_again(_open_close), state="just opened", unit="file", data=_FEW),
    Row(name="find in 10,000 entries", load=_listing(long=False), state="cold", unit="listing", data=_LONG),
    Row(name="ls -l of 10,000 entries", load=_listing(long=True), state="cold", unit="listing", data=_LONG),
    Row(name="ls -l of 400 entries", load=_listing(long=True), state="cold", unit="listing", data=_SHORT),
    Row(
        name="ls -l of 400 entries, at once again", load=_listing(long=True, before=1), state="just listed",
        unit="listing", data=_SHORT,
    ),
    Row(
        name="ls -l of 400 entries, after 3.5 s", load=_listing(long=True, before=1, after_s=EXPIRED_S),
        state=_EXPIRED, unit="listing", data=_SHORT,
    ),
)  # fmt: skip
