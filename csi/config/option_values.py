"""Parses the text of an option into a value of the kind that the table gives it."""

import ipaddress
import re

from csi.base.errors import invalid
from csi.config.options import Kind, Option
from csi.config.unknown_names import quoted

#: Longest word and value of an option that are looked at at all.
WORD_LENGTH_MAX = 256
VALUE_LENGTH_MAX = 4096
_PATH = re.compile(r"/[!-~]*")
_ENDPOINT = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})(?:\*([0-9]{1,7}))?")
_IDS = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
#: The next number means nobody.
_ID_MAX = (1 << 32) - 2
_PORT_MAX = 65_535
_WEIGHT_MAX = 1_000_000
_UNITS = {
    Kind.INTEGER: {"": 1},
    Kind.DURATION: {"ms": 1, "s": 1000, "m": 60_000},
    Kind.SIZE: {"KiB": 1, "MiB": 1024, "GiB": 1024 * 1024, "TiB": 1024 * 1024 * 1024},
}


def value_of(option: Option, text: str | None, *, word: str, origin: str) -> bool | int | str:
    """Raises INVALID_ARGUMENT with what is allowed; ``word`` is what the option was called, ``origin`` where."""
    parsed = _parsed(option, text)
    if parsed is None:
        shown = "no value" if text is None else f"value {quoted(text)}"
        raise invalid(f"option {word!r} in {origin} has {shown}; allowed is {option.allowed()}")
    return parsed


def _parsed(option: Option, text: str | None) -> bool | int | str | None:
    """The value, or None if ``text`` is not one."""
    if option.kind is Kind.FLAG:
        chosen = {None: True, "true": True, "false": False}.get(text)
        return None if chosen is None else chosen is option.sets
    if text is None or len(text) > VALUE_LENGTH_MAX:
        return None
    if option.kind is Kind.CHOICE:
        text = dict(option.synonyms).get(text, text)
        return text if text in option.choices else None
    if option.kind is Kind.ENDPOINTS:
        is_known = not text or _PATH.fullmatch(text) or all(_is_endpoint(part) for part in text.split("+"))
        return text if is_known else None
    if option.kind in (Kind.PATH, Kind.IDS):
        is_right = _are_ids(text) if option.kind is Kind.IDS else _PATH.fullmatch(text) is not None
        return text if is_right else None
    number = _number(option, text)
    return number if number is not None and option.minimum <= number <= option.maximum else None


def _is_endpoint(text: str) -> bool:
    match = _ENDPOINT.fullmatch(text)
    if match is None or (match[1] and not _is_ipv6(match[1])):
        return False
    port, weight = int(match[2]), int(match[3] or 1)
    return 1 <= port <= _PORT_MAX and 1 <= weight <= _WEIGHT_MAX


def _are_ids(text: str) -> bool:
    match = _IDS.fullmatch(text)
    return match is not None and all(int(one) <= _ID_MAX for one in match.groups())


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _number(option: Option, text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,10})([A-Za-z]*)", text)
    factor = _UNITS[option.kind].get(match[2]) if match else None
    if match is None or factor is None:
        return None
    number = int(match[1]) * factor
    if option.unit == "MiB":
        return number // 1024 if number % 1024 == 0 else None
    return number
