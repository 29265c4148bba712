"""One pass over the data: a thread that walks, threads that read, and a bounded queue between them.

The data that is read is discarded: reading it through the mount is what fills the caches. Each block is dropped from
the node's own page cache before it is read, so that the read reaches the daemon, and after, to leave the page cache to
applications. If levels are filled each by itself, nothing is read here: the daemon is asked to (:mod:`.filling`).

A thread that waits for a NAS cannot be stopped. So a pass can be ended without waiting for its threads (they are daemon
threads): the process exits, which kills their reads.
"""

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from csi.warming.filling import OPEN_FLAGS, Filled, Level, fill
from csi.warming.note import Note
from csi.warming.pace import Pace
from csi.warming.pieces import BLOCK_BYTES, FILES_WAITING_MAX, Piece, Pieces, settle
from csi.warming.resting import REST_SECONDS, ServerClock
from csi.warming.tally import Figures, Tally
from csi.warming.walking import File, Root, Walk, has_vanished

#: Readers at most.
JOBS_MAX = 256
_PUT_SECONDS = 0.1
_DAEMON_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be read, and how; of ``globs``, ``budget_bytes`` and ``bytes_per_second`` none is no limit."""

    roots: Sequence[Root]
    globs: Sequence[str] = ()
    jobs: int = 16
    #: A file that caches may not take yet is waited for; False in a pass over what was read a moment ago.
    waits_for_rest: bool = True
    #: By the device of a file system: those that are filled each by itself. Where there are none, files are read.
    levels: Mapping[int, Sequence[Level]] = field(default_factory=dict)
    budget_bytes: int = 0
    pace: Pace = field(default_factory=Pace)


class Warming:
    """A pass under way, from :meth:`start` on. With a note, what it has is skipped, and what is read is added."""

    def __init__(self, plan: Plan, *, note: Note | None = None) -> None:
        self._plan, self._note = plan, note
        self._tally = Tally()
        self._stop = threading.Event()
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._readers_left = plan.jobs
        self._crash: BaseException | None = None
        self._daemon_knows_at: float | None = None
        self._server_clock = ServerClock()
        self._found: queue.Queue[File | None] = queue.Queue(FILES_WAITING_MAX)
        self._pieces = Pieces(
            self._found,
            note=note,
            tally=self._tally,
            budget_bytes=plan.budget_bytes,
            server_clock=self._server_clock if plan.waits_for_rest else None,
            is_stopped=self._stop.is_set,
            flags=OPEN_FLAGS if plan.levels else 0,
        )

    def start(self) -> None:
        """Starts the threads."""
        self._thread(self._walk, name="walk")
        for number in range(self._plan.jobs):
            self._thread(self._read_pieces, name=f"read-{number}")

    def wait(self, seconds: float) -> bool:
        """Whether the pass has come to its end within this time.

        Raises what a thread has failed with: UNIMPLEMENTED if levels cannot be filled alone, all else is a bug.
        """
        is_at_end = self._end.wait(seconds)
        if self._crash is not None:
            raise self._crash
        return is_at_end

    def stop(self) -> None:
        """Nothing new is begun."""
        self._stop.set()

    def figures(self) -> Figures:
        """What it has come to so far."""
        return self._tally.figures()

    @property
    def is_over_budget(self) -> bool:
        """It has ended, or will, since the budget is used."""
        return self._pieces.is_over_budget

    @property
    def is_waiting_for_rest(self) -> bool:
        """It reads nothing now, as the next file may have changed lately."""
        return self._pieces.is_waiting_for_rest

    def _thread(self, work: Callable[[], None], *, name: str) -> None:
        threading.Thread(target=self._guarded, args=[work], name=name, daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._crash = error
            self._stop.set()
            self._end.set()

    def _walk(self) -> None:
        show_ctime = self._server_clock.observe
        walk = Walk(self._plan.roots, globs=self._plan.globs, tally=self._tally, show_ctime=show_ctime)
        for file in walk.files():
            if not self._put(file):
                return
        self._put(None)

    def _put(self, file: File | None) -> bool:
        """Puts it into the queue when there is room; False if nobody takes any more."""
        while not self._stop.is_set() and not self._end.is_set():
            try:
                self._found.put(file, timeout=_PUT_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def _read_pieces(self) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while (piece := self._pieces.take()) is not None:
            if self._stop.wait(self._plan.pace.delay(piece.length)):
                piece.opened.cut(1)
                break
            self._read(piece, buffer)
        with self._lock:
            self._readers_left -= 1
            if self._readers_left:
                return
        self._end.set()

    def _read(self, piece: Piece, buffer: memoryview) -> None:
        opened, count = piece.opened, 0
        try:
            count = self._count(opened.descriptor(), piece, buffer)
        except OSError as error:
            self._failed(piece, error)
        self._tally.add(bytes_read=count, bytes_missed=piece.length - count)
        if opened.finish():
            settle(opened, note=self._note, tally=self._tally)

    def _count(self, descriptor: int, piece: Piece, buffer: memoryview) -> int:
        """Reads a block, or has it read; how many bytes there were of what is wanted."""
        levels = self._plan.levels.get(piece.opened.file.device, ())
        if not levels:
            return _read_block(descriptor, piece, buffer)
        filled = [self._filled(descriptor, piece.offset, level) for level in levels]
        count = min(piece.length, *(one.length for one in filled))
        if lacking := [one for one in filled if not one.was_there]:
            is_absent, is_taken = len(lacking) == len(filled), not all(one.is_refused for one in lacking)
            piece.opened.lack(count, is_absent=is_absent, is_refused=is_absent and not is_taken)
            self._tally.add(bytes_taken=count if is_taken else 0)
        return count

    def _filled(self, descriptor: int, offset: int, level: Level) -> Filled:
        filled = fill(descriptor, offset, level)
        while not filled.rests and self._waits_for_daemon():
            filled = fill(descriptor, offset, level)
        return filled

    def _waits_for_daemon(self) -> bool:
        """Waits a little for the daemon to know that files rest; False if it has had the time, or this was stopped.

        One that has come in the place of another knows less of the server's clock than the walk had it know, for so
        long as it takes it to learn. What it takes for changed after that has changed.
        """
        with self._lock:
            if self._daemon_knows_at is None:
                self._daemon_knows_at = time.monotonic() + REST_SECONDS
        return time.monotonic() < self._daemon_knows_at and not self._stop.wait(_DAEMON_POLL_SECONDS)

    def _failed(self, piece: Piece, error: OSError) -> None:
        opened = piece.opened
        if not opened.fail(error):
            return
        if has_vanished(error) and not opened.file.is_root:
            self._tally.add(files_vanished=1)
        else:
            self._tally.fail(opened.file.path, error.errno or errno.EIO)


def _read_block(descriptor: int, piece: Piece, buffer: memoryview) -> int:
    """Reads a block into ``buffer``; how many bytes there were: fewer at the end of a file that has become shorter."""
    # To the end of the block in both cases: a page that is only half named would stay.
    os.posix_fadvise(descriptor, piece.offset, BLOCK_BYTES, os.POSIX_FADV_DONTNEED)
    count = 0
    while count < piece.length:
        read = os.preadv(descriptor, [buffer[count : piece.length]], piece.offset + count)
        if read == 0:
            break
        count += read
    os.posix_fadvise(descriptor, piece.offset, BLOCK_BYTES, os.POSIX_FADV_DONTNEED)
    return count
