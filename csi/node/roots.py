"""Checks whether a running daemon serves the directory that its source names today.

A daemon keeps the directory that was there when it was mounted. If that is replaced on the NAS (moved away, or removed
and made again), new pods of this node would get the old directory and those of other nodes the new one, or every
publish would fail with "Stale file handle". So before a running daemon gets a new user, it looks the directory up once
more over its own connections. If the directory was replaced, a second daemon is started beside the old one, with a key
that has a part of the new directory's handle appended; otherwise the key stays the same over releases of the driver.

The answer is reused for a second, so that a hundred pods of one dataset cost one lookup. A keeper or daemon of an older
release gives no answer: its directories count as not replaced.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.node.keeper import Keeper

_LOGGER = logging.getLogger(__name__)
#: How long a daemon's answer counts.
_FRESH_SECONDS = 1.0
#: How long a daemon is not asked again that has not answered, or does not know the question.
_SILENT_SECONDS = 30.0
_SILENT = (Code.DEADLINE_EXCEEDED, Code.INVALID_ARGUMENT)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A daemon's answer; ``root`` is None if it has not given one."""

    root: efc_pb2.FoundRoot | None
    until: float
    #: Whether there can be a daemon at all, as far as the keeper says.
    is_mounted: bool


class Roots:
    """The answers of daemons about their roots, and the keys that follow from them."""

    def __init__(self, *, keeper: Keeper, mount_of: Callable[[str], str]) -> None:
        self._keeper = keeper
        self._mount_of = mount_of
        self._answers: dict[str, _Answer] = {}
        self._asking: dict[str, asyncio.Task[_Answer]] = {}
        #: Key -> what has become of the directory that its daemon serves.
        self._moved: dict[str, str] = {}

    def moved(self, key: str) -> str:
        """Why new users of the dataset do not get this daemon any more; "" if they do, as far as is known."""
        return self._moved.get(key, "")

    def forget(self, key: str) -> None:
        """Forgets what the daemon of ``key`` has said: it is gone, or another."""
        self._answers.pop(key, None)
        self._moved.pop(key, None)

    async def key_now(self, key: str, *, running: Collection[str]) -> str:
        """The key of the daemon for the dataset ``key`` as it is on the NAS now; ``running``: those of its daemons.

        Raises NOT_FOUND if there is no such directory any more.
        """
        silent: list[str] = []
        moved: list[str] = []
        found = b""
        for asked in sorted(running, key=lambda other: (other != key, other)):
            answer = await self._ask(asked)
            if answer.root is None:
                # A dataset that is not mounted is not served yet, and gets its name like a new one.
                silent += [asked] if answer.is_mounted else []
                continue
            if answer.root.HasField("error"):
                return self._not_found(asked, answer.root.error)
            if answer.root.found == answer.root.served:
                self._moved.pop(asked, None)
                return asked
            self._note(
                asked,
                "the directory that it serves was replaced by another on the NAS, which new pods get; restart the pod",
            )
            moved.append(asked)
            found = answer.root.found
        if not moved:
            return silent[0] if silent else key
        names = [name for name in _names(key, found) if name not in moved]
        return next((name for name in names if name in silent), names[0])

    def _not_found(self, asked: str, reported: efc_pb2.Error) -> str:
        error = DriverError.from_wire(efc_pb2.Error.Code.Name(reported.code), reported.message)
        if error.code is not Code.NOT_FOUND:
            _LOGGER.info("the root of %s is assumed to be unchanged: %s", asked, error.message)
            return asked
        self._note(asked, "the directory that it serves is gone from the NAS; delete the pod")
        raise error

    def _note(self, key: str, what: str) -> None:
        if self._moved.get(key) != what:
            _LOGGER.warning("daemon %s: %s", key, what)
        self._moved[key] = what

    async def _ask(self, key: str) -> _Answer:
        known = self._answers.get(key)
        if known is not None and asyncio.get_running_loop().time() < known.until:
            return known
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._find(key))
            self._asking[key].add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    async def _find(self, key: str) -> _Answer:
        root, seconds, is_mounted = None, _FRESH_SECONDS, True
        try:
            root = await self._keeper.find_root(target=self._mount_of(key))
        except DriverError as error:
            _LOGGER.debug("the root of %s is assumed to be unchanged: %s", key, error.message)
            seconds = _SILENT_SECONDS if error.code in _SILENT else 0.0
            is_mounted = error.code is not Code.NOT_FOUND
        answer = _Answer(root=root, until=asyncio.get_running_loop().time() + seconds, is_mounted=is_mounted)
        self._answers[key] = answer
        return answer


def _names(key: str, root: bytes) -> Iterator[str]:
    """Keys for a daemon of the dataset ``key`` that serves ``root``, the best first."""
    digest = hashlib.sha256(root).hexdigest()
    yield key
    # A daemon whose mount was made anew serves another directory than the one that it is named after.
    yield from (f"{key}-{digest[:length]}" for length in range(8, len(digest) + 1, 8))
