"""Reduces the memory of API objects: parts that are equal in several of them are stored once.

The objects of two Datasets differ in names and versions, and in hardly anything else. Shared parts must not be changed.
"""

import sys
from typing import Any, TypeVar

Value = TypeVar("Value")
#: Most parts that are known. When there are more all are forgotten, and later objects share with each other alone.
PARTS_MAX = 2048
#: Parts by what they are made of: of texts and parts in them their address, which is theirs while the part is here.
_parts: dict[tuple[object, ...], Any] = {}
_BY_ADDRESS = frozenset((str, dict, list))


def shared(value: Value) -> Value:
    """The same value, made of texts, objects and lists that others have as well; for one thread."""
    if isinstance(value, str):
        return sys.intern(value)  # type: ignore[return-value]  # JSON has no class of its own for texts
    made: Any
    if isinstance(value, dict):
        made = {sys.intern(name): shared(one) for name, one in value.items()}
        key: tuple[object, ...] = (*made, dict, *map(_mark, made.values()))
    elif isinstance(value, list):
        made = [shared(one) for one in value]
        key = (list, *map(_mark, made))
    else:
        return value
    if len(_parts) >= PARTS_MAX and key not in _parts:
        _parts.clear()
    return _parts.setdefault(key, made)  # type: ignore[no-any-return]


def _mark(value: object) -> object:
    """What is equal of two values that are the same, and of no others: 1, 1.0 and true are equal in Python."""
    return id(value) if type(value) in _BY_ADDRESS else repr(value)
