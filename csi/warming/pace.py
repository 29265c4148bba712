"""The rate limit of reads: bytes per second, for all threads together, without bursts."""

import threading
import time
from collections.abc import Callable


class Pace:
    """Has callers wait so long that they get no more than so many bytes per second; 0 is no limit."""

    def __init__(self, bytes_per_second: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_second, self._clock = bytes_per_second, clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def delay(self, length: int) -> float:
        """Takes a turn for ``length`` bytes; how many seconds the caller waits before he reads them."""
        if not self._bytes_per_second:
            return 0.0
        with self._lock:
            now = self._clock()
            begins = max(now, self._free_at)
            self._free_at = begins + length / self._bytes_per_second
            return begins - now
