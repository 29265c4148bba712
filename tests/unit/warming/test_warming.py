"""A pass over a local directory: everything but the caches."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from csi.base.errors import DriverError
from csi.warming import warming as module
from csi.warming.filling import Filled, Level
from csi.warming.note import Note
from csi.warming.pieces import BLOCK_BYTES
from csi.warming.tally import Figures
from csi.warming.walking import Root
from csi.warming.warming import Plan, Warming

_LIMIT_S = 30.0


def plan(*roots: Path, jobs: int = 4, budget_bytes: int = 0, levels: Sequence[Level] = ()) -> Plan:
    device = roots[0].stat().st_dev
    found = [Root(path=str(root), device=device) for root in roots]
    by_device = {device: levels} if levels else {}
    return Plan(roots=found, jobs=jobs, budget_bytes=budget_bytes, waits_for_rest=False, levels=by_device)


def run(plan: Plan, *, note: Note | None = None) -> Figures:
    warming = Warming(plan, note=note)
    warming.start()
    assert warming.wait(_LIMIT_S)
    return warming.figures()


def open_below(folder: Path) -> list[str]:
    """What this process has open there; descriptors of others, which the test before has left, come and go."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [link for link in links if link.startswith(str(folder))]


@pytest.mark.parametrize("jobs", [1, 16])
def test_all_is_read(tmp_path: Path, jobs: int) -> None:
    total = 0
    for number in range(30):
        size = number * 131_071
        (tmp_path / str(number)).write_bytes(bytes(size))
        total += size
    figures = run(plan(tmp_path, jobs=jobs))
    assert (figures.files_read, figures.bytes_read, figures.bytes_missed, figures.files_failed) == (30, total, 0, 0)
    assert figures.bytes_settled == figures.bytes_found
    assert open_below(tmp_path) == []


def test_a_note_is_made_and_followed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        (data / str(number)).write_bytes(bytes(BLOCK_BYTES))

    def noted(budget: int = 0) -> Figures:
        note = Note.open(tmp_path / "notes", ["x"], is_new=False)
        try:
            return run(plan(data, budget_bytes=budget), note=note)
        finally:
            note.close()

    first = noted(2 * BLOCK_BYTES)
    assert (first.files_read, first.files_noted) == (2, 0)
    second = noted()
    assert (second.files_read, second.files_noted, second.bytes_noted) == (2, 2, 2 * BLOCK_BYTES)


def test_a_budget_gets_on_within_a_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "large").write_bytes(bytes(5 * BLOCK_BYTES + 7))

    def noted() -> Figures:
        note = Note.open(tmp_path / "notes", ["x"], is_new=False)
        try:
            return run(plan(data, budget_bytes=2 * BLOCK_BYTES), note=note)
        finally:
            note.close()

    runs = [noted() for _ in range(4)]
    assert [(run.bytes_read, run.bytes_noted, run.files_read, run.files_noted) for run in runs] == [
        (2 * BLOCK_BYTES, 0, 0, 0), (2 * BLOCK_BYTES, 2 * BLOCK_BYTES, 0, 0), (BLOCK_BYTES + 7, 4 * BLOCK_BYTES, 1, 0),
        (0, 5 * BLOCK_BYTES + 7, 0, 1),
    ]  # fmt: skip
    (data / "large").write_bytes(b"changed")
    assert noted().bytes_read == 7
    assert open_below(tmp_path) == []


def test_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of read(2), and files that go while they wait."""
    for name in ("broken", "gone", "good", "short"):
        (tmp_path / name).write_bytes(bytes(3 * BLOCK_BYTES))
    broken = (tmp_path / "broken").stat().st_ino
    real, opened = os.preadv, os.open

    def preadv(descriptor: int, *arguments: object) -> int:
        if os.fstat(descriptor).st_ino == broken:
            raise OSError(errno.EIO, "EIO")
        return real(descriptor, *arguments)  # type: ignore[arg-type]

    def open_(path: str, *arguments: object) -> int:
        if str(path).endswith("gone"):
            raise FileNotFoundError(errno.ENOENT, "ENOENT")
        if str(path).endswith("short"):
            os.truncate(path, BLOCK_BYTES + 5)
        return opened(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "open", open_)
    figures = run(plan(tmp_path))
    assert [(failure.path, failure.error_number) for failure in figures.failures] == [
        (str(tmp_path / "broken"), errno.EIO)
    ]
    assert (figures.files_failed, figures.files_vanished, figures.files_changed) == (1, 1, 1)
    assert (figures.files_read, figures.bytes_settled) == (2, figures.bytes_found)
    assert open_below(tmp_path) == []


def test_a_stop_ends_it_within_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.truncate(tmp_path / "file", 1 << 40)
    reading = threading.Event()
    real = module._read_block

    def read(*arguments: object) -> int:
        reading.set()
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read_block", read)
    warming = Warming(plan(tmp_path))
    warming.start()
    assert reading.wait(_LIMIT_S)
    warming.stop()
    assert warming.wait(_LIMIT_S)
    assert warming.figures().files_read == 0
    assert open_below(tmp_path) == []


def test_a_bug_in_a_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")

    def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "_read_block", broken)
    warming = Warming(plan(tmp_path))
    warming.start()
    with pytest.raises(ZeroDivisionError):
        warming.wait(_LIMIT_S)


def test_one_level_is_asked_for_each_block_and_says_what_it_lacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever answers in the daemon's place."""
    for name in ("changing", "large", "shrunk"):
        (tmp_path / name).write_bytes(bytes(2 * BLOCK_BYTES + 7))
    there: set[tuple[int, int]] = set()

    def fill(descriptor: int, offset: int, level: Level) -> Filled:
        assert level is Level.WORKERS
        file, size = Path(os.readlink(f"/proc/self/fd/{descriptor}")), os.fstat(descriptor).st_size
        block = (os.fstat(descriptor).st_ino, offset)
        was_there = block in there
        there.add(block)
        if file.name == "changing":
            os.utime(file)
        if file.name == "shrunk" and offset:
            return Filled(length=0, was_there=True)
        return Filled(length=min(BLOCK_BYTES, size - offset), was_there=was_there)

    monkeypatch.setattr(module, "fill", fill)
    monkeypatch.setattr(module, "OPEN_FLAGS", 0)  # not each file system of a test knows O_DIRECT
    first, second = (run(plan(tmp_path, levels=[Level.WORKERS])) for _ in range(2))
    assert (first.files_read, first.files_changed, first.bytes_read) == (3, 1, 5 * BLOCK_BYTES + 14)
    assert first.bytes_lacking == 3 * BLOCK_BYTES + 7, "of the one that changes nothing is said"
    assert first.bytes_settled == first.bytes_found
    assert (second.bytes_read, second.bytes_lacking) == (first.bytes_read, 0)
    assert open_below(tmp_path) == []


def test_of_several_levels_each_is_asked_and_a_block_is_absent_only_if_none_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of local store and workers, block by block: there, given, refused."""
    there, given, refused = ((True, False), (False, False), (False, True))
    answers = [
        (there, there), (there, given), (there, refused), (given, there), (given, refused), (refused, there),
        (refused, given), (refused, refused),
    ]  # fmt: skip
    (tmp_path / "file").write_bytes(bytes(len(answers) * BLOCK_BYTES))

    def fill(_descriptor: int, offset: int, level: Level) -> Filled:
        was_there, is_refused = answers[offset // BLOCK_BYTES][level is Level.WORKERS]
        return Filled(length=BLOCK_BYTES, was_there=was_there, is_refused=is_refused)

    monkeypatch.setattr(module, "fill", fill)
    monkeypatch.setattr(module, "OPEN_FLAGS", 0)
    figures = run(plan(tmp_path, levels=[*Level]))
    counts = (figures.bytes_lacking, figures.bytes_absent, figures.bytes_refused, figures.bytes_taken)
    assert [count // BLOCK_BYTES for count in counts] == [7, 3, 1, 4]
    assert (figures.bytes_read, figures.bytes_held) == (8 * BLOCK_BYTES, 5 * BLOCK_BYTES)


def test_a_file_system_that_cannot_fill_one_level_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a daemon does that knows nothing of this: the kernel refuses the ioctl of a file of this directory."""
    monkeypatch.setattr(module, "OPEN_FLAGS", 0)
    (tmp_path / "file").write_bytes(b"x")
    warming = Warming(plan(tmp_path, levels=[Level.LOCAL]))
    warming.start()
    with pytest.raises(DriverError, match="cannot fill a single level"):
        warming.wait(_LIMIT_S)


@pytest.mark.parametrize(("asked_in_vain", "while_s"), [(3, _LIMIT_S), (1 << 30, 0.1)])
def test_a_daemon_that_does_not_know_that_a_file_rests_is_asked_again_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_in_vain: int, while_s: float
) -> None:
    """A while is short here."""
    (tmp_path / "file").write_bytes(bytes(BLOCK_BYTES))
    asked = 0

    def fill(_descriptor: int, _offset: int, _level: Level) -> Filled:
        nonlocal asked
        asked += 1
        rests = asked > asked_in_vain
        return Filled(length=BLOCK_BYTES, was_there=False, is_refused=not rests, rests=rests)

    monkeypatch.setattr(module, "fill", fill)
    monkeypatch.setattr(module, "OPEN_FLAGS", 0)
    monkeypatch.setattr(module, "_DAEMON_POLL_SECONDS", 0.001)
    monkeypatch.setattr(module, "REST_SECONDS", while_s)
    figures = run(plan(tmp_path, levels=[Level.LOCAL]))
    assert (figures.files_read, figures.bytes_lacking) == (1, BLOCK_BYTES)
    assert figures.bytes_refused == (BLOCK_BYTES if asked_in_vain > 3 else 0)
    assert 1 < asked <= asked_in_vain + 1
