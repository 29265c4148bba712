"""Values on the command line: numbers, times and sizes with their units.

Each function takes the text of one, and raises ArgumentTypeError with what is expected instead.
"""

import argparse
from pathlib import Path

_IDLE_GRACE_SECONDS_MAX = 86_400
_DIGITS_MAX = 9
#: As csi.warming.warming has it, which is not imported for a command line.
_JOBS_MAX = 256
_BUDGET_BYTES_MIN = 1 << 20
_INTERVAL_SECONDS_MIN, _INTERVAL_SECONDS_MAX = 0.1, 3600.0


def size(text: str) -> int:
    """Bytes, of a size such as 10GiB."""
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
    digits, unit = text[:-3], text[-3:]
    if not (_is_number(digits) and int(digits) and unit in units):
        raise argparse.ArgumentTypeError("expected a whole number with unit KiB, MiB, GiB or TiB")
    return int(digits) * units[unit]


def budget(text: str) -> int:
    """The same, at least a block."""
    value = size(text)
    if value < _BUDGET_BYTES_MIN:
        raise argparse.ArgumentTypeError("expected 1MiB, of which caches keep blocks, or more")
    return value


def rate(text: str) -> int:
    """Bytes per second, of a rate such as 100MiB/s."""
    if not text.endswith("/s"):
        raise argparse.ArgumentTypeError("expected a size per second, for example 100MiB/s")
    return size(text.removesuffix("/s"))


def jobs(text: str) -> int:
    """How many at a time."""
    if not (_is_number(text) and 1 <= int(text) <= _JOBS_MAX):
        raise argparse.ArgumentTypeError(f"expected a number, 1 to {_JOBS_MAX}")
    return int(text)


def interval(text: str) -> float:
    """Seconds, of a time such as 500ms."""
    for unit, seconds in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        digits = text.removesuffix(unit)
        if digits != text and _is_number(digits):
            value = int(digits) * seconds
            if _INTERVAL_SECONDS_MIN <= value <= _INTERVAL_SECONDS_MAX:
                return value
    raise argparse.ArgumentTypeError("expected a whole number with unit ms, s or m, 100ms to 60m")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS_MAX


def mebibytes(text: str) -> int:
    """MiB, of a size such as 10GiB."""
    units = {"MiB": 1, "GiB": 1024, "TiB": 1024 * 1024}
    digits, unit = text[:-3], text[-3:]
    if not (_is_number(digits) and unit in units):
        raise argparse.ArgumentTypeError("expected a whole number with unit MiB, GiB or TiB")
    return int(digits) * units[unit]


def disk(text: str) -> tuple[Path, int]:
    """A directory, and how many MiB may lie there."""
    directory, equals, room = text.rpartition("=")
    if not (equals and directory.startswith("/")):
        raise argparse.ArgumentTypeError("expected an absolute path, '=' and a size, for example /data/cache=100GiB")
    return Path(directory), mebibytes(room)


def count(text: str) -> int:
    """A number from 1 on."""
    if not (_is_number(text) and int(text) > 0):
        raise argparse.ArgumentTypeError("expected a number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """Seconds, at most a day."""
    value = float(text)
    if not 0 <= value <= _IDLE_GRACE_SECONDS_MAX:
        raise argparse.ArgumentTypeError("expected 0 to 86400 seconds")
    return value
