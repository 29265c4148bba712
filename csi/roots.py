"""Whether a daemon that runs serves the directory that its source names today.

A daemon holds on to the directory that was there when it was mounted. When that is replaced on the NAS (moved away,
removed and made again), new pods of this node would get the old one and those of other nodes the new one, or every
publish would fail with "Stale file handle". So before a daemon that runs gets a new user it is asked to look once more,
over its own connections and its own way to the NAS. A dataset that has moved gets a daemon beside the old one, whose
key has something of the new directory's handle behind it; one that has not keeps its key over releases of the driver.

What has been found counts for a second, so that a hundred pods of one dataset cost one look. A keeper or a daemon of an
older release says nothing: its datasets are taken for unmoved, as ever.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from csi._proto import efc_pb2
from csi.errors import Code, DriverError
from csi.keeper import Keeper

_LOGGER = logging.getLogger(__name__)
#: How long an answer counts.
_FRESH_SECONDS = 1.0
#: How long nobody is asked who has not answered, or does not know the question.
_SILENT_SECONDS = 30.0
_SILENT = (Code.DEADLINE_EXCEEDED, Code.INVALID_ARGUMENT)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """Of the daemon with a key; ``root`` is None if it has none."""

    root: efc_pb2.FoundRoot | None
    until: float


class Roots:
    """What daemons have said of their roots."""

    def __init__(self, *, keeper: Keeper, mount_of: Callable[[str], str]) -> None:
        self._keeper = keeper
        self._mount_of = mount_of
        self._answers: dict[str, _Answer] = {}
        self._asking: dict[str, asyncio.Task[efc_pb2.FoundRoot | None]] = {}
        #: Key -> what has become of the directory that its daemon serves.
        self._moved: dict[str, str] = {}

    def moved(self, key: str) -> str:
        """Why new users of the dataset do not get this daemon any more; "" if they do, as far as is known."""
        return self._moved.get(key, "")

    def forget(self, key: str) -> None:
        """Its daemon is gone, or another."""
        self._answers.pop(key, None)
        self._moved.pop(key, None)

    async def key_now(self, key: str, *, running: Collection[str]) -> str:
        """The key of the daemon for the dataset ``key`` as it is on the NAS now; ``running``: those of its daemons.

        Raises NOT_FOUND if there is no such directory any more.
        """
        asked = key if key in running else next(iter(sorted(running)), None)
        if asked is None:
            return key
        root = await self._ask(asked)
        if root is None:
            return key
        if root.HasField("error"):
            error = DriverError.from_wire(efc_pb2.Error.Code.Name(root.error.code), root.error.message)
            if error.code is not Code.NOT_FOUND:
                _LOGGER.info("the root of %s is taken for unmoved: %s", asked, error.message)
                return asked
            self._note(asked, "the directory that it serves is gone from the NAS; delete the pod")
            raise error
        if root.found == root.served:
            self._moved.pop(asked, None)
            return asked
        self._note(
            asked,
            "the directory that it serves was replaced by another on the NAS, which new pods get; restart the pod",
        )
        return f"{key}-{hashlib.sha256(root.found).hexdigest()[:8]}" if asked == key else key

    def _note(self, key: str, what: str) -> None:
        if self._moved.get(key) != what:
            _LOGGER.warning("daemon %s: %s", key, what)
        self._moved[key] = what

    async def _ask(self, key: str) -> efc_pb2.FoundRoot | None:
        known = self._answers.get(key)
        if known is not None and asyncio.get_running_loop().time() < known.until:
            return known.root
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._find(key))
            self._asking[key].add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    async def _find(self, key: str) -> efc_pb2.FoundRoot | None:
        root, seconds = None, _FRESH_SECONDS
        try:
            root = await self._keeper.find_root(target=self._mount_of(key))
        except DriverError as error:
            _LOGGER.debug("the root of %s is taken for unmoved: %s", key, error.message)
            seconds = _SILENT_SECONDS if error.code in _SILENT else 0.0
        self._answers[key] = _Answer(root=root, until=asyncio.get_running_loop().time() + seconds)
        return root
