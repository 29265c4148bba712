"""What a daemon is asked to fill one level with: as efc/daemon/src/filesystem/warming/request.rs has it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from csi.base.errors import Code, DriverError
from csi.warming import filling
from csi.warming.filling import Filled, Level, fill

_COMMAND = 0xC018EF01


def test_a_question_and_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered by the test, in the daemon's place."""
    asked = []

    def ioctl(_descriptor: int, command: int, data: bytearray) -> int:
        assert command == _COMMAND
        offset, level, outcome, length = struct.unpack("=QIIQ", data)
        asked.append((offset, level, outcome, length))
        data[:] = struct.pack("=QIIQ", offset, level, len(asked), 7)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    found = [fill(3, 1 << 40, level) for level in (Level.LOCAL, Level.WORKERS, Level.LOCAL, Level.LOCAL)]
    assert asked == [(1 << 40, level, 0, 0) for level in (1, 2, 1, 1)]
    assert found == [
        Filled(length=7, was_there=True), Filled(length=7, was_there=False),
        Filled(length=7, was_there=False, is_refused=True),
        Filled(length=7, was_there=False, is_refused=True, rests=False),
    ]  # fmt: skip


def answer(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is answered with this errno."""

    def ioctl(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.ENOSYS])
def test_what_no_further_file_would_change(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(number, monkeypatch)
    with pytest.raises(DriverError, match="cannot fill a single level") as raised:
        fill(3, 0, Level.LOCAL)
    assert raised.value.code is Code.UNIMPLEMENTED


def test_a_level_that_there_is_not_any_more_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(errno.EOPNOTSUPP, monkeypatch)
    found = fill(3, 0, Level.LOCAL)
    assert (found.was_there, found.is_refused, found.rests) == (False, True, True)
    assert found.length > 1 << 60, "whatever the block's is, another level may know"


def test_a_file_of_another_file_system_is_refused_by_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with (tmp_path / "file").open("rb") as file, pytest.raises(DriverError, match="cannot fill a single level"):
        fill(file.fileno(), 0, Level.WORKERS)
    assert filling.OPEN_FLAGS & (os.O_RDWR | os.O_WRONLY) == 0
