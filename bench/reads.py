"""Rows of reading data."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from bench.names import each_again
from bench.rows import BEGIN, KIB, MIB, Row

_LARGE, _SMALL = "00000", 4 * KIB
_RANDOM_READS = 2_000


def read_all(path: str) -> int:
    """Bytes read, in reads of 1 MiB."""
    total = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(MIB):
            total += len(block)
    return total


def _large() -> Iterator[int]:
    yield BEGIN
    yield read_all(_LARGE) // MIB


def _large_again() -> Iterator[int]:
    read_all(_LARGE)
    with open(_LARGE, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    yield BEGIN
    yield read_all(_LARGE) // MIB


def _at_random() -> Iterator[int]:
    blocks = random.Random(1).sample(range(256 * MIB // _SMALL), _RANDOM_READS)
    with open(_LARGE, "rb", buffering=0) as file:
        yield BEGIN
        for block in blocks:
            os.pread(file.fileno(), _SMALL, block * _SMALL)
        yield _RANDOM_READS


def _walk() -> Iterator[int]:
    yield BEGIN
    count = 0
    for folder, _, names in os.walk("."):
        for name in names:
            read_all(f"{folder}/{name}")
            count += 1
    yield count


ROWS = (
    Row(name="read 1 MiB blocks", load=_large, state="cold", unit="MiB", data="one file of 256 MiB"),
    Row(
        name="read 1 MiB blocks, second read", load=_large_again, state="read once, its pages dropped", unit="MiB",
        data="one file of 256 MiB",
    ),
    Row(name="read 4 KiB at random", load=_at_random, state="open, no data", unit="read", data="one file of 256 MiB"),
    Row(
        name="walk and read 4 KiB files", load=_walk, state="cold", unit="file", data="a tree of 2,000 files of 4 KiB"
    ),
    Row(
        name="open, read 4 KiB, close: again", load=each_again(read_all), state="just read", unit="file",
        data="300 files of 4 KiB",
    ),
)  # fmt: skip
