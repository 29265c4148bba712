"""Directories: large ones, changed while they are read, positions in them."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ENTRIES = 10_000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = ctypes.c_void_p
LIBC.readdir.restype = ctypes.c_void_p
LIBC.telldir.restype = ctypes.c_long


@pytest.fixture
def large(folder: Path) -> Path:
    """A directory of many files."""
    directory = os.open(folder, os.O_RDONLY)
    for number in range(ENTRIES):
        os.close(os.open(name_of(number), os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=directory))
    os.close(directory)
    return folder


def name_of(number: int) -> str:
    """Names of different lengths, so that pages of entries end at odd places."""
    return f"{number:05}" + "x" * (number % 40)


ALL = {name_of(number) for number in range(ENTRIES)}


@pytest.mark.timeout(120)
def test_every_entry_once(large: Path) -> None:
    names = os.listdir(large)
    assert (len(names), set(names)) == (ENTRIES, ALL)


@pytest.mark.timeout(120)
def test_entries_have_kind_and_inode(large: Path) -> None:
    with os.scandir(large) as entries:
        for entry in entries:
            if entry.name.startswith("000"):
                assert (entry.is_file(follow_symlinks=False), entry.inode()) == (True, os.stat(entry.path).st_ino)


@pytest.mark.timeout(120)
def test_deleting_while_reading_misses_nothing(large: Path) -> None:
    """What `rm -rf`, `find -delete` and log rotation do: an entry that nobody deleted may not be skipped."""
    with os.scandir(large) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(large) == []


@pytest.mark.timeout(120)
def test_rm_recursive(large: Path) -> None:
    subprocess.run(["rm", "-r", large], timeout=100, check=True)
    assert not large.exists()


@pytest.mark.timeout(120)
def test_entries_that_stay_are_seen_once_in_spite_of_changes(large: Path) -> None:
    """POSIX leaves open whether an entry made or removed meanwhile is seen; all others are, once."""
    seen: list[str] = []
    with os.scandir(large) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 100 == 50:
                (large / f"new-{count}").touch()
                os.unlink(large / entry.name)
    stayed = [name for name in seen if not name.startswith("new-")]
    assert (len(stayed), set(stayed)) == (ENTRIES, ALL)


def test_seekdir_returns_to_where_telldir_was(large: Path) -> None:
    directory = ctypes.c_void_p(LIBC.opendir(os.fsencode(large)))
    try:
        names: list[bytes] = []
        places: list[int] = []
        for name, place in entries_of(directory):
            names.append(name)
            places.append(place)
        for index in (0, 1, 777, 5000, len(names) - 2):
            LIBC.seekdir(directory, ctypes.c_long(places[index]))
            assert next(entries_of(directory))[0] == names[index + 1]
        LIBC.rewinddir(directory)
        assert next(entries_of(directory))[0] == names[0]
    finally:
        LIBC.closedir(directory)


def entries_of(directory: ctypes.c_void_p) -> Iterator[tuple[bytes, int]]:
    """Names of an open directory, each with the position after it."""
    name_offset = 19  # of d_name in Linux' struct dirent
    while address := LIBC.readdir(directory):
        yield ctypes.string_at(address + name_offset), LIBC.telldir(directory)


def test_directory_that_was_removed_while_open(folder: Path) -> None:
    (folder / "sub").mkdir()
    descriptor = os.open(folder / "sub", os.O_RDONLY)
    (folder / "sub").rmdir()
    try:
        assert os.listdir(descriptor) in ([], [".", ".."])
    except OSError as error:
        assert error.errno in (errno.ENOENT, errno.ESTALE)  # POSIX leaves the choice
    finally:
        os.close(descriptor)


def test_rename_of_directories(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("deep")
    (folder / "c").mkdir()
    (folder / "a").rename(folder / "c" / "a")
    assert (folder / "c" / "a" / "b" / "file").read_text() == "deep"
    with pytest.raises(OSError) as into_itself:
        (folder / "c").rename(folder / "c" / "a" / "c")
    assert into_itself.value.errno == errno.EINVAL
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    with pytest.raises(OSError) as onto_full:
        (folder / "c").rename(folder / "full")
    assert onto_full.value.errno in (errno.ENOTEMPTY, errno.EEXIST)


def test_links_count_sub_directories(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
    assert folder.stat().st_nlink == 5


def test_deep_tree_is_walked_and_removed(folder: Path) -> None:
    path = folder
    for level in range(60):
        path = path / f"level-{level}"
        path.mkdir()
        (path / "file").write_text(str(level))
    assert sum(len(files) for _, _, files in os.walk(folder)) == 60
    shutil.rmtree(folder / "level-0")
    assert os.listdir(folder) == []


def test_working_directory_inside(folder: Path) -> None:
    (folder / "sub").mkdir()
    done = subprocess.run(
        "cd sub && echo text > file && cat ../sub/file && pwd -P", shell=True, cwd=folder, capture_output=True,
        text=True, timeout=20, check=True,
    )  # fmt: skip
    assert done.stdout == f"text\n{os.path.realpath(folder)}/sub\n"
