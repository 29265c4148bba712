"""A change notification for any number of waiting tasks."""

import asyncio
import contextlib


class Changes:
    """Counts changes; who knows a count waits for the next one. For one event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._next: asyncio.Event = asyncio.Event()

    def note(self) -> None:
        """Something has changed."""
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def after(self, count: int, *, limit_seconds: float | None = None) -> None:
        """Returns when there was a change after so many, or the time is over."""
        event = self._next
        if self.count != count:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                await event.wait()
