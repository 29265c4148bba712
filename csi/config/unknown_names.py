"""The error for a name that an allow-list does not contain: the list, and the nearest name in it."""

import difflib
from collections.abc import Iterable

from csi.base.errors import DriverError, invalid

_SHOWN_LENGTH_MAX = 64


def unknown(name: str, *, known: Iterable[str], also: Iterable[str] = (), noun: str, origin: str) -> DriverError:
    """INVALID_ARGUMENT for a name that is not in an allow-list, with the nearest that is.

    ``also`` are names that may be the nearest, and are not listed.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:64].lower(), [*names, *sorted(also)], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return invalid(f"unknown {noun} {quoted(name)} in {origin}{hint}; known are: {', '.join(names)}")


def quoted(text: str) -> str:
    """A text of a user's for a message: printable, and not at any length."""
    return repr(text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "...")
