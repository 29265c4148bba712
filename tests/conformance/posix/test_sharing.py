"""Several processes of one node and one file: races, appends, locks, memory maps."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.posix.children import all_in_children, in_child

WRITERS = 8


def test_exclusive_create_has_one_winner(folder: Path) -> None:
    for round_number in range(20):

        def create(number: int = round_number) -> bool:
            try:
                os.close(os.open(folder / f"lock-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                return False
            return True

        assert sum(all_in_children([create] * WRITERS)) == 1


def test_mkdir_link_and_rename_races_have_one_winner(folder: Path) -> None:
    (folder / "source").touch()
    actions: list[Callable[[int], None]] = [
        lambda _: os.mkdir(folder / "directory"),
        lambda _: os.link(folder / "source", folder / "link"),
        lambda _: os.symlink("x", folder / "symlink"),
        lambda _: os.rename(folder / "source", folder / "renamed"),
        lambda _: os.unlink(folder / "renamed"),
        lambda _: os.rmdir(folder / "directory"),
    ]
    for action in actions:

        def race(action: Callable[[int], None] = action) -> bool:
            try:
                action(0)
            except (FileExistsError, FileNotFoundError):
                return False
            return True

        assert sum(all_in_children([race] * WRITERS)) == 1


def test_appends_of_several_processes_do_not_overwrite_each_other(folder: Path) -> None:
    records = 200

    def writer(number: int) -> Callable[[], None]:
        def write() -> None:
            with (folder / "log").open("ab", buffering=0) as log:
                for record in range(records):
                    log.write(b"%02d %06d %s\n" % (number, record, b"x" * (number * 13)))

        return write

    all_in_children([writer(number) for number in range(WRITERS)])
    lines = (folder / "log").read_bytes().splitlines()
    assert len(lines) == WRITERS * records
    for number in range(WRITERS):
        own = [line for line in lines if line.startswith(b"%02d " % number)]
        assert own == [b"%02d %06d %s" % (number, record, b"x" * (number * 13)) for record in range(records)]


def test_reader_sees_what_another_process_wrote(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"0" * 100_000)
    with path.open("rb", buffering=0) as reader:
        assert reader.read(100_000) == b"0" * 100_000
        in_child(lambda: os.pwrite(os.open(path, os.O_WRONLY), b"1" * 10, 50_000))
        assert os.pread(reader.fileno(), 12, 49_999) == b"0" + b"1" * 10 + b"0"


def test_writes_at_different_places_all_stay(folder: Path) -> None:
    """Including writes into the same page by different processes."""
    path = folder / "file"
    path.touch()

    def writer(number: int) -> Callable[[], None]:
        def write() -> None:
            with path.open("r+b", buffering=0) as file:
                for place in range(number, 4000, WRITERS):
                    os.pwrite(file.fileno(), b"%07d" % place, place * 7)

        return write

    all_in_children([writer(number) for number in range(WRITERS)], limit_s=60)
    assert path.read_bytes() == b"".join(b"%07d" % place for place in range(4000))


def test_flock_is_between_processes_of_this_node(folder: Path) -> None:
    def try_lock(kind: int) -> bool:
        with (folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert (in_child(lambda: try_lock(fcntl.LOCK_SH)), in_child(lambda: try_lock(fcntl.LOCK_EX))) == (True, False)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not in_child(lambda: try_lock(fcntl.LOCK_SH))
    assert in_child(lambda: try_lock(fcntl.LOCK_EX))


def test_record_locks_are_between_processes_of_this_node(folder: Path) -> None:
    path = folder / "lock"
    path.write_bytes(bytes(100))

    def try_lock(start: int, length: int) -> bool:
        with path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            except OSError as error:
                assert error.errno in (errno.EAGAIN, errno.EACCES)
                return False
            return True

    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 20)
        assert (in_child(lambda: try_lock(0, 20)), in_child(lambda: try_lock(29, 1))) == (True, False)
        unlocked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        asked = in_child(lambda: fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_GETLK, unlocked))
        assert struct.unpack("hhqqi4x", asked)[4] == os.getpid()
        assert in_child(lambda: try_lock(30, 70))
    assert in_child(lambda: try_lock(0, 100))


def test_lock_waits_and_is_given_when_its_holder_dies(folder: Path) -> None:
    path = folder / "lock"
    path.touch()

    def holder() -> float:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(0.5)
            return time.monotonic()

    def waiter() -> float:
        time.sleep(0.2)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return time.monotonic()

    released, taken = all_in_children([holder, waiter])
    assert taken >= released


def test_shared_map_is_written_back_by_msync(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(bytes(1 << 20))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[500_000:500_006] = b"mapped"
        memory.flush()
        assert os.pread(file.fileno(), 6, 500_000) == b"mapped"
        assert in_child(path.read_bytes)[500_000:500_006] == b"mapped"
    assert path.read_bytes() == bytes(500_000) + b"mapped" + bytes((1 << 20) - 500_006)


def test_shared_map_is_written_back_without_msync(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(bytes(300_000))
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    memory[123_456:123_460] = b"late"
    memory.close()
    assert path.read_bytes()[123_450:123_470] == bytes(6) + b"late" + bytes(10)


def test_map_sees_what_is_written(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"a" * 10_000)
    with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        assert memory[5000:5003] == b"aaa"
        os.pwrite(file.fileno(), b"bbb", 5000)
        assert memory[5000:5003] == b"bbb"


def test_private_map_does_not_reach_the_file(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"a" * 10_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        memory[0:3] = b"xyz"
        assert memory[0:4] == b"xyza"
    assert path.read_bytes() == b"a" * 10_000


def test_program_is_executed_from_the_mount(folder: Path) -> None:
    program = folder / "program"
    program.write_bytes(Path("/bin/echo").read_bytes())
    program.chmod(0o755)

    def run() -> bytes:
        reader, writer = os.pipe()
        if pid := os.posix_spawn(program, ["echo", "ran"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)]):
            os.waitpid(pid, 0)
        return os.read(reader, 100)

    assert in_child(run) == b"ran\n"


def test_open_flags_that_a_mount_may_refuse(folder: Path) -> None:
    """O_DIRECT works at page granularity; O_TMPFILE is refused, so that programs fall back (tempfile does)."""
    path = folder / "file"
    path.write_bytes(b"d" * 8192)
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 8192) as aligned:
            assert os.preadv(descriptor, [aligned], 0) == 8192
            assert aligned[:] == b"d" * 8192
            aligned[:] = b"e" * 8192
            assert os.pwritev(descriptor, [aligned], 8192) == 8192
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"d" * 8192 + b"e" * 8192
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes(folder: Path, flag: int) -> None:
    descriptor = os.open(folder / "file", os.O_CREAT | os.O_WRONLY | flag, 0o600)
    for number in range(20):
        os.write(descriptor, b"%04d" % number)
    os.close(descriptor)
    assert (folder / "file").read_bytes() == b"".join(b"%04d" % number for number in range(20))
