"""Quantities of Kubernetes as numbers, and numbers as Fluid prints them in its columns."""

import re
from decimal import ROUND_CEILING, Decimal

from csi.base.errors import invalid

#: What no quantity of Kubernetes exceeds (resource.Quantity, maxAllowed): 2^63 - 1.
BYTES_MAX = (1 << 63) - 1
_QUANTITY = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,3}))?")
_LENGTH_MAX = 64
_FACTORS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{unit: Decimal(1000) ** (power + 1) for power, unit in enumerate("kMGTPE")},
    **{unit + "i": Decimal(1024) ** (power + 1) for power, unit in enumerate("KMGTPE")},
}  # fmt: skip
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SIZE = re.compile(rf"([0-9]{{1,30}}\.[0-9]{{2}})({'|'.join(_UNITS)})")
_PERCENTAGE = re.compile(r"[0-9]{1,3}\.[0-9]%")


def bytes_of(quantity: str | int) -> int:
    """The bytes of a quantity such as ``15Gi``, rounded up as Kubernetes does, and :data:`BYTES_MAX` at most.

    Raises INVALID_ARGUMENT for what is none, or negative.
    """
    text = str(quantity)
    match = _QUANTITY.fullmatch(text) if len(text) <= _LENGTH_MAX else None
    if match is None:
        raise invalid(f"{text[:_LENGTH_MAX]!r} is not a quantity: write a number with a unit, such as 15Gi")
    sign, digits, unit, exponent = match.groups()
    number = Decimal(digits) * _FACTORS[unit or ""] * Decimal(10) ** int(exponent or 0)
    if sign == "-" and number:
        raise invalid(f"{text!r} is negative: write a quantity of zero or more, such as 15Gi")
    return int(min(number.to_integral_value(ROUND_CEILING), Decimal(BYTES_MAX)))


def size(number: int) -> str:
    """Bytes as Fluid prints them: two decimals and B, KiB, MiB, GiB, TiB or PiB without a space (``10.00GiB``)."""
    value, unit = float(number), 0
    while value >= 1024 and unit + 1 < len(_UNITS):  # noqa: PLR2004
        value, unit = value / 1024, unit + 1
    return f"{value:.2f}{_UNITS[unit]}"


def size_of(text: str) -> int | None:
    """The bytes of what :func:`size` has printed, as near as two decimals say; None for what it does not print."""
    match = _SIZE.fullmatch(text)
    return round(float(match[1]) * 1024 ** _UNITS.index(match[2])) if match else None


def ratio_of(text: str) -> float | None:
    """What :func:`percentage` has printed, from 0 to 1; None for what it does not print."""
    return float(text[:-1]) / 100 if _PERCENTAGE.fullmatch(text) else None


def percentage(part: float, whole: float) -> str:
    """``part`` of ``whole`` with one decimal (``99.5%``), 100.0% at most; of nothing it is ``0.0%``."""
    return f"{min(100.0 * part / whole, 100.0) if whole else 0.0:.1f}%"
