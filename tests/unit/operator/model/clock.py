"""An event loop whose time goes on when nothing is left to be done: hours of waiting take a moment."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Skipping(selectors.DefaultSelector):
    """Waits for nothing but what is there already, and says how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_seconds = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "all wait for each other"
        ready = super().select(0)
        if not ready:
            self.skipped_seconds += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped_seconds


def run(story: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(story)
