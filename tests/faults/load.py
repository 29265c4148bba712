"""Verified work in a folder: `python -m tests.faults.load FOLDER`, until SIGTERM; then one line of JSON on stdout.

A program of its own, since whoever starts daemons must not have files of their mount open. Each turn writes a file,
reads it back by read(2) and through a mapping, renames it over another, appends a line to a log that stays open, takes
a lock on it, makes and removes a directory, and now and then lists everything. What is not as it must be is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

_NAMES = 40
_SIZE_MAX = 64 << 10
_LIST_EVERY = 25
_SYNC_EVERY = 10


class Load:
    """One worker in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = os.open(folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        self._names: dict[str, bytes] = {}
        self._random = random.Random(1)  # the same work each time
        self.turns = 0
        self.errors: list[str] = []
        self.longest_turn_ms = 0.0

    def turn(self) -> None:
        """One round of work."""
        began = time.monotonic()
        self.turns += 1
        for step in (self._write, self._append, self._directory, self._list):
            try:
                step()
            except (OSError, AssertionError) as error:
                self.errors.append(f"turn {self.turns}, {step.__name__}: {error!r}")
        self.longest_turn_ms = max(self.longest_turn_ms, (time.monotonic() - began) * 1000)

    def _write(self) -> None:
        content = self._random.randbytes(self._random.randrange(1, _SIZE_MAX))
        fresh, name = self._folder / "fresh", f"file-{self._random.randrange(_NAMES)}"
        with fresh.open("wb") as file:
            file.write(content)
            if self.turns % _SYNC_EVERY == 0:
                os.fsync(file.fileno())
        assert fresh.read_bytes() == content, "what was read is not what was written"
        fresh.rename(self._folder / name)
        self._names[name] = content
        with (self._folder / name).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:] == content, "the mapping shows something else"
        if self.turns % 3 == 0:
            (self._folder / name).unlink()
            del self._names[name]
            assert not (self._folder / name).exists(), "an unlinked file is there still"

    def _append(self) -> None:
        fcntl.flock(self._log, fcntl.LOCK_EX)
        os.write(self._log, f"{self.turns}\n".encode())
        fcntl.flock(self._log, fcntl.LOCK_UN)

    def _directory(self) -> None:
        folder = self._folder / "directory"
        folder.mkdir()
        folder.rmdir()

    def _list(self) -> None:
        if self.turns % _LIST_EVERY == 0:
            found = {path.name for path in self._folder.iterdir()} - {"log"}
            assert found == set(self._names), f"listed {found ^ set(self._names)} wrongly"

    def finish(self) -> None:
        """Everything that was acknowledged is there, once."""
        os.close(self._log)
        lines = (self._folder / "log").read_text().split()
        if lines != [str(turn) for turn in range(1, self.turns + 1)]:
            self.errors.append(f"the log has {len(lines)} lines for {self.turns} turns, or not in order")
        for name, content in self._names.items():
            if (self._folder / name).read_bytes() != content:
                self.errors.append(f"{name} has another content in the end")


def main() -> None:
    """See the module."""
    is_over = False

    def end(*_: object) -> None:
        nonlocal is_over
        is_over = True

    signal.signal(signal.SIGTERM, end)
    load = Load(Path(sys.argv[1]))
    print("ready", flush=True)
    while not is_over:
        load.turn()
    load.finish()
    result = {"turns": load.turns, "errors": load.errors[:20], "longest_turn_ms": round(load.longest_turn_ms, 1)}
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
