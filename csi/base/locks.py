"""Keyed locks that are tried, never waited for (CSI: a second call for the same object may be answered ABORTED).

Waiting would block a call, and use up its client's timeout, behind one that may hang; a CO retries anyway.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from csi.base.errors import Code, DriverError


class KeyedLocks:
    """The keys that are being worked on. For one event loop; nothing here blocks."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._held: set[str] = set()

    def is_held(self, key: str) -> bool:
        """Whether somebody works on ``key``."""
        return key in self._held

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Holds ``key`` for the body; raises ABORTED at once if somebody does already."""
        if key in self._held:
            raise DriverError(Code.ABORTED, f"another call for {self._noun} {key!r} is in progress: try again")
        self._held.add(key)
        try:
            yield
        finally:
            self._held.discard(key)
