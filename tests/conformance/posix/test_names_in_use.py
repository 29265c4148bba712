"""Processes that race on one name: whoever has opened a file has it, and nothing of ours stays behind."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conformance.posix.children import all_in_children
from tests.support.nas import Nas
from tests.support.processes import wait_until

RACE_S = 2.0
DIRECTORIES = 60


def read_again_and_again(path: Path, *, may_be_missing: bool) -> Counter[str]:
    """Opens, looks at and reads a file until the time is over. Returns how often each step ended how."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + RACE_S
    while time.monotonic() < end:
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            if not (may_be_missing and error.errno == errno.ENOENT):
                counts[f"open: {errno.errorcode[error.errno or 0]}"] += 1
            continue
        for step, use in (("fstat", os.fstat), ("read", lambda file: os.read(file, 10_000))):
            try:
                use(file)
                counts["fine"] += 1
            except OSError as error:
                counts[f"{step}: {errno.errorcode[error.errno or 0]}"] += 1
        os.close(file)
    return counts


def make_and_unlink(path: Path) -> Counter[str]:
    """Makes a file and removes it, again and again."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + RACE_S
    while time.monotonic() < end:
        path.write_bytes(b"x" * 5000)
        time.sleep(0.002)
        path.unlink()
        counts["removed"] += 1
    return counts


def replace(path: Path) -> Counter[str]:
    """Replaces a file by another, again and again."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + RACE_S
    while time.monotonic() < end:
        other = path.with_suffix(".new")
        other.write_bytes(b"x" * 5000)
        other.rename(path)
        counts["removed"] += 1
    return counts


@pytest.mark.parametrize("removal", ["unlink", "rename"])
def test_open_races_with_the_removal_of_its_name(folder: Path, nas: Nas, removal: str) -> None:
    names = [folder / f"file{number}" for number in range(2)]
    if removal == "rename":
        for path in names:
            path.write_bytes(b"x" * 5000)
    racers = [
        racer
        for path in names
        for racer in (
            lambda path=path: make_and_unlink(path) if removal == "unlink" else replace(path),
            lambda path=path: read_again_and_again(path, may_be_missing=removal == "unlink"),
        )
    ]
    counts = sum(all_in_children(racers, limit_s=60), Counter())
    assert counts.keys() == {"fine", "removed"}, counts
    behind = nas.export_folder() / folder.name
    where = behind if behind.exists() else folder
    wait_until(
        lambda: not [name for name in os.listdir(where) if name.startswith(".nfs")], what="all silly names to go"
    )


@pytest.mark.parametrize("last_use", ["close", "munmap"])
@pytest.mark.parametrize("removal", ["rmdir", "rename"])
def test_a_directory_goes_right_after_the_last_close_in_it(folder: Path, last_use: str, removal: str) -> None:
    for number in range(DIRECTORIES):
        directory = folder / f"directory{number}"
        directory.mkdir()
        file = os.open(directory / "file", os.O_RDWR | os.O_CREAT)
        os.write(file, b"x" * 8192)
        mapping = mmap.mmap(file, 8192) if last_use == "munmap" else None
        if mapping is not None:
            mapping[0:3] = b"abc"
        (directory / "file").unlink()
        os.close(file)
        if mapping is not None:
            mapping.close()
        if removal == "rmdir":
            directory.rmdir()
        else:
            (folder / "other").mkdir()
            (folder / "other").rename(directory)
            directory.rmdir()
    assert not os.listdir(folder)
