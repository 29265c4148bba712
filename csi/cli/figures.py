"""Figures for people: sizes, rates and times in the unit in which they are short."""

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def size(count: float) -> str:
    """A number of bytes, for example ``1.5 GiB``."""
    for unit, unit_bytes in _UNITS:
        if count >= unit_bytes:
            return f"{count / unit_bytes:.1f} {unit}"
    return f"{count:.0f} B"


def rate(bytes_per_second: float) -> str:
    """Bytes per second, for example ``120.0 MiB/s``."""
    return f"{size(bytes_per_second)}/s"


def duration(seconds: float) -> str:
    """A time, for example ``8 s``, ``4:05`` or ``2:04:05``; beyond a day ``3 d``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    if whole < _DAY:
        return f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02}:{whole % _MINUTE:02}"
    return f"{whole // _DAY} d"
