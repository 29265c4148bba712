"""From files to pieces: blocks, budgets, files that are shared by threads."""

from __future__ import annotations

import os
import queue
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.warming.pieces import BLOCK_BYTES, OpenFile, Piece, Pieces, spans
from csi.warming.tally import Tally
from csi.warming.walking import File


def found(path: Path, *, size: int | None = None) -> File:
    status = path.lstat()
    return File(
        path=str(path), device=status.st_dev, size=status.st_size if size is None else size,
        mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns, seen_at=0.0,
    )  # fmt: skip


def pieces_of(*files: File, budget_bytes: int = 0) -> tuple[Pieces, Tally]:
    waiting: queue.Queue[File | None] = queue.Queue()
    for file in (*files, None):
        waiting.put(file)
    tally = Tally()
    pieces = Pieces(
        waiting, note=None, tally=tally, budget_bytes=budget_bytes, server_clock=None, is_stopped=lambda: False
    )
    return pieces, tally


def taken(pieces: Pieces) -> list[Piece]:
    all_of_them = []
    while (piece := pieces.take()) is not None:
        all_of_them.append(piece)
    return all_of_them


@given(st.integers(0, 20 * BLOCK_BYTES))
def test_blocks_are_aligned_and_cover_a_file_once(size: int) -> None:
    covered = 0
    for offset, length in spans(size):
        assert (offset, offset % BLOCK_BYTES) == (covered, 0)
        assert 0 < length <= BLOCK_BYTES
        covered += length
    assert covered == size


def test_files_come_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2 * BLOCK_BYTES + 1))
    (tmp_path / "empty").touch()
    (tmp_path / "small").write_bytes(b"x")
    pieces, tally = pieces_of(*(found(tmp_path / name) for name in ("large", "empty", "small")))
    assert [(piece.opened.file.path[-5:], piece.offset, piece.length) for piece in taken(pieces)] == [
        ("large", 0, BLOCK_BYTES), ("large", BLOCK_BYTES, BLOCK_BYTES), ("large", 2 * BLOCK_BYTES, 1), ("small", 0, 1),
    ]  # fmt: skip
    assert tally.figures().files_read == 1, "an empty file is not opened"
    assert not pieces.is_over_budget


def test_a_budget_is_never_exceeded_and_its_last_file_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3 * BLOCK_BYTES))
    pieces, _ = pieces_of(found(tmp_path / "large"), budget_bytes=2 * BLOCK_BYTES + 5)
    first, second = taken(pieces)
    assert pieces.is_over_budget
    assert first.opened.read_up_to == 2 * BLOCK_BYTES
    descriptor = first.opened.descriptor()
    assert not first.opened.finish()
    assert second.opened.finish()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_first_failure_of_a_file_is_that_of_all_its_pieces(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(2 * BLOCK_BYTES))
    opened = OpenFile(found(tmp_path / "file"), pieces=2)
    assert opened.fail(OSError(5, "EIO"))
    assert not opened.fail(OSError(13, "EACCES"))
    with pytest.raises(OSError, match="EIO"):
        opened.descriptor()
    assert not opened.finish()
    assert opened.finish()


def test_what_has_changed_since_it_was_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    same, changed, replaced = found(path), found(path, size=5), found(path)
    opened = OpenFile(same, pieces=1)
    opened.descriptor()
    assert opened.finish()
    assert not opened.is_changed
    opened = OpenFile(changed, pieces=1)
    opened.descriptor()
    assert opened.is_changed
    opened.finish()
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        OpenFile(replaced, pieces=1).descriptor()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not supported"):
        OpenFile(replaced, pieces=1).descriptor()  # and does not wait for a writer
