"""A terminal that is drawn anew again and again, and is afterwards as it was, however the command ends.

Plain ANSI: the alternate screen, a hidden cursor, keys as they are pressed. Only SIGKILL leaves it so (reset(1)
repairs that).
"""

import shutil
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
#: What ends a command without a word; 128 is added to their numbers for its exit status.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_SIGNAL_STATUS = 128


class Screen:
    """The terminal of standard input and output, inside a ``with`` block."""

    def __enter__(self) -> Self:
        self._settings = termios.tcgetattr(sys.stdin)
        for number in _SIGNALS:
            signal.signal(number, _ended)
        try:
            tty.setcbreak(sys.stdin)  # Ctrl-C is a signal still
            self._write(_ENTER)
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._settings)
        self._write(_LEAVE)

    def draw(self, lines: Sequence[str]) -> None:
        """Shows these lines, as much of them as there is room for."""
        columns, rows = shutil.get_terminal_size()
        shown = [f"{line[:columns]}{_CLEAR_LINE}" for line in lines[:rows]]
        self._write(_HOME + "\r\n".join(shown) + _CLEAR_BELOW)

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _ended(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(_SIGNAL_STATUS + number)
