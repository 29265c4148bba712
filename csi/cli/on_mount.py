"""Which mount of EFC a path lies on, found out without looking at anything that lies on one: it may be dead.

Symbolic links that lead to a mount are followed; what a path names on the mount itself stays as it is.
"""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from csi.base.errors import Code, DriverError
from csi.node.mounts import FILE_SYSTEM_TYPE, Mount, containing

#: As many as Linux follows (MAXSYMLINKS).
_LINKS_MAX = 40


@dataclass(frozen=True, kw_only=True)
class Place:
    """An absolute path, and the mount of EFC that it lies on."""

    path: str
    mount: Mount


class Places:
    """Finds out of any number of paths where they lie, by the mounts of one moment."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self._mounts = mounts
        self._targets = {mount.target for mount in mounts}
        #: Of directories, since long lists name many files of each.
        self._known: dict[str, Place | None] = {}

    def of(self, text: str) -> Place:
        """Where ``text`` lies; raises INVALID_ARGUMENT unless that is a mount of EFC."""
        if not text:
            raise DriverError(Code.INVALID_ARGUMENT, "a path is empty")
        path = os.path.abspath(text)
        directory = os.path.dirname(path)
        if directory not in self._known:
            self._known[directory] = self._find(directory)
        above = self._known[directory]
        if above is not None:
            path = os.path.join(above.path, os.path.basename(path))
        place = None if above is None else Place(path=path, mount=above.mount)
        if place is None or path in self._targets:
            place = self._find(path)
        if place is None:
            raise DriverError(Code.INVALID_ARGUMENT, f"{text!r} is not on a mount of EFC (efc status shows the mounts)")
        return place

    def _find(self, path: str) -> Place | None:
        done, names = "/", _names(path)
        for _ in range(_LINKS_MAX):
            while names:
                step = os.path.join(done, names.popleft())
                if self._ours(step) is not None:
                    whole = os.path.join(step, *names)
                    mount = self._ours(whole)  # another one may be mounted there
                    return None if mount is None else Place(path=whole, mount=mount)
                if (link := _link(step)) is not None:
                    names = _names(os.path.normpath(os.path.join(done, link, *names)))
                    done = "/"
                    break
                done = step
            else:
                return None
        return None

    def _ours(self, path: str) -> Mount | None:
        mount = containing(self._mounts, path)
        return mount if mount is not None and mount.file_system_type == FILE_SYSTEM_TYPE else None


def _names(path: str) -> deque[str]:
    return deque(name for name in path.split("/") if name)


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:  # it is no link; whether anything is there is asked by who reads it
        return None


def without_nested(places: Iterable[Place]) -> list[Place]:
    """The same without those that lie below another one on the same file system, and each once."""
    places = list(dict.fromkeys(places))
    named = {(place.mount.device, place.path) for place in places}
    return [place for place in places if not any((place.mount.device, above) in named for above in _above(place.path))]


def _above(path: str) -> Iterable[str]:
    while path != "/":
        path = os.path.dirname(path)
        yield path
