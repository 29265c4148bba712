"""Which files a walk finds."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from csi.warming import walking
from csi.warming.tally import FAILURES_SHOWN_MAX, Tally
from csi.warming.walking import Root, Walk


def walk(*roots: Path, globs: tuple[str, ...] = ()) -> tuple[list[str], Tally]:
    tally = Tally()
    found = Walk(
        [Root(path=str(root), device=roots[0].lstat().st_dev) for root in roots], globs=globs, tally=tally
    ).files()
    return [file.path for file in found], tally


def test_the_ctime_of_each_file_and_directory_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").touch()
    shown: list[int] = []
    root = Root(path=str(tmp_path), device=tmp_path.lstat().st_dev)
    list(Walk([root], globs=(), tally=Tally(), show_ctime=shown.append).files())
    assert shown == [path.lstat().st_ctime_ns for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "1")]


def test_directories_come_in_the_order_of_their_listing(tmp_path: Path) -> None:
    for name in ("a/1", "a/b/2", "a/c/3", "d/4", "5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def expected(directory: Path) -> list[str]:
        entries = list(os.scandir(directory))
        below = [path for entry in entries if entry.is_dir() for path in expected(Path(entry.path))]
        return [entry.path for entry in entries if entry.is_file()] + below

    found, tally = walk(tmp_path)
    assert found == expected(tmp_path)
    figures = tally.figures()
    assert (figures.files_found, figures.bytes_found, figures.is_walked) == (5, 3 + 5 + 5 + 3 + 1, True)


def test_what_is_no_file_or_was_found_before_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other-name").hardlink_to(tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "circle").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    found, tally = walk(tmp_path)
    figures = tally.figures()
    assert (len(found), figures.files_linked, figures.files_other, figures.files_failed) == (1, 1, 4, 0)
    monkeypatch.setattr(walking, "LINKED_FILES_MAX", 0)
    assert len(walk(tmp_path)[0]) == 2, "without memory it is read by both names"


def test_patterns(tmp_path: Path) -> None:
    for name in ("a.bin", "a.txt", "d/b.bin", "d/e/c.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def matching(*globs: str) -> set[str]:
        return {os.path.relpath(path, tmp_path) for path in walk(tmp_path, globs=globs)[0]}

    assert matching("*.bin") == {"a.bin", "d/b.bin", "d/e/c.bin"}
    assert matching("d/*.bin") == {"d/b.bin", "d/e/c.bin"}
    assert matching("*.txt", "d/e/*") == {"a.txt", "d/e/c.bin"}
    assert walk(tmp_path / "a.txt", globs=("*.bin",))[0] == [str(tmp_path / "a.txt")], "what is named is wanted"


def test_roots_that_cannot_be_read_fail(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    found, tally = walk(tmp_path / "file", tmp_path / "none", tmp_path / "link", Path("/proc/self"), Path("/proc/1"))
    numbers = [failure.error_number for failure in tally.figures().failures]
    assert (found, numbers) == ([str(tmp_path / "file")], [errno.ENOENT, errno.ELOOP, errno.ELOOP, errno.EXDEV])


def test_failures_are_counted_and_the_first_are_kept() -> None:
    tally = Tally()
    for number in range(25):
        tally.fail(str(number), errno.EIO)
    figures = tally.figures()
    assert (figures.files_failed, len(figures.failures)) == (25, FAILURES_SHOWN_MAX)
    assert figures.failures[-1].path == str(FAILURES_SHOWN_MAX - 1)


def test_too_many_directories_fail_and_the_others_are_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "DIRECTORIES_WAITING_MAX", 2)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").touch()
    found, tally = walk(tmp_path)
    assert (len(found), tally.figures().files_failed) == (2, 3)


def test_a_tree_deeper_than_python_may_recurse(tmp_path: Path) -> None:
    below = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=below)
        below, above = os.open("d", os.O_RDONLY, dir_fd=below), below
        os.close(above)
    os.close(below)
    try:
        found, tally = walk(tmp_path)
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True, timeout=60)  # pytest would recurse
    assert (found, tally.figures().files_failed) == ([], 0)
