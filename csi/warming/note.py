"""The note of a run: which files it has read, so that the next run with the same arguments skips them. Append-only.

Each file has a line of JSON: path, size, mtime in ns; a file that was read up to an offset has that in a line of
another form. A crash costs what was not yet written, and at most half a line. Nothing is synced: a power failure costs
only reading again, mostly from caches. A note says that a file was read, not that caches still have it, so one that is
a day old is not used.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from csi.base.errors import Code, DriverError
from csi.warming.walking import File

#: Longest note; what is read beyond it is read again by the next run.
NOTE_BYTES_MAX = 64 << 20
#: Notes in a folder; then the oldest go.
NOTES_MAX = 32
AGE_SECONDS_MAX = 24 * 3600.0
_BEGUN = b"{"


class Note:
    """The note of one set of arguments, which this process alone has."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._size = os.fstat(descriptor).st_size
        #: Of lines, since a million paths would take more memory. Two lines of one hash cost a file that is not read.
        self._lines: frozenset[int] = frozenset()
        self._begun: dict[str, int] = {}

    @classmethod
    def open(cls, folder: Path, arguments: Sequence[str], *, is_new: bool) -> Self:
        """The note of these arguments in a folder, both of which are made; without what it said if ``is_new``.

        Raises ABORTED while another process has it, and OSError.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(list(arguments)).encode()).hexdigest()[:32]
        path = folder / f"{digest}.jsonl"
        note = cls(path, _locked(path))
        _forget_oldest(folder, but=path)
        if is_new or time.time() - os.fstat(note._descriptor).st_mtime > AGE_SECONDS_MAX:
            note.clear()
        else:
            note._read()
        return note

    def _read(self) -> None:
        with open(self._descriptor, "rb", closefd=False) as file:
            text = file.read(NOTE_BYTES_MAX + 1)
        whole = text.rfind(b"\n") + 1
        lines = text[:whole].splitlines(keepends=True)
        self._lines = frozenset(hash(line) for line in lines if not line.startswith(_BEGUN))
        self._begun = dict(found for line in lines if line.startswith(_BEGUN) if (found := _parsed(line)) is not None)
        os.ftruncate(self._descriptor, whole)
        self._size = whole

    def has(self, file: File) -> bool:
        """Whether an earlier run has read it as it is now."""
        return hash(_line(file)) in self._lines

    def read_up_to(self, file: File) -> int:
        """Before which offset in bytes an earlier run has read it, which was not to read all."""
        return min(self._begun.get(_line(file).decode(), 0), file.size)

    def add(self, file: File) -> None:
        """It was read. Any thread may say so; a note that is full, or cannot be written, says nothing more."""
        self._append(_line(file))

    def begin(self, file: File, *, read_up_to: int) -> None:
        """It was read up to an offset in bytes."""
        self._append(json.dumps({"begun": _line(file).decode(), "read_up_to": read_up_to}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        if self._size + len(line) <= NOTE_BYTES_MAX:
            self._size += len(line)
            with contextlib.suppress(OSError):
                os.write(self._descriptor, line)

    def clear(self) -> None:
        """Nothing was read."""
        os.ftruncate(self._descriptor, 0)
        self._size, self._lines, self._begun = 0, frozenset(), {}

    def remove(self) -> None:
        """All was read: the next run begins anew."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """Leaves it to the next run."""
        os.close(self._descriptor)


def _line(file: File) -> bytes:
    return json.dumps([file.path, file.size, file.mtime_ns]).encode() + b"\n"


def _parsed(line: bytes) -> tuple[str, int] | None:
    """The file's own line and the offset; None if it is damaged."""
    try:
        found = json.loads(line)
        begun, read_up_to = found["begun"], found["read_up_to"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (begun, read_up_to) if isinstance(begun, str) and type(read_up_to) is int and read_up_to > 0 else None


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DriverError(Code.ABORTED, "another warm-up of the same paths is in progress") from None
        except OSError:
            os.close(descriptor)
            raise
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # whoever had it has just removed it


def _forget_oldest(folder: Path, *, but: Path) -> None:
    """Removes the oldest notes beyond those that are kept; one that is in use goes on without its name."""
    with contextlib.suppress(OSError):
        by_age = sorted((path.stat().st_mtime, path) for path in folder.glob("*.jsonl") if path != but)
        for _, path in by_age[: -(NOTES_MAX - 1)]:
            path.unlink(missing_ok=True)
