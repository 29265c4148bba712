"""Compares an object with its desired state, of which an annotation of the object has a hash.

The hash tells whether the state applied last is the one desired now. A change by somebody else since is found by
comparing each desired field; additions by the API server do not count, nor do different notations of a quantity. A
status has no such hash: only its differences are written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from csi.api import quantities
from csi.base.errors import DriverError
from csi.operator.cluster import Json
from csi.operator.names import APPLIED_ANNOTATION

#: Fields that hold quantities, by name.
_QUANTITIES = frozenset({"cpu", "memory", "storage", "ephemeral-storage", "sizeLimit"})


def is_as_wanted(found: Json, wanted: Json) -> bool:
    """Whether an object of the API server's has all that is wanted, and nothing of what was wanted before."""
    applied = (found["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION)
    if applied != wanted["metadata"]["annotations"][APPLIED_ANNOTATION]:
        return False
    return all(
        _has(found.get(name), value, name) for name, value in wanted.items() if name not in ("kind", "apiVersion")
    )


def _has(found: object, wanted: object, name: str) -> bool:
    if found is None:
        return not wanted  # what is empty or 0 is left out
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_has(found.get(key), value, key) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and _has_all(found, wanted, name)
    return _quantity(found) == _quantity(wanted) if name in _QUANTITIES else found == wanted


def _has_all(found: Sequence[object], wanted: Sequence[object], name: str) -> bool:
    if name == "ownerReferences":
        # Others may be there as well.
        return all(any(_has(one, item, "") for one in found) for item in wanted)
    return len(found) == len(wanted) and all(_has(one, item, "") for one, item in zip(found, wanted, strict=True))


def _quantity(written: object) -> object:
    try:
        return quantities.bytes_of(str(written))
    except DriverError:
        return written


def merge_patch(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) that makes ``wanted`` of ``before``."""
    patch: dict[str, Any] = {name: None for name in before if name not in wanted}
    for name, value in wanted.items():
        former = before.get(name)
        if isinstance(value, Mapping) and isinstance(former, Mapping):
            if inner := merge_patch(former, value):
                patch[name] = inner
        elif value != former:
            patch[name] = value
    return patch
