"""The counts of a pass so far, updated by its threads, and a snapshot of them for display.

Each byte of a file that was found is once *read*, *noted* (by an earlier run) or *missed*, so their sum over the bytes
found is the progress of the pass.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

#: Failures that are kept with their paths; the others are counted.
FAILURES_SHOWN_MAX = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A file or directory that could not be read; ``error_number`` is an errno."""

    path: str
    error_number: int


@dataclass(kw_only=True, slots=True)
class Figures:
    """Counts of files and bytes of one pass."""

    is_walked: bool = False  # all that there is was found: the totals are known
    files_found: int = 0
    bytes_found: int = 0
    files_read: int = 0
    bytes_read: int = 0  # where levels are filled: looked at, whether they had them, took them or not
    bytes_taken: int = 0  # of these, what a level that is filled had not got, and has taken
    files_noted: int = 0  # were read by an earlier run, and have not changed
    bytes_noted: int = 0
    bytes_missed: int = 0  # of files that failed, vanished or became shorter
    bytes_lacking: int = 0  # of those read, what a level that is filled had not got; without files that changed
    bytes_absent: int = 0  # of these, what none of them had
    bytes_refused: int = 0  # of these, what none was given: they take nothing now, or the daemon had not got it
    files_failed: int = 0  # directories count, too
    files_vanished: int = 0  # removed since their directory was listed
    files_changed: int = 0  # while they were waited for or read: no cache may keep what was read of them
    bytes_changed: int = 0
    files_linked: int = 0  # further names of files that were found already
    files_other: int = 0  # no regular files (symbolic links, sockets, ...), or of another file system
    failures: list[Failure] = field(default_factory=list)

    @property
    def bytes_held(self) -> int:
        """Of those read, what a level that is filled had before."""
        return max(0, self.bytes_read - self.bytes_absent - self.bytes_changed)

    @property
    def bytes_settled(self) -> int:
        """Bytes of which nothing more is to come."""
        return self.bytes_read + self.bytes_noted + self.bytes_missed


class Tally:
    """The figures of a pass under way; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures = Figures()

    def add(self, **counts: int) -> None:
        """Adds to the figures of these names."""
        with self._lock:
            for name, count in counts.items():
                setattr(self._figures, name, getattr(self._figures, name) + count)

    def fail(self, path: str, error_number: int) -> None:
        """One more file or directory that could not be read."""
        self._change(lambda figures: _fail(figures, Failure(path=path, error_number=error_number)))

    def walked(self) -> None:
        """Nothing more will be found."""
        self._change(lambda figures: setattr(figures, "is_walked", True))

    def _change(self, change: Callable[[Figures], None]) -> None:
        with self._lock:
            change(self._figures)

    def figures(self) -> Figures:
        """A copy of them, all of one moment."""
        with self._lock:
            return replace(self._figures, failures=list(self._figures.failures))


def _fail(figures: Figures, failure: Failure) -> None:
    figures.files_failed += 1
    if len(figures.failures) < FAILURES_SHOWN_MAX:
        figures.failures.append(failure)
