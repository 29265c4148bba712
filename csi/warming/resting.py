"""When caches accept a file that was found: once a daemon knows that it has not changed for a while.

The rules are those of efc/cache/src/version.rs. The server's clock is estimated from its own stamps: it is past each
ctime that was seen, and advances as ours does. Only a file that has not changed for a day is judged by our clock alone.
A file that is read earlier is not cached.
"""

import time
from collections.abc import Callable

from csi.warming.walking import File

#: After its last change: ten seconds, the longest tick of a server's stamps, and what its machines' clocks may differ.
REST_SECONDS = 13.0
#: What the clocks of node and server may differ.
SKEW_SECONDS_MAX = 24 * 3600.0


class ServerClock:
    """What is known of the server's clock. One thread shows it stamps, any may ask."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, unix_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._unix_clock = clock, unix_clock
        #: How far it is ahead of the monotonic clock at least, in seconds.
        self._ahead = float("-inf")

    def observe(self, ctime_ns: int) -> None:
        """A file or directory has this ctime, in ns since 1970, now."""
        ctime = ctime_ns / 1e9
        if ctime <= self._unix_clock() + SKEW_SECONDS_MAX:
            self._ahead = max(self._ahead, ctime - self._clock())

    def rest_delay(self, file: File) -> float:
        """Seconds until caches take it; 0 if they do."""
        ctime = file.ctime_ns / 1e9
        if ctime + SKEW_SECONDS_MAX + REST_SECONDS <= self._unix_clock():
            return 0.0
        now = self._clock()
        return max(0.0, min(file.seen_at + REST_SECONDS - now, ctime + REST_SECONDS - (self._ahead + now)))
