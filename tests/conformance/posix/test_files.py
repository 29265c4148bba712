"""One file: its bytes, its size, its times, its names, its life."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.conformance.posix.conftest import MOUNT
from tests.support.nas import Nas

GIB = 1 << 30


def test_read_after_write_of_odd_sizes(folder: Path) -> None:
    for size in (0, 1, 511, 4095, 4096, 4097, 131_073, 1 << 20, (1 << 20) + 1, 3_333_333):
        data = os.urandom(size)
        (folder / "file").write_bytes(data)
        assert (folder / "file").stat().st_size == size
        assert (folder / "file").read_bytes() == data, f"{size} bytes"


def test_close_makes_data_visible_to_the_server(nas: Nas, mounted_folder: Path) -> None:
    data = os.urandom(2_500_000)
    (mounted_folder / "file").write_bytes(data)
    assert (nas.export_folder() / mounted_folder.name / "file").read_bytes() == data


def test_change_on_the_server_is_seen_at_the_next_open(nas: Nas, mounted_folder: Path) -> None:
    behind = nas.export_folder() / mounted_folder.name / "file"
    behind.write_text("first")
    assert (mounted_folder / "file").read_text() == "first"
    behind.write_text("second, longer")
    assert (mounted_folder / "file").read_text() == "second, longer"
    os.listdir(mounted_folder)
    behind.write_text("third, after its attributes came with the list")
    assert (mounted_folder / "file").read_text() == "third, after its attributes came with the list"
    same_size = "THIRD, after its attributes came with the list"
    behind.write_text(same_size)
    assert (mounted_folder / "file").read_text() == same_size


def test_offsets_beyond_four_gib(folder: Path) -> None:
    places = (0, 2 * GIB - 1, 4 * GIB - 1, 4 * GIB + 100, 5 * GIB + 12_345)
    with (folder / "file").open("w+b") as file:
        for place in places:
            os.pwrite(file.fileno(), b"%020d" % place, place)
        os.fsync(file.fileno())
        for place in places:
            assert os.pread(file.fileno(), 20, place) == b"%020d" % place
    status = (folder / "file").stat()
    assert status.st_size == 5 * GIB + 12_345 + 20
    assert status.st_blocks * 512 < 64 << 20, "the file is sparse"


def test_holes_read_as_zeros(folder: Path) -> None:
    with (folder / "file").open("w+b") as file:
        file.truncate(10 << 20)
        os.pwrite(file.fileno(), b"island", 5 << 20)
        assert os.pread(file.fileno(), 4096, 0) == bytes(4096)
        assert os.pread(file.fileno(), 12, (5 << 20) - 3) == b"\0\0\0island\0\0\0"
    assert (folder / "file").read_bytes() == bytes(5 << 20) + b"island" + bytes((5 << 20) - 6)


def test_truncate_shrinks_and_grows_with_zeros(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"x" * 100_000)
    os.truncate(path, 10)
    assert path.read_bytes() == b"x" * 10
    os.truncate(path, 70_000)
    assert path.read_bytes() == b"x" * 10 + bytes(69_990)


def test_open_with_truncate(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"much longer than what follows")
    path.write_bytes(b"short")
    assert path.read_bytes() == b"short"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert (path.stat().st_size, path.read_bytes()) == (0, b"")


def test_truncate_by_another_descriptor_is_seen(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"x" * 8192)
    with path.open("rb", buffering=0) as reader:
        assert reader.read(10) == b"x" * 10
        os.truncate(path, 5)
        assert os.pread(reader.fileno(), 10, 0) == b"x" * 5
        assert os.fstat(reader.fileno()).st_size == 5


def test_times_have_nanoseconds(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    os.utime(path, ns=(1_111_111_111_123_456_789, 999_999_999_987_654_321))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1_111_111_111_123_456_789, 999_999_999_987_654_321)


def is_mount(request: pytest.FixtureRequest) -> bool:
    """Whether the test's `folder` is on the mount."""
    return request.node.callspec.params["folder"] == MOUNT  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("seconds", "nearest"), [(-1, 0), (-(1 << 31), 0), ((1 << 32) - 1, (1 << 32) - 1), (1 << 33, (1 << 32) - 1)]
)
def test_times_out_of_range(request: pytest.FixtureRequest, folder: Path, seconds: int, nearest: int) -> None:
    """NFSv3 has unsigned seconds of 32 bits: on the mount such a time is the nearest, as for Linux's own client."""
    path = folder / "file"
    path.touch()
    os.utime(path, (seconds, seconds))
    wanted = nearest if is_mount(request) else seconds
    assert (path.stat().st_atime, path.stat().st_mtime) == (wanted, wanted)


@pytest.mark.parametrize("copy", [["cp", "-a"], ["tar"], ["rsync", "-a"]], ids=lambda copy: copy[0])
def test_programs_copy_a_file_from_before_1970(
    request: pytest.FixtureRequest, tmp_path: Path, folder: Path, copy: list[str]
) -> None:
    old = tmp_path / "old"
    old.write_text("content")
    os.utime(old, (-86_400, -86_400))
    if copy == ["tar"]:
        archive = tmp_path / "old.tar"
        subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "old"], check=True)
        subprocess.run(["tar", "-C", folder, "-xf", archive], check=True)
    else:
        subprocess.run([*copy, old, folder / "old"], check=True)
    assert (folder / "old").read_text() == "content"
    assert (folder / "old").stat().st_mtime == (0 if is_mount(request) else -86_400)


def test_changes_move_the_times(folder: Path) -> None:
    path = folder / "file"
    path.write_text("1")
    first = path.stat()
    time.sleep(0.02)
    path.write_text("2")
    second = path.stat()
    assert second.st_mtime_ns > first.st_mtime_ns
    time.sleep(0.02)
    path.chmod(0o600)
    third = path.stat()
    assert (third.st_mtime_ns, third.st_ctime_ns > second.st_ctime_ns) == (second.st_mtime_ns, True)
    before = folder.stat().st_mtime_ns
    time.sleep(0.02)
    (folder / "other").touch()
    assert folder.stat().st_mtime_ns > before


def test_statx(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"x" * 5000)
    buffer = ctypes.create_string_buffer(256)
    basic = 0x7FF
    assert ctypes.CDLL(None, use_errno=True).statx(-100, os.fsencode(path), 0x100, basic, buffer) == 0
    mask = int.from_bytes(buffer.raw[0:4], "little")
    size = int.from_bytes(buffer.raw[40:48], "little")
    assert (mask & basic, size) == (basic, 5000)


def test_statvfs(folder: Path) -> None:
    space = os.statvfs(folder)
    assert 0 < space.f_bavail <= space.f_bfree <= space.f_blocks
    assert 0 < space.f_ffree <= space.f_files
    assert space.f_namemax == 255


def test_space_is_that_of_the_server(nas: Nas, mounted_folder: Path) -> None:
    here, there = os.statvfs(mounted_folder), os.statvfs(nas.export_folder())
    assert here.f_blocks * here.f_frsize == there.f_blocks * there.f_frsize


def test_unlinked_file_lives_while_it_is_open(folder: Path) -> None:
    path = folder / "file"
    with path.open("w+b") as file:
        file.write(b"still here")
        file.flush()
        path.unlink()
        assert not path.exists()
        assert os.listdir(folder) == []
        os.pwrite(file.fileno(), b"more", 10)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 20, 0) == b"still heremore"
        assert os.fstat(file.fileno()).st_size == 14
        path.write_text("a new file of the same name")
        assert os.pread(file.fileno(), 5, 0) == b"still"
    assert path.read_text() == "a new file of the same name"


def test_unlinked_file_is_reaped_on_the_server(nas: Nas, mounted_folder: Path) -> None:
    behind = nas.export_folder() / mounted_folder.name
    with (mounted_folder / "file").open("wb") as file:
        file.write(b"x")
        (mounted_folder / "file").unlink()
        assert os.listdir(mounted_folder) == []
    end = time.monotonic() + 30
    while os.listdir(behind) and time.monotonic() < end:
        time.sleep(0.05)
    assert os.listdir(behind) == []


def test_directory_with_an_unlinked_open_file_can_be_removed(folder: Path) -> None:
    """An NFS client keeps such a file under another name, and so its directory from being empty: until it is closed."""
    (folder / "sub").mkdir()
    with (folder / "sub" / "file").open("wb") as file:
        (folder / "sub" / "file").unlink()
        assert os.listdir(folder / "sub") == []
        try:
            (folder / "sub").rmdir()
        except OSError as error:
            # What every NFSv3 client answers; docs/SEMANTICS.md says so.
            assert error.errno in (errno.ENOTEMPTY, errno.EBUSY, errno.EEXIST)
            file.close()
            _retry(lambda: (folder / "sub").rmdir())


def _retry(action: object, limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while True:
        try:
            return action()  # type: ignore[operator, no-any-return]
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def test_rename_over_an_open_file(folder: Path) -> None:
    (folder / "old").write_text("old content")
    (folder / "new").write_text("new content")
    with (folder / "old").open() as reader:
        (folder / "new").rename(folder / "old")
        assert (folder / "old").read_text() == "new content"
        assert reader.read() == "old content"
    assert os.listdir(folder) == ["old"]


def test_rename_of_an_open_file_keeps_it(folder: Path) -> None:
    (folder / "sub").mkdir()
    with (folder / "a").open("w+") as file:
        file.write("1")
        file.flush()
        (folder / "a").rename(folder / "sub" / "b")
        file.write("2")
        file.flush()
        os.fsync(file.fileno())
    assert (folder / "sub" / "b").read_text() == "12"


def test_rename_no_replace_and_exchange(folder: Path) -> None:
    """RENAME_NOREPLACE and RENAME_EXCHANGE do what they say, or refuse with EINVAL; they never replace silently."""
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    for flag in (1, 2):
        done = rename(-100, os.fsencode(folder / "a"), -100, os.fsencode(folder / "b"), flag) == 0
        contents = (folder / "a").read_text() + (folder / "b").read_text()
        if not done:
            assert ctypes.get_errno() in (errno.EEXIST, errno.EINVAL)
        assert contents == ("ba" if done else "ab")


def test_hard_links(folder: Path) -> None:
    (folder / "a").write_text("one file")
    os.link(folder / "a", folder / "b")
    (folder / "b").write_text("changed")
    assert (folder / "a").read_text() == "changed"
    assert ((folder / "a").stat().st_nlink, (folder / "a").stat().st_ino) == (2, (folder / "b").stat().st_ino)
    (folder / "a").unlink()
    assert ((folder / "b").stat().st_nlink, (folder / "b").read_text()) == (1, "changed")
    with pytest.raises(FileExistsError):
        (folder / "c").touch()
        os.link(folder / "b", folder / "c")


@pytest.mark.parametrize(
    "target", [b"plain", b"/absolute/../path", b"new\nline \xff\xfe\x01 \xe2\x82\xac", b"x" * 1023]
)
def test_symlinks_keep_every_byte(folder: Path, target: bytes) -> None:
    link = os.fsencode(folder / "link")
    os.symlink(target, link)
    assert os.readlink(link) == target
    assert (os.lstat(link).st_size, stat.S_ISLNK(os.lstat(link).st_mode)) == (len(target), True)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"*?[", "ünïcode €".encode(), b"..."])
def test_names_of_odd_bytes(folder: Path, name: bytes) -> None:
    path = os.fsencode(folder) + b"/" + name
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    assert os.listdir(os.fsencode(folder)) == [name]
    os.unlink(path)


def test_names_up_to_255_bytes(folder: Path) -> None:
    (folder / ("x" * 255)).touch()
    assert os.listdir(folder) == ["x" * 255]
    with pytest.raises(OSError) as failure:
        (folder / ("x" * 256)).touch()
    assert failure.value.errno == errno.ENAMETOOLONG


def test_fifo_and_socket(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with subprocess.Popen(["cat", folder / "fifo"], stdout=subprocess.PIPE) as reader:
        (folder / "fifo").write_text("through a pipe")
        assert reader.communicate(timeout=20)[0] == b"through a pipe"
    directory = os.open(folder, os.O_RDONLY)
    listener, caller = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with listener, caller:
        short_path = f"/proc/self/fd/{directory}/socket"  # sun_path has 108 bytes
        listener.bind(short_path)
        listener.listen()
        caller.connect(short_path)
    os.close(directory)
    kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in folder.iterdir()}
    assert kinds == {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}


def test_device_nodes_do_not_open(mounted_folder: Path) -> None:
    """Every mount is nodev: a device node on the NAS gives nobody a device."""
    os.mknod(mounted_folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert stat.S_ISCHR((mounted_folder / "null").stat().st_mode)
    assert (mounted_folder / "null").stat().st_rdev == os.makedev(1, 3)
    with pytest.raises(PermissionError):
        (mounted_folder / "null").read_bytes()
