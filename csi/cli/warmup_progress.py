"""How far a warm-up is, on standard error: one line that is redrawn on a terminal, a line now and then elsewhere."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from csi.cli.figures import duration, rate, size
from csi.warming.tally import Figures

#: On a terminal, and elsewhere.
DRAW_SECONDS, LINE_SECONDS = 0.2, 10.0
#: The rate is that of so long.
_SPEED_SECONDS = 10.0
_END_OF_LINE = "\x1b[K"


class Speed:
    """Bytes per second over the last while, from how many there were at some moments."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int]] = deque()

    def at(self, now: float, count: int) -> float:
        """The rate now that there were ``count`` bytes; 0 as long as nothing can be said."""
        if self._moments and count < self._moments[-1][1]:
            self._moments.clear()  # another pass
        self._moments.append((now, count))
        while len(self._moments) > 2 and self._moments[1][0] < now - _SPEED_SECONDS:  # noqa: PLR2004 - begin and end
            self._moments.popleft()
        begin, before = self._moments[0]
        return (count - before) / (now - begin) if now > begin else 0.0


def line_of(figures: Figures, *, bytes_per_second: float, is_waiting: bool, number: int) -> str:
    """One line about pass ``number``; without a percentage as long as the total is not known."""
    files, settled = figures.files_read + figures.files_noted, figures.bytes_settled
    parts = [f"check {number - 1}:"] if number > 1 else []
    if is_waiting:
        return "  ".join([*parts, f"{files:,} files", "waiting until recently changed files can be cached"])
    if not figures.is_walked:
        parts += [f"{files:,} files", size(settled), rate(bytes_per_second)]
        return "  ".join([*parts, f"({figures.files_found:,} files, {size(figures.bytes_found)} found so far)"])
    percent = 100 * settled // figures.bytes_found if figures.bytes_found else 100
    parts += [f"{percent}%", f"{files:,} of {figures.files_found:,} files"]
    parts += [f"{size(settled)} of {size(figures.bytes_found)}", rate(bytes_per_second)]
    if bytes_per_second > 0:
        parts.append(f"{duration((figures.bytes_found - settled) / bytes_per_second)} left")
    return "  ".join(parts)


class Progress:
    """Shows it; ``show`` is called as often as ``interval_seconds`` says. ``stream`` None: it is not shown."""

    def __init__(self, stream: TextIO | None = sys.stderr, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._is_terminal = stream is not None and stream.isatty()
        self._speed = Speed()
        self._next_at = clock() + self._every
        self._is_drawn = False

    @property
    def _every(self) -> float:
        return DRAW_SECONDS if self._is_terminal else LINE_SECONDS

    def show(self, figures: Figures, *, is_waiting: bool, number: int) -> None:
        """Shows how far it is, if it is time for that."""
        now = self._clock()
        bytes_per_second = self._speed.at(now, figures.bytes_settled)
        if self._stream is None or now < self._next_at:
            return
        self._next_at = now + self._every
        line = line_of(figures, bytes_per_second=bytes_per_second, is_waiting=is_waiting, number=number)
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r{line[: columns - 1]}{_END_OF_LINE}")
            self._is_drawn = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Takes the line off the terminal."""
        if self._stream is not None and self._is_drawn:
            self._stream.write(f"\r{_END_OF_LINE}")
            self._stream.flush()
            self._is_drawn = False
