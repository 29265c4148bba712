"""A process that opens, writes, syncs and closes files of a mount when it is told to.

The test itself must not have them open: a program that it starts meanwhile, a NAS for example, would close copies of
its descriptors on the way, and wait for the NAS that it is.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.paths import ROOT

#: File, place in it, seed, length.
Write = tuple[str, int, int, int]


def content(seed: int, length: int) -> bytes:
    """What a write of this seed writes."""
    return random.Random(seed).randbytes(length)


class Writer:
    """The process, while its block runs; as another user if `uid` says so."""

    def __init__(self, folder: Path, *, uid: int = 0, gid: int = 0, groups: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.writer", folder], cwd=ROOT, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._call("become", uid, gid, list(groups))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)

    def open(self, name: str, flags: int = os.O_CREAT | os.O_WRONLY) -> None:
        """Opens a file of the folder; the other methods call it by its name."""
        self._call("open", name, flags)

    def write(self, name: str, offset: int, seed: int, length: int) -> bytes:
        """One pwrite(2) of `content`, which is returned. A file that is opened to append heeds no offset."""
        assert self._call("write", name, offset, seed, length) == length
        return content(seed, length)

    def errno_of(self, *command: object) -> int:
        """What a command that is given as to `begin` fails with, or 0."""
        self.begin(*command)
        try:
            self.end()
        except OSError as error:
            return error.errno or -1
        return 0

    def begin_burst(self, writes: Sequence[Write], *, pause_s: float) -> None:
        """One write after the other, with pauses; `end` waits for the last."""
        self.begin("burst", list(writes), pause_s)

    def sync(self, name: str) -> None:
        """fsync(2)."""
        self._call("sync", name)

    def close(self, name: str) -> None:
        """Closes what `open` has opened."""
        self._call("close", name)

    def begin(self, *command: object) -> None:
        """Tells it to do something; `end` waits for that."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")

    def is_done(self) -> bool:
        """Whether `end` would not wait."""
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def end(self, limit_s: float = 30) -> Any:
        """What the last command returned. Raises what it raised."""
        stdout = self._process.stdout
        assert stdout is not None
        assert select.select([stdout], [], [], limit_s)[0], "the call does not end"
        answer = json.loads(stdout.readline())
        if answer["errno"]:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return answer["value"]

    def _call(self, *command: object) -> Any:
        self.begin(*command)
        return self.end()


class _Commands:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}

    def become(self, uid: int, gid: int, groups: list[int]) -> None:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    def open(self, name: str, flags: int) -> None:
        self._open[name] = os.open(self._folder / name, flags, 0o644)

    def write(self, name: str, offset: int, seed: int, length: int) -> int:
        return os.pwrite(self._open[name], content(seed, length), offset)

    def burst(self, writes: list[Write], pause_s: float) -> None:
        for name, offset, seed, length in writes:
            assert self.write(name, offset, seed, length) == length
            time.sleep(pause_s)

    def truncate(self, name: str, length: int) -> None:
        os.ftruncate(self._open[name], length)

    def rename(self, old: str, new: str) -> None:
        (self._folder / old).rename(self._folder / new)

    def sync(self, name: str) -> None:
        os.fsync(self._open[name])

    def close(self, name: str) -> None:
        os.close(self._open.pop(name))


def main() -> None:
    """Reads a command a line, and prints what came of it."""
    commands = _Commands(Path(sys.argv[1]))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer = {"value": None, "errno": 0}
        try:
            answer["value"] = getattr(commands, name)(*arguments)
        except OSError as error:
            answer["errno"] = error.errno
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
