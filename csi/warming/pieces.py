"""Divides the files that were found into pieces for the reading threads, piece by piece and file by file.

Pieces are the blocks that caches keep. The first thread that reads from a file opens it and the last one closes it, so
no more files are open than there are threads. A file that caches may not accept yet, because it may still be changing,
waits (and so do the files found after it): read earlier, it would not be cached.
"""

import os
import queue
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import ENOTSUP, EXDEV

from csi.warming.note import Note
from csi.warming.resting import ServerClock
from csi.warming.tally import Tally
from csi.warming.walking import File

#: As caches have it (efc/cache/src/blocks/mod.rs).
BLOCK_BYTES = 1 << 20
#: Files that were found and are not begun.
FILES_WAITING_MAX = 65_536
_POLL_SECONDS = 0.1
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def spans(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length in bytes of each block of a file."""
    for offset in range(0, size, BLOCK_BYTES):
        yield offset, min(BLOCK_BYTES, size - offset)


class OpenFile:
    """A file that is being read, by any number of threads."""

    def __init__(self, file: File, *, pieces: int, flags: int = 0) -> None:
        """``pieces`` of it are to be read; it is opened with these flags besides."""
        self.file, self._flags = file, flags
        #: It is not as it was found.
        self.is_changed = False
        #: All before this offset in bytes is read when it is closed: less than its size if that is not to be.
        self.read_up_to = file.size
        #: What a level that is filled had not got of it, none of them had, and none was given.
        self.bytes_lacking = self.bytes_absent = self.bytes_refused = 0
        self._lock = threading.Lock()
        self._descriptor = -1
        self._error: OSError | None = None
        self._pieces_left = pieces

    def descriptor(self) -> int:
        """Opens it if nobody has. Raises OSError, also what :meth:`fail` was told."""
        with self._lock:
            if self._error is not None:
                raise OSError(self._error.errno, self._error.strerror)
            if self._descriptor < 0:
                self._open()
            return self._descriptor

    def _open(self) -> None:
        self._descriptor = os.open(self.file.path, _OPEN_FLAGS | self._flags)
        status = os.fstat(self._descriptor)
        if status.st_dev != self.file.device:
            raise OSError(EXDEV, os.strerror(EXDEV))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(ENOTSUP, os.strerror(ENOTSUP))
        # Blocks are read as they are asked for: read-ahead would get those of other threads a second time.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self.is_changed = not self.file.is_same_as(status)

    def fail(self, error: OSError) -> bool:
        """Nothing more of it is to be read; whether this is the first failure."""
        with self._lock:
            is_first = self._error is None
            self._error = self._error or error
            self.read_up_to = 0
            return is_first

    def lack(self, count: int, *, is_absent: bool, is_refused: bool) -> None:
        """A level that is filled had not got so many bytes of it; whether none had, and none took them."""
        with self._lock:
            self.bytes_lacking += count
            self.bytes_absent += count if is_absent else 0
            self.bytes_refused += count if is_refused else 0

    def cut(self, pieces: int, *, at: int = 0) -> bool:
        """So many pieces, from the offset ``at`` on, will not be read; whether there were no others, as of finish."""
        with self._lock:
            self.read_up_to = min(self.read_up_to, at)
        return self.finish(pieces)

    def finish(self, pieces: int = 1) -> bool:
        """So many pieces are done with; whether these were the last, with which it is closed."""
        with self._lock:
            self._pieces_left -= pieces
            if self._pieces_left > 0:
                return False
            if self._descriptor >= 0:
                self._close()
            return True

    def _close(self) -> None:
        try:
            self.is_changed |= not self.file.is_same_as(os.fstat(self._descriptor))
        except OSError:
            self.is_changed = True
        os.close(self._descriptor)
        self._descriptor = -1


def settle(opened: OpenFile, *, note: Note | None, tally: Tally) -> None:
    """Counts and notes a file of which nothing more is to be read. One that failed was counted then."""
    file = opened.file
    is_whole = opened.read_up_to == file.size
    if is_whole:
        tally.add(files_read=1)
    if opened.is_changed and opened.read_up_to:
        tally.add(files_changed=1, bytes_changed=file.size)
        return
    tally.add(bytes_lacking=opened.bytes_lacking, bytes_absent=opened.bytes_absent, bytes_refused=opened.bytes_refused)
    if opened.bytes_refused:
        return  # the next run tries it again
    if note is not None and is_whole:
        note.add(file)
    elif note is not None and opened.read_up_to:
        note.begin(file, read_up_to=opened.read_up_to)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A block of a file, in bytes."""

    opened: OpenFile
    offset: int
    length: int


class Pieces:
    """Hands pieces out, until all files that a walk puts into ``found`` (None at its end) are, or the budget is used.

    ``budget_bytes`` 0 is no limit. Without a ``server_clock`` no file is waited for. ``flags`` are of open(2), besides.
    """

    def __init__(
        self,
        found: "queue.Queue[File | None]",
        *,
        note: Note | None,
        tally: Tally,
        budget_bytes: int,
        server_clock: ServerClock | None,
        is_stopped: Callable[[], bool],
        flags: int = 0,
    ) -> None:
        self._found, self._note, self._tally, self._flags = found, note, tally, flags
        self._bytes_left = budget_bytes or None
        self._server_clock, self._is_stopped = server_clock, is_stopped
        self._lock = threading.Lock()
        self._current: tuple[OpenFile, deque[tuple[int, int]]] | None = None
        self._is_at_end = False
        self.is_over_budget = False
        self.is_waiting_for_rest = False

    def take(self) -> Piece | None:
        """The next one; None if there are no more. Waits for the walk, and for files to rest."""
        with self._lock:
            while not self._is_at_end:
                if self._is_stopped():
                    self._end()
                elif self._current is None:
                    self._current = self._next_file()
                elif (piece := self._next_piece(*self._current)) is not None:
                    return piece
            return None

    def _next_piece(self, opened: OpenFile, left: deque[tuple[int, int]]) -> Piece | None:
        """The next one of this file; None if it has no more, or the budget does not allow it."""
        if not left:
            self._current = None
            return None
        offset, length = left[0]
        if self._bytes_left is not None:
            if self._bytes_left < length:
                self.is_over_budget = True
                self._end()
                return None
            self._bytes_left -= length
        left.popleft()
        return Piece(opened=opened, offset=offset, length=length)

    def _end(self) -> None:
        """Hands out nothing more."""
        self._is_at_end = True
        if self._current is not None:
            opened, left = self._current
            if left and opened.cut(len(left), at=left[0][0] if self.is_over_budget else 0):
                settle(opened, note=self._note, tally=self._tally)

    def _next_file(self) -> tuple[OpenFile, deque[tuple[int, int]]] | None:
        """None: look again."""
        try:
            file = self._found.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return None
        if file is None:
            self._end()
        elif self._note is not None and self._note.has(file):
            self._tally.add(files_noted=1, bytes_noted=file.size)
        elif file.size == 0:
            self._tally.add(files_read=1)
        elif self._rests(file):
            return self._begun(file)
        return None

    def _begun(self, file: File) -> tuple[OpenFile, deque[tuple[int, int]]]:
        begin = self._note.read_up_to(file) if self._note is not None else 0
        left = deque((offset, length) for offset, length in spans(file.size) if offset >= begin)
        self._tally.add(bytes_noted=file.size - sum(length for _, length in left))
        return OpenFile(file, pieces=len(left), flags=self._flags), left

    def _rests(self, file: File) -> bool:
        """Waits until caches take it; False if it was stopped."""
        while self._server_clock is not None and (delay := self._server_clock.rest_delay(file)) > 0:
            self.is_waiting_for_rest = True
            if self._is_stopped():
                return False
            time.sleep(min(delay, _POLL_SECONDS))
        self.is_waiting_for_rest = False
        return True
