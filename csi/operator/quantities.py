"""Quantities of Kubernetes ("15Gi", "1500m", 1e3), read into numbers."""

import math
import re
from decimal import Decimal

from csi.base.errors import invalid

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}  # fmt: skip
_FORM = re.compile(r"(?P<number>[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30}))(?P<suffix>[numkMGTPE]|[KMGTPE]i)?")
_EXPONENT = re.compile(r"(?P<number>[^eE]+)[eE](?P<exponent>[+-]?[0-9]{1,2})")


def quantity(value: object, *, noun: str) -> int:
    """The number that a quantity is, the next whole one if it is none itself; raises INVALID_ARGUMENT."""
    text = str(value).strip()
    factor = Decimal(1)
    # "1E" is an exa, "1E3" a thousand.
    if scientific := _EXPONENT.fullmatch(text):
        text, factor = scientific["number"], Decimal(10) ** int(scientific["exponent"])
    match = _FORM.fullmatch(text)
    if match is None or (factor != 1 and match["suffix"]):
        raise invalid(f"{noun} is {str(value)[:64]!r}: expected a quantity, for example 15Gi")
    return math.ceil(Decimal(match["number"]) * _SUFFIXES[match["suffix"] or ""] * factor)
