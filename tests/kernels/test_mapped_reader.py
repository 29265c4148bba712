"""What is appended through one descriptor is seen by who has the file mapped through another, soon after the reply.

A mapping asks for nothing by itself: a page that the daemon does not take out of the kernel's cache shows the old end
of the file for ever. The time that an appearance may take is counted in looks of 10 ms, ten on real hardware.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults import figures
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import SLOWNESS

LOOKS_MAX, LOOK_INTERVAL_S = int(10 * SLOWNESS), 0.01
#: Not a divisor of a page: most records begin in one that has been looked at.
RECORD_BYTES, RECORDS = 1000, 40
_MAPPED_BYTES = 1 << 16
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

Look = Callable[[int], int]


def record(number: int) -> bytes:
    """No zeros, which lie behind a file's end."""
    return struct.pack(">I", 0x01010101 + number) * (RECORD_BYTES // 4)


@contextmanager
def mapped_reader(path: Path) -> Iterator[Look]:
    """Maps a file far beyond its end, once; gives what counts the looks until record `number` is there.

    It raises AssertionError when that takes too many. Python's own mmap does not map beyond a file's end.
    """
    with path.open("rb", buffering=0) as file:
        address = _LIBC.mmap(None, _MAPPED_BYTES, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())

        def look(number: int) -> int:
            for looks in range(1, LOOKS_MAX + 1):
                if ctypes.string_at(address + number * RECORD_BYTES, RECORD_BYTES) == record(number):
                    return looks
                time.sleep(LOOK_INTERVAL_S)
            raise AssertionError(f"record {number} was appended and is not seen through a mapping")

        try:
            yield look
        finally:
            _LIBC.munmap(address, _MAPPED_BYTES)


@contextmanager
def reader_in_child(path: Path) -> Iterator[Look]:
    """The same in another process, which is told by a pipe what to look for, and makes no other system call on it."""
    asked_read, asked_write = os.pipe()
    answer_read, answer_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(asked_write)
        try:
            with mapped_reader(path) as look:
                os.write(answer_write, struct.pack("i", 0))
                while asked := os.read(asked_read, 4):
                    os.write(answer_write, struct.pack("i", look(*struct.unpack("i", asked))))
        finally:
            os._exit(0)
    os.close(asked_read)
    os.close(answer_write)

    def ask(number: int) -> int:
        os.write(asked_write, struct.pack("i", number))
        answer = os.read(answer_read, 4)
        assert answer, f"record {number} was appended and is not seen through another process's mapping"
        return int(struct.unpack("i", answer)[0])

    try:
        assert os.read(answer_read, 4), "the reader did not begin"
        yield ask
    finally:
        os.close(asked_write)
        os.close(answer_read)
        os.waitpid(pid, 0)


READERS = {"in the same process": mapped_reader, "in another process": reader_in_child}


@pytest.mark.short
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", READERS)
def test_appended_data_is_seen_by_who_has_the_file_mapped(nas: Nas, keeper: Keeper, name: str) -> None:
    with keeper.mounted(nas.url) as mount:
        path = mount / name.replace(" ", "-")
        path.write_bytes(record(0))
        with READERS[name](path) as look, path.open("ab", buffering=0) as file:
            looks = [look(0)]
            for number in range(1, RECORDS):
                assert file.write(record(number)) == RECORD_BYTES
                looks.append(look(number))
        assert path.read_bytes() == b"".join(map(record, range(RECORDS)))
    figures.record("mapped", name, {"records": RECORDS, "looks_max": max(looks), "looks_mean": sum(looks) / RECORDS})
