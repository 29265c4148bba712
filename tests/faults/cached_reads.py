"""Verified reads of all kinds: `python -m tests.faults.cached_reads FOLDER SEED`, until SIGTERM; then a line of JSON.

The files are those of `tests.faults.block_reads`, and small ones (:func:`make_small`). A thread for each kind of read:
large files in order, places of them, pages of a mapping, small files. What is read is compared byte by byte, and pages
are let go before a file is read again, so that most of it comes from a cache of the daemon's.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.block_reads import BLOCK, name
from tests.faults.block_reads import block as made

#: Reads that took longer are noted one by one.
_NOTED_MS = 5.0
_PAGE = 4096
_SMALL = "small"
_SMALL_BYTES_MAX = 64 << 10


@functools.cache
def block(file: int, number: int) -> bytes:
    """What stands there, made once: it takes longer than reading it."""
    return made(file, number)


@functools.cache
def small(number: int) -> bytes:
    """What stands in this small file."""
    return made(10_000 + number, 0)[: 1 + number * 7919 % _SMALL_BYTES_MAX]


def make_small(folder: Path, *, files: int) -> None:
    """Makes them where the NAS has them."""
    (folder / _SMALL).mkdir()
    for number in range(files):
        (folder / _SMALL / f"{number}").write_bytes(small(number))


class Reader(threading.Thread):
    """Reads in one way until it is told to stop."""

    is_over = False

    def __init__(self, folder: Path, kind: str, seed: int) -> None:
        super().__init__()
        self.kind = kind
        self.reads, self.wrong_bytes = 0, 0
        self.errors: list[str] = []
        self.waits: list[tuple[float, float]] = []  # when a read began, ms that it took
        self._folder, self._random = folder, random.Random(f"{kind} {seed}")
        self._files = len(list(folder.glob(name(0)[:-4] + "*")))
        self._small = len(list((folder / _SMALL).iterdir()))

    def run(self) -> None:
        turn: Callable[[], None] = getattr(self, f"_{self.kind}")
        while not Reader.is_over:
            try:
                turn()
            except OSError as error:
                self.errors.append(f"{self.kind}: {error!r}")

    def _in_order(self) -> None:
        file = self._random.randrange(self._files)
        descriptor = os.open(self._folder / name(file), os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for number in range(os.fstat(descriptor).st_size // BLOCK):
                self._read(descriptor, BLOCK, number * BLOCK, block(file, number))
                if Reader.is_over:
                    return
        finally:
            os.close(descriptor)

    def _places(self) -> None:
        file = self._random.randrange(self._files)
        descriptor = os.open(self._folder / name(file), os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for _ in range(20):
                number = self._random.randrange(os.fstat(descriptor).st_size // BLOCK)
                begin = self._random.randrange(BLOCK)
                length = min(self._random.choice([1, 500, _PAGE, 70_000, 300_000]), BLOCK - begin)
                expected = block(file, number)[begin : begin + length]
                self._read(descriptor, length, number * BLOCK + begin, expected)
        finally:
            os.close(descriptor)

    def _mapped(self) -> None:
        file = self._random.randrange(self._files)
        with (self._folder / name(file)).open("rb", buffering=0) as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                for _ in range(20):
                    number = self._random.randrange(len(mapped) // BLOCK)
                    begin = self._random.randrange(BLOCK // _PAGE) * _PAGE
                    place, began = number * BLOCK + begin, time.monotonic()
                    data = mapped[place : place + _PAGE]
                    self._judge(began, data, block(file, number)[begin : begin + _PAGE])

    def _small_files(self) -> None:
        number, began = self._random.randrange(self._small), time.monotonic()
        descriptor = os.open(self._folder / _SMALL / f"{number}", os.O_RDONLY)
        try:
            data = os.read(descriptor, BLOCK)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        self._judge(began, data, small(number))

    def _read(self, descriptor: int, length: int, place: int, expected: bytes) -> None:
        began = time.monotonic()
        self._judge(began, os.pread(descriptor, length, place), expected)

    def _judge(self, began: float, data: bytes, expected: bytes) -> None:
        if (took_ms := (time.monotonic() - began) * 1000) > _NOTED_MS:
            self.waits.append((began, round(took_ms, 1)))
        self.reads += 1
        if data != expected:
            self.wrong_bytes += sum(a != b for a, b in zip(data, expected, strict=False)) or 1


def main() -> None:
    """See the module."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    kinds = ("in_order", "places", "mapped", "small_files")
    readers = [Reader(Path(sys.argv[1]), kind, int(sys.argv[2])) for kind in kinds]
    for reader in readers:
        reader.start()
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    Reader.is_over = True
    for reader in readers:
        reader.join()
    report: dict[str, Any] = {
        "reads": {reader.kind: reader.reads for reader in readers},
        "wrong_bytes": sum(reader.wrong_bytes for reader in readers),
        "errors": [error for reader in readers for error in reader.errors][:20],
        "waits": [wait for reader in readers for wait in reader.waits],
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
