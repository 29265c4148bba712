"""Files that are changed again and again, whose pages say of which change they are; and what readers may find of them.

A page names its file, the number of the change, and its own number, so that whatever a reader gets can be told: which
change it is of, or that nobody has ever written it. Changes are such as are hard to see: of the same size, with the
modification time set back, to a shorter or longer file, by a file of another name, by one made anew.
"""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096
#: What a page says again and again.
_TEXT_BYTES = 32
#: A block of a cache and a part of the next.
SIZE = 1_300_000
_SIZE_MIN = 300_000
_HOUR_NS = 3600 * 10**9


@functools.cache
def _text(file: str, change: int) -> bytes:
    return f"{file:>15} {change:>7} ".encode()


def page(file: str, change: int, number: int) -> bytes:
    """What stands there."""
    return (_text(file, change) + f"{number:>8}".encode()) * (PAGE // _TEXT_BYTES)


def content(file: str, change: int, size: int) -> bytes:
    """All of the file."""
    return b"".join(page(file, change, number) for number in range(-(-size // PAGE)))[:size]


def changes_in(file: str, data: bytes) -> set[int]:
    """Of which changes these pages are; -1 stands for what was never written."""
    found = set()
    for number, place in enumerate(range(0, len(data), PAGE)):
        part = data[place : place + PAGE]
        if len(part) < _TEXT_BYTES and any(part == page(file, change, number)[: len(part)] for change in found):
            continue  # the file ends before this page says of which change it is
        words = part[:_TEXT_BYTES].split()
        change = int(words[1]) if len(words) == 3 and words[1].isdigit() else -1
        if part != page(file, change, number)[: len(part)]:
            change = -1
        found.add(change)
    return found


@dataclass(kw_only=True)
class Changed:
    """A file, by whom it is changed, and what it was when."""

    name: str
    size: int = SIZE
    change: int = 0
    #: When each change was over, by its number.
    over_at: list[float] = field(default_factory=lambda: [0.0])
    #: Since this change its name leads to the same file.
    same_since: int = 0

    @property
    def now(self) -> bytes:
        """What it is."""
        return content(self.name, self.change, self.size)

    def may_be(self, began: float, late_s: float) -> set[int]:
        """The changes that whoever began to read then may meet, if what he is told is so late at most."""
        was_over = [number for number, at in enumerate(self.over_at) if at <= began - late_s]
        return set(range(was_over[-1], self.change + 1))

    def change_in(self, folder: Path, dice: random.Random) -> str:
        """Changes it in some way, which is named."""
        way = dice.choice(WAYS)
        self.change += 1
        self.size = {"shorter": dice.randrange(_SIZE_MIN, SIZE), "longer": SIZE + dice.randrange(SIZE)}.get(
            way.__name__, self.size
        )
        way(folder, self.name, self.now)
        if dice.random() < 0.7:
            os.utime(folder / self.name, ns=(_HOUR_NS, _HOUR_NS))
        self.over_at.append(time.monotonic())
        self.same_since = self.change if way in (replaced, made_anew) else self.same_since
        return way.__name__


def in_place(folder: Path, name: str, data: bytes) -> None:
    """Of the same size."""
    with (folder / name).open("r+b", buffering=0) as file:
        for place in range(0, len(data), 300_000):
            os.pwrite(file.fileno(), data[place : place + 300_000], place)


def shorter(folder: Path, name: str, data: bytes) -> None:
    """Cut first, then written."""
    os.truncate(folder / name, len(data))
    in_place(folder, name, data)


def longer(folder: Path, name: str, data: bytes) -> None:
    """Written beyond its end."""
    in_place(folder, name, data)
    os.truncate(folder / name, len(data))  # it may have been longer still


def replaced(folder: Path, name: str, data: bytes) -> None:
    """By another that is renamed to it."""
    (folder / f".{name}").write_bytes(data)
    (folder / f".{name}").rename(folder / name)


def made_anew(folder: Path, name: str, data: bytes) -> None:
    """Removed, and made again: of the same inode number, as likely as not."""
    (folder / name).unlink()
    (folder / name).write_bytes(data)


WAYS: tuple[Callable[[Path, str, bytes], None], ...] = (in_place, shorter, longer, replaced, made_anew)
