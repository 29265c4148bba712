"""O_APPEND beside what does not append: shared mappings, and the flag put on and taken off while a file is open."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.posix.children import all_in_children, in_child
from tests.support.keeper import Keeper
from tests.support.nas import Nas

PAGE = 4096


@pytest.fixture(params=["5.10", "6.1"])
def old_folder(nas: Nas, keeper: Keeper, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A mount as on an older kernel, whose files opened without the page cache cannot be mapped."""
    with keeper.mounted(nas.url, options=[f"fuse-features={request.param}"]) as path:
        yield path


def change_by_mapping(path: Path, mode: str) -> None:
    with path.open(mode) as file, mmap.mmap(file.fileno(), PAGE) as mapped:
        mapped[0:4] = b"MMAP"
        mapped.flush()


def check_mapping(folder: Path) -> None:
    path = folder / "mapped"
    path.write_bytes(b"a" * PAGE)
    in_child(lambda: change_by_mapping(path, "a+b"))
    assert path.read_bytes() == b"MMAP" + b"a" * (PAGE - 4)
    path.unlink()


def check_flag_off(folder: Path) -> None:
    path = folder / "flag-off"
    path.write_bytes(b"a" * 10)

    def write() -> None:
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
        os.write(fd, b"end")
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND)
        os.pwrite(fd, b"beginning", 0)
        os.close(fd)

    in_child(write)
    assert path.read_bytes() == b"beginningaend"
    path.unlink()


def check_flag_on(folder: Path) -> None:
    path = folder / "flag-on"
    path.write_bytes(b"0123456789")

    def write() -> bytes:
        fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.write(fd, b"first")
        in_child(lambda: path.open("ab").write(b"other"))
        os.write(fd, b"second")
        os.close(fd)
        return path.read_bytes()

    assert in_child(write) == path.read_bytes() == b"0123456789firstothersecond"
    path.unlink()


def test_a_shared_mapping_of_a_file_opened_to_append(folder: Path) -> None:
    check_mapping(folder)


def test_the_flag_taken_off_an_open_file(folder: Path) -> None:
    check_flag_off(folder)


def test_the_flag_put_on_an_open_file(folder: Path) -> None:
    check_flag_on(folder)


def test_all_that_on_older_kernels(old_folder: Path) -> None:
    for check in (check_mapping, check_flag_off, check_flag_on):
        check(old_folder)
    check_beside_each_other(old_folder / "beside", 300)


def test_a_mapping_written_through_another_open_while_one_to_append_is_there(folder: Path) -> None:
    path = folder / "mapped"
    path.write_bytes(b"a" * PAGE)

    def change() -> None:
        with path.open("a+b") as appending, mmap.mmap(appending.fileno(), PAGE) as other:
            in_child(lambda: change_by_mapping(path, "r+b"))
            assert other[0:4] == b"MMAP"

    in_child(change)
    assert path.read_bytes() == b"MMAP" + b"a" * (PAGE - 4)


@pytest.mark.parametrize("size", [300, PAGE, 2 * PAGE + 17])
def test_a_mapping_of_one_process_beside_appends_of_another(folder: Path, size: int) -> None:
    check_beside_each_other(folder / "beside", size)


def check_beside_each_other(path: Path, size: int) -> None:
    """The mapping's last page holds the end of the file, which moves meanwhile."""
    path.write_bytes(b"a" * size)
    records, rounds = 150, 150

    def map_it() -> None:
        with path.open("a+b") as file, mmap.mmap(file.fileno(), size) as mapped:
            for number in range(rounds):
                struct.pack_into("<I", mapped, size - 8, number)
                mapped.flush()

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            for number in range(records):
                assert file.write(struct.pack("<II", 0xA99E9D, number)) == 8

    all_in_children([map_it, append])
    data = path.read_bytes()
    assert len(data) == size + 8 * records
    assert data[: size - 8] == b"a" * (size - 8)
    assert struct.unpack_from("<I", data, size - 8) == (rounds - 1,)
    appended = list(struct.iter_unpack("<II", data[size:]))
    assert appended == [(0xA99E9D, number) for number in range(records)]
    path.unlink()


def test_counters_as_multiprocess_metrics_keep_them(folder: Path) -> None:
    """Opened "a+b", made long, mapped as a whole and counted in; another process reads the file."""
    processes, counts = 4, 200

    def count(number: int) -> Callable[[], None]:
        def run() -> None:
            with (folder / f"counter_{number}.db").open("a+b") as file:
                file.truncate(1 << 20)
                with mmap.mmap(file.fileno(), 1 << 20) as mapped:
                    for value in range(1, counts + 1):
                        struct.pack_into("<id", mapped, 0, number, float(value))

        return run

    all_in_children([count(number) for number in range(processes)])
    for number in range(processes):
        data = (folder / f"counter_{number}.db").read_bytes()
        assert len(data) == 1 << 20
        assert struct.unpack_from("<id", data) == (number, float(counts))


def test_appends_of_several_processes_however_they_have_the_flag(folder: Path) -> None:
    path, records = folder / "log", 100
    path.touch()

    def writer(number: int) -> Callable[[], None]:
        def write() -> None:
            with_flag = number % 2
            fd = os.open(path, os.O_WRONLY | (os.O_APPEND if with_flag else 0))
            if not with_flag:
                fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
            for record in range(records):
                assert os.write(fd, struct.pack("<II", number, record) * 50) == 400
            os.close(fd)

        return write

    all_in_children([writer(number) for number in range(4)])
    data = path.read_bytes()
    found = {data[start : start + 400] for start in range(0, len(data), 400)}
    assert len(data) == 4 * records * 400
    assert found == {struct.pack("<II", number, record) * 50 for number in range(4) for record in range(records)}
