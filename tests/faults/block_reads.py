"""Verified reads of large files: `python -m tests.faults.block_reads FOLDER SEED`, until SIGTERM; then a line of JSON.

Any block of any file is known from its number (:func:`block`), so each byte that comes is compared. Pages are let go
before a file is read again: what is read comes from the daemon. Times are of the machine's monotonic clock.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 20
#: Stands in each block, again and again: who finds it anywhere has found data.
MARKER = b"these 64 bytes stand in each 64 KiB of data, as they stand here."
_MARKER_EVERY = 64 << 10
#: Reads that took longer are noted one by one.
_NOTED_MS = 20.0
#: Of throughput.
BIN_S = 0.25


@functools.cache
def _base() -> bytes:
    text = bytearray(random.Random(0).randbytes(BLOCK))
    for place in range(0, BLOCK, _MARKER_EVERY):
        text[place : place + len(MARKER)] = MARKER
    return bytes(text)


def block(file: int, number: int) -> bytes:
    """What stands there; no two are alike."""
    turn = (file * 7919 + number * 104_729) % BLOCK
    name = f"{file:08}{number:08}".encode()
    return name + (_base()[turn:] + _base()[:turn])[len(name) :]


def name(file: int) -> str:
    """Of a file in the folder."""
    return f"a-file-whose-name-is-not-to-be-seen-{file:04}"


def make(folder: Path, *, files: int, blocks: int) -> None:
    """Makes them where the NAS has them."""
    for file in range(files):
        with (folder / name(file)).open("wb") as out:
            for number in range(blocks):
                out.write(block(file, number))


class _Reader:
    """Reads files of a folder in turns, from a place on, until it is told to stop."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.is_over = False
        self.wrong_bytes = 0
        self.errors: list[str] = []
        self.waits: list[tuple[float, float]] = []  # when a read ended, ms that it took
        self.bins: Counter[int] = Counter()  # bytes by time
        self._folder, self._random = folder, random.Random(seed)
        self._files = len(list(folder.glob(name(0)[:-4] + "*")))

    def run(self) -> None:
        while not self.is_over:
            try:
                for _ in self._turn(self._random.randrange(self._files)):
                    if self.is_over:
                        break
            except OSError as error:
                self.errors.append(repr(error))

    def _turn(self, file: int) -> Iterator[None]:
        descriptor = os.open(self._folder / name(file), os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            blocks = os.fstat(descriptor).st_size // BLOCK
            for number in range(self._random.randrange(blocks // 2), blocks):
                began = time.monotonic()
                data = os.pread(descriptor, BLOCK, number * BLOCK)
                ended = time.monotonic()
                self._judge(data, block(file, number))
                self.bins[int(ended / BIN_S)] += len(data)
                if (took_ms := (ended - began) * 1000) > _NOTED_MS:
                    self.waits.append((ended, round(took_ms, 1)))
                yield
        finally:
            os.close(descriptor)

    def _judge(self, data: bytes, expected: bytes) -> None:
        if data != expected:
            self.wrong_bytes += sum(a != b for a, b in zip(data, expected, strict=False)) + abs(BLOCK - len(data))

    def report(self) -> dict[str, Any]:
        return {
            "reads": sum(self.bins.values()) // BLOCK, "wrong_bytes": self.wrong_bytes, "errors": self.errors[:20],
            "waits": self.waits, "bins": list(self.bins.items()),
        }  # fmt: skip


def main() -> None:
    """See the module."""
    reader = _Reader(Path(sys.argv[1]), int(sys.argv[2]))

    def end(_signal: int, _frame: object) -> None:
        reader.is_over = True

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    reader.run()
    print(json.dumps(reader.report()), flush=True)


if __name__ == "__main__":
    main()
