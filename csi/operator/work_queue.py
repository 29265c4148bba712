"""A work queue of keys: only one worker at a time processes a key, and again if the key was added meanwhile.

Adding a key that waits already changes nothing; adding one that is being processed has it processed once more. Failures
are retried with growing back-off, others at a time that they ask for. Of several times for one key the earliest holds.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_LOGGER = logging.getLogger(__name__)
Key = TypeVar("Key", bound=Hashable)
#: The first delay after a failure; it doubles with each further one.
BACK_OFF_SECONDS_MIN = 0.1
BACK_OFF_SECONDS_MAX = 30.0


class WorkQueue(Generic[Key]):
    """Keys to be worked on, on the running event loop."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()  # in _ready
        self._working: set[Key] = set()
        self._again: set[Key] = set()  # added while worked on
        self._later: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """How many keys wait or are worked on, those for later not counted."""
        return len(self._ready) + len(self._working)

    def add(self, key: Key) -> None:
        """Has ``key`` worked on as soon as possible."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_later(self, key: Key, delay_seconds: float) -> None:
        """Has ``key`` worked on after a delay, unless it is earlier for another reason."""
        loop = asyncio.get_running_loop()
        at = loop.time() + delay_seconds
        planned = self._later.get(key)
        if planned is not None:
            if planned.when() <= at:
                return
            planned.cancel()
        self._later[key] = loop.call_at(at, self._is_due, key)

    def forget(self, key: Key) -> None:
        """Drops what is planned for a key that is no more."""
        self._failures.pop(key, None)
        if (planned := self._later.pop(key, None)) is not None:
            planned.cancel()

    async def run(self, work: Callable[[Key], Awaitable[None]], *, workers: int) -> None:
        """Works until cancelled; an exception of ``work`` is logged, and the key tried again."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(work))

    async def _work(self, work: Callable[[Key], Awaitable[None]]) -> None:
        while True:
            while not self._ready:
                self._wake.clear()
                await self._wake.wait()
            key = self._ready.popleft()
            self._waiting.discard(key)
            # What was planned for later is planned anew by the work itself.
            if (planned := self._later.pop(key, None)) is not None:
                planned.cancel()
            self._working.add(key)
            try:
                await work(key)
            except Exception as error:  # noqa: BLE001  # one key must not end the work on all others
                self._failed(key, error)
            else:
                self._failures.pop(key, None)
            finally:
                self._working.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _failed(self, key: Key, error: Exception) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN * 2.0 ** min(failures, 20))
        message = getattr(error, "message", None)
        if message is None:
            _LOGGER.error("%s: tried again in %g s", key, delay, exc_info=error)
        else:
            _LOGGER.warning("%s: %s; tried again in %g s", key, message, delay)
        self.add_later(key, delay)

    def _is_due(self, key: Key) -> None:
        self._later.pop(key, None)
        self.add(key)
