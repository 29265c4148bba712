"""Verified writes of all sizes: `python -m tests.faults.blocks FOLDER`, until SIGTERM; then one line of JSON on stdout.

Beside `tests.faults.load`, whose files are small: four threads overwrite places of a file of their own, from a few
bytes to a mebibyte at once, and read back what the daemon has there, past the page cache. An old write that is executed
again shows as what was there before.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

THREADS = 4
FILE_SIZE = 2 << 20
SIZES = [1, 500, 4096, 5000, 30_000, 40_000, 300_000, 1 << 20]


class Blocks(threading.Thread):
    """Writes and reads one file."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__()
        self._path = path
        self._random = random.Random(seed)
        self._expected = bytearray(FILE_SIZE)
        self.is_over = False
        self.turns = 0
        self.errors: list[str] = []
        self.longest_turn_ms = 0.0

    def run(self) -> None:
        try:
            self._work()
        except OSError as error:
            self.errors.append(f"outside a turn: {error!r}")

    def _work(self) -> None:
        writing = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
        os.ftruncate(writing, FILE_SIZE)
        reading = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, FILE_SIZE) as content:
            while not self.is_over:
                began = time.monotonic()
                self.turns += 1
                try:
                    self._turn(writing, reading, content)
                except (OSError, AssertionError) as error:
                    self.errors.append(f"turn {self.turns}: {error!r}")
                self.longest_turn_ms = max(self.longest_turn_ms, (time.monotonic() - began) * 1000)
        os.close(reading)
        os.close(writing)

    def _turn(self, writing: int, reading: int, content: mmap.mmap) -> None:
        size = self._random.choice(SIZES)
        place = self._random.randrange(FILE_SIZE - size)
        data = self._random.randbytes(size)
        assert os.pwrite(writing, data, place) == size, "a short write"
        self._expected[place : place + size] = data
        assert os.preadv(reading, [content], 0) == FILE_SIZE, "a short read"
        assert content[:] == self._expected, "what is there is not what was written"


def main() -> None:
    """See the module."""
    blocks = [Blocks(Path(sys.argv[1]) / f"blocks-{number}", number) for number in range(THREADS)]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for one in blocks:
        one.start()
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    for one in blocks:
        one.is_over = True
    for one in blocks:
        one.join()
    errors = [error for one in blocks for error in one.errors]
    longest_ms = max(one.longest_turn_ms for one in blocks)
    turns = sum(one.turns for one in blocks)
    print(json.dumps({"turns": turns, "errors": errors[:20], "longest_turn_ms": round(longest_ms, 1)}), flush=True)


if __name__ == "__main__":
    main()
