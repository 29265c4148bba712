"""Rows of writing data."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.rows import BEGIN, KIB, MIB, Load, Promise, Row, fill

_FILE = "00000"
_FILE_MIB = 64


def _through_one_open(
    size: int, count: int, *, mode: str = "wb", sync_each: bool = False, sync: bool = False, per: int = 1
) -> Load:
    """`count` writes of `size` bytes, synced each or in the end, and a close; `per` writes are an operation."""

    def load() -> Iterator[int]:
        data = os.urandom(size)
        file = open("file", mode, buffering=0)  # noqa: SIM115 -- its close is counted
        yield BEGIN
        for _ in range(count):
            file.write(data)
            if sync_each:
                os.fsync(file.fileno())
        if sync:
            os.fsync(file.fileno())
        file.close()
        yield count // per

    return load


def _overwrite_at_random() -> Iterator[int]:
    count, data = 200, os.urandom(4 * KIB)
    blocks = random.Random(1).sample(range(_FILE_MIB * MIB // len(data)), count)
    with open(_FILE, "r+b", buffering=0) as file:
        yield BEGIN
        for block in blocks:
            os.pwrite(file.fileno(), data, block * len(data))
            os.fsync(file.fileno())
        yield count


def _write_and_read_in_turn() -> Iterator[int]:
    count, data = 500, os.urandom(4 * KIB)
    file = open("file", "w+b", buffering=0)  # noqa: SIM115 -- its close is counted
    yield BEGIN
    for number in range(count):
        os.pwrite(file.fileno(), data, number * len(data))
        assert os.pread(file.fileno(), len(data), number * len(data)) == data
    file.close()
    yield count


def _whole_files(path_of: Callable[[int], str], count: int) -> Load:
    def load() -> Iterator[int]:
        data = os.urandom(4 * KIB)
        yield BEGIN
        for number in range(count):
            with open(path_of(number), "wb", buffering=0) as file:
                file.write(data)
        yield count

    return load


def _large_on_server(folder: Path) -> None:
    fill(folder, count=1, size=_FILE_MIB * MIB)


def _small_on_server(folder: Path) -> None:
    fill(folder, count=500, size=4 * KIB)


_OWN = "in a new file"
#: Small writes are the kernel's and the daemon's affair: no round trip each, whatever it takes.
_SMALL = (Promise(rate=6), Promise(rate=0.8, of="mount, 1 ms", to="mount"))
ROWS = (
    Row(
        name="write 1 MiB blocks, fsync at the end", load=_through_one_open(MIB, 256, sync=True), state=_OWN,
        unit="MiB", promises=(Promise(cpu=1.1),),
    ),
    Row(
        name="write 4 KiB blocks, close", load=_through_one_open(4 * KIB, 8192, per=256), state=_OWN, unit="MiB",
        promises=_SMALL,
    ),
    Row(
        name="append 100 B through one open, close", load=_through_one_open(100, 2000, mode="ab"), state=_OWN,
        unit="append", promises=_SMALL,
    ),
    Row(
        name="write 4 KiB + fsync", load=_through_one_open(4 * KIB, 200, sync_each=True), state=_OWN, unit="write"
    ),
    Row(
        name="overwrite 4 KiB at random + fsync", load=_overwrite_at_random, state="open, no data", unit="write",
        on_server=_large_on_server,
    ),
    Row(name="write and read 4 KiB in turn, close", load=_write_and_read_in_turn, state=_OWN, unit="pair"),
    Row(
        name="create, write 4 KiB, close", load=_whole_files(lambda number: f"new-{number}", 500),
        state="in a folder just made, empty", unit="file", promises=(Promise(rate=1.3),),
    ),
    Row(
        name="rewrite 4 KiB, close", load=_whole_files(lambda number: f"{number:05}", 500), state="cold", unit="file",
        on_server=_small_on_server,
    ),
)  # fmt: skip
