"""The note of what was read: what survives a crash, what does not, and its limits."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from csi.base.errors import Code, DriverError
from csi.warming import note as module
from csi.warming.note import Note
from csi.warming.walking import File

ARGUMENTS = ["nfs://nas/data", "/mnt/data"]
FILE = File(path="/mnt/data/a\nb\udcff", device=1, size=5, mtime_ns=7, ctime_ns=8, seen_at=0.0)
OTHER = replace(FILE, path="/mnt/data/other")


def opened(folder: Path, *, is_new: bool = False) -> Note:
    return Note.open(folder, ARGUMENTS, is_new=is_new)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_read_is_known_while_it_is_as_it_was(tmp_path: Path) -> None:
    first = opened(tmp_path / "new")
    first.add(FILE)
    assert not first.has(FILE), "a run skips what earlier ones have read, not its own"
    first.close()
    second = opened(tmp_path / "new")
    assert second.has(FILE)
    assert not any(second.has(replace(FILE, **changed)) for changed in ({"size": 6}, {"mtime_ns": 8}, {"path": "/b"}))
    second.close()
    other = Note.open(tmp_path / "new", ["nfs://nas/data", "/mnt/other"], is_new=False)
    assert not other.has(FILE)
    other.close()


def test_half_a_line_costs_that_line(tmp_path: Path) -> None:
    note = opened(tmp_path)
    note.add(FILE)
    note.add(OTHER)
    note.close()
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    note = opened(tmp_path)
    assert (note.has(FILE), note.has(OTHER)) == (True, False)
    note.add(OTHER)
    note.close()
    note = opened(tmp_path)
    assert (note.has(FILE), note.has(OTHER)) == (True, True)
    note.close()


def test_how_far_a_file_was_read(tmp_path: Path) -> None:
    note = opened(tmp_path)
    note.begin(FILE, read_up_to=2)
    note.begin(FILE, read_up_to=4)
    note.close()
    with only_file(tmp_path).open("ab") as file:
        file.write(b'{"begun": 7, "read_up_to": 1}\n{"begun"\n{"begun": "x", "read_up_to": -1}\n')
    note = opened(tmp_path)
    assert (note.has(FILE), note.read_up_to(FILE), note.read_up_to(OTHER)) == (False, 4, 0)
    assert note.read_up_to(replace(FILE, mtime_ns=1)) == 0, "it has changed"
    note.close()


def test_what_is_no_note_says_nothing(tmp_path: Path) -> None:
    opened(tmp_path).close()
    only_file(tmp_path).write_bytes(os.urandom(5000))
    note = opened(tmp_path)
    assert not note.has(FILE)
    note.close()


def test_it_is_forgotten_if_wanted_or_old_or_when_all_was_read(tmp_path: Path) -> None:
    def noted() -> bool:
        note = opened(tmp_path)
        try:
            return note.has(FILE)
        finally:
            note.add(FILE)
            note.close()

    assert [noted(), noted()] == [False, True]
    opened(tmp_path, is_new=True).close()
    assert [noted(), noted()] == [False, True]
    os.utime(only_file(tmp_path), (1, 1))
    assert [noted(), noted()] == [False, True]
    opened(tmp_path).remove()
    assert not list(tmp_path.iterdir())


def test_one_process_has_it(tmp_path: Path) -> None:
    note = opened(tmp_path)
    with pytest.raises(DriverError) as refused:
        opened(tmp_path)
    assert refused.value.code is Code.ABORTED
    note.close()
    opened(tmp_path).close()


def test_it_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTE_BYTES_MAX", 100)
    note = opened(tmp_path)
    for number in range(50):
        note.add(replace(FILE, size=number))
    note.close()
    assert 50 < only_file(tmp_path).stat().st_size <= 100


def test_a_folder_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTES_MAX", 3)
    for number in range(6):
        Note.open(tmp_path, [str(number)], is_new=False).close()
        assert len(list(tmp_path.iterdir())) <= 3


def test_a_full_disk_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = opened(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(note, "_descriptor", full)
    note.add(FILE)
    note.close()
