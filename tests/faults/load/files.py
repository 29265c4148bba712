"""Workers with files of their own: nobody else is there."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

from tests.faults.load import digest
from tests.faults.load.worker import Worker

BLOCK = 4096
_NAMES = 40
_SIZE_MAX = 64 << 10
_LIST_EVERY = 25
_SYNC_EVERY = 10


def block_of(number: int) -> bytes:
    """The content of block `number` of a file that is read only: it tells its own place."""
    return b"%015d\n" % number * (BLOCK // 16)


class Reads(Worker):
    """4 KiB past the page cache, again and again."""

    BLOCKS = 64

    def begin(self) -> None:
        self._content = b"".join(block_of(number) for number in range(self.BLOCKS))
        (self.folder / "file").write_bytes(self._content)
        self._file = os.open(self.folder / "file", os.O_RDONLY | os.O_DIRECT)
        self._memory = mmap.mmap(-1, BLOCK)

    def turn(self) -> None:
        number = self.turns % self.BLOCKS
        with self.operation("read"):
            count = os.preadv(self._file, [self._memory], number * BLOCK)
            self.compare(self._memory[:count], block_of(number), f"block {number}")

    def finish(self) -> None:
        os.close(self._file)

    def left(self) -> dict[str, str]:
        return {"file": digest(self._content)}


class Files(Worker):
    """Small files through their whole life, and a log that stays open."""

    def begin(self) -> None:
        self._log = os.open(self.folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        self._names: dict[str, bytes] = {}
        self._random = random.Random(1)  # the same work each time

    def turn(self) -> None:
        with self.operation("write"):
            self._write()
        with self.operation("append"):
            os.write(self._log, self._line(self.turns))
        with self.operation("directory"):
            (self.folder / "directory").mkdir()
            (self.folder / "directory").rmdir()
        if self.turns % _LIST_EVERY == 0:
            with self.operation("list"):
                found = {path.name for path in self.folder.iterdir()} - {"log"}
                assert found == set(self._names), f"listed {found ^ set(self._names)} wrongly"

    def _line(self, turn: int) -> bytes:
        return b"%d\n" % turn

    def _write(self) -> None:
        content = self._random.randbytes(self._random.randrange(1, _SIZE_MAX))
        fresh, name = self.folder / "fresh", f"file-{self._random.randrange(_NAMES)}"
        with fresh.open("wb") as file:
            file.write(content)
            if self.turns % _SYNC_EVERY == 0:
                os.fsync(file.fileno())
        self.compare(fresh.read_bytes(), content, "read back")
        fresh.rename(self.folder / name)
        self._names[name] = content
        with (self.folder / name).open("rb") as whole, mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            self.compare(mapped[:], content, "through a mapping")
        if self.turns % 3 == 0:
            (self.folder / name).unlink()
            del self._names[name]
            assert not (self.folder / name).exists(), "an unlinked file is there still"

    def finish(self) -> None:
        os.close(self._log)
        for name, content in {**self._names, "log": self._whole_log()}.items():
            self.compare((self.folder / name).read_bytes(), content, f"{name} in the end")

    def _whole_log(self) -> bytes:
        return b"".join(map(self._line, range(1, self.turns + 1)))

    def left(self) -> dict[str, str]:
        return {name: digest(content) for name, content in {**self._names, "log": self._whole_log()}.items()}


class Mapping(Worker):
    """A shared mapping is written, synchronised, and read back by read(2): from the page cache and past it."""

    SIZE = 1 << 20
    PIECE_MAX = 3 * BLOCK

    def begin(self) -> None:
        self._random = random.Random(2)
        self._expected = bytearray(self.SIZE)
        (self.folder / "file").write_bytes(self._expected)
        self._file = os.open(self.folder / "file", os.O_RDWR)
        self._direct = os.open(self.folder / "file", os.O_RDONLY | os.O_DIRECT)
        self._mapped = mmap.mmap(self._file, self.SIZE)
        self._memory = mmap.mmap(-1, self.SIZE)

    def turn(self) -> None:
        start = self._random.randrange(self.SIZE - self.PIECE_MAX)
        piece = self._random.randbytes(self._random.randrange(1, self.PIECE_MAX))
        with self.operation("msync"):
            self._mapped[start : start + len(piece)] = piece
            self._expected[start : start + len(piece)] = piece
            self._mapped.flush()
        with self.operation("read"):
            self.compare(os.pread(self._file, len(piece), start), piece, "read(2) after msync")
        if self.turns % 10 == 0:
            with self.operation("read past the page cache"):
                count = os.preadv(self._direct, [self._memory], 0)
                self.compare(self._memory[:count], bytes(self._expected), "past the page cache")

    def finish(self) -> None:
        self._mapped.close()
        for file in (self._file, self._direct):
            os.close(file)
        self.compare((self.folder / "file").read_bytes(), bytes(self._expected), "in the end")

    def left(self) -> dict[str, str]:
        return {"file": digest(bytes(self._expected))}


class Renames(Worker):
    """A name leads to one of two contents at any moment; what was renamed is gone, and is there once."""

    CONTENTS = (b"even" * 500, b"odd." * 700)
    MOVED = 20

    def begin(self) -> None:
        for side in ("left", "right"):
            (self.folder / side).mkdir()
        for number in range(self.MOVED):
            (self.folder / "left" / str(number)).write_bytes(b"%d" % number)
        self._sides = ["left"] * self.MOVED
        (self.folder / "name").write_bytes(self.CONTENTS[0])

    def turn(self) -> None:
        content = self.CONTENTS[self.turns % 2]
        with self.operation("replace"):
            (self.folder / "new").write_bytes(content)
            (self.folder / "new").rename(self.folder / "name")
            self.compare((self.folder / "name").read_bytes(), content, "after the rename")
        with self.operation("move"):
            self._move(self.turns % self.MOVED)
        if self.turns % self.MOVED == 0:
            with self.operation("count"):
                for side in ("left", "right"):
                    found = sorted(path.name for path in (self.folder / side).iterdir())
                    expected = sorted(str(number) for number in range(self.MOVED) if self._sides[number] == side)
                    assert found == expected, f"{side} has {found} and not {expected}"

    def _move(self, number: int) -> None:
        old = self._sides[number]
        new = "left" if old == "right" else "right"
        os.rename(self.folder / old / str(number), self.folder / new / str(number))
        self._sides[number] = new
        try:
            os.rename(self.folder / old / str(number), self.folder / new / str(number))
        except FileNotFoundError:
            return
        raise AssertionError(f"{number} was there to rename twice")

    def left(self) -> dict[str, str]:
        moved = {f"{side}/{number}": digest(b"%d" % number) for number, side in enumerate(self._sides)}
        return {"name": digest(self.CONTENTS[self.turns % 2]), **moved}


class Unlinked(Worker):
    """A file that lost its name right after it was opened: written and read throughout, and gone in the end."""

    SIZE = 256 << 10

    def begin(self) -> None:
        self._random = random.Random(3)
        self._expected = bytearray(self.SIZE)
        self._file = os.open(self.folder / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(self._file, self._expected)
        (self.folder / "file").unlink()

    def turn(self) -> None:
        start = self._random.randrange(self.SIZE - BLOCK)
        piece = self._random.randbytes(BLOCK)
        with self.operation("write"):
            assert os.pwrite(self._file, piece, start) == BLOCK
            self._expected[start : start + BLOCK] = piece
        with self.operation("read"):
            at = self._random.randrange(self.SIZE - BLOCK)
            self.compare(os.pread(self._file, BLOCK, at), bytes(self._expected[at : at + BLOCK]), "read back")
        if self.turns % 10 == 0:
            with self.operation("sync and stat"):
                os.fsync(self._file)
                status = os.fstat(self._file)
                assert status.st_size == self.SIZE, f"its size is {status.st_size}"
                assert list(self.folder.iterdir()) == [], "it has a name"

    def finish(self) -> None:
        self.compare(os.pread(self._file, self.SIZE, 0), bytes(self._expected), "in the end")
        os.close(self._file)


class Inside(Worker):
    """Its working directory lies in the mount, and it names nothing but what is there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._home = folder / "home"

    def begin(self) -> None:
        self._home.mkdir()
        os.chdir(self._home)

    def turn(self) -> None:
        content = b"%d" % self.turns
        with self.operation("here"):
            Path("file").write_bytes(content)
            self.compare(Path("../home/file").read_bytes(), content, "by the way around")
        with self.operation("getcwd"):
            assert Path.cwd() == self._home, f"it is in {Path.cwd()}"
            assert os.listdir(".") == ["file"], f"here are {os.listdir('.')}"

    def finish(self) -> None:
        os.chdir("/")

    def left(self) -> dict[str, str]:
        return {"home/file": digest(b"%d" % self.turns)}
