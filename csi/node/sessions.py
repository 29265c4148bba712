"""The sessions of this node's datasets, held by this process beside the keeper.

A mount lives as long as any process holds its session: ``/dev/fuse`` and the memfd of the saved state. The keeper holds
it, and so does each daemon. When both die at once, for example because all of the keeper's processes were killed, this
process still has copies. It gives them to the next keeper, which starts the next daemons on them.

These descriptors are never read or written here, and not passed to child processes. They do not keep a mount from being
unmounted.

A new keeper is recognised by its socket, since each keeper makes its own. Nobody here asks a new keeper to mount before
it has been given the sessions held here.
"""

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.node.keeper import Keeper, KeeperUnreachableError

_LOGGER = logging.getLogger(__name__)
#: How soon a new keeper gets what its predecessor had: applications of a dead daemon wait for this.
_LOOK_SECONDS = 0.1
#: How soon options that were changed (``efc upgrade -o``) are known here, and a session is held that could not be.
REFRESH_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class _Session:
    """A session as the keeper described it; its ``descriptors`` are this object's to close."""

    status: efc_pb2.MountStatus
    descriptors: list[int]

    def close(self) -> None:
        for descriptor in self.descriptors:
            # Closing a session of an aborted mount may say so; it is closed all the same.
            with contextlib.suppress(OSError):
                os.close(descriptor)


class Sessions:
    """Copies of the keeper's sessions of mounts beneath ``folder``."""

    def __init__(self, *, keeper: Keeper, folder: str) -> None:
        self._keeper = keeper
        self._folder = folder
        self._held: dict[str, _Session] = {}
        self._drops = 0
        self._owner: tuple[int, ...] | None = None
        self._lock = asyncio.Lock()

    async def hold(self, status: efc_pb2.MountStatus) -> None:
        """Makes sure that the session of this mount is held; a failure is logged, since the mount serves without it."""
        held = self._held.get(status.target)
        if held is not None and held.status.connection == status.connection and held.status.options == status.options:
            return
        while True:
            drops = self._drops
            try:
                described, descriptors = await self._keeper.hold(target=status.target)
            except DriverError as error:
                level = logging.DEBUG if error.code is Code.NOT_FOUND else logging.WARNING
                _LOGGER.log(level, "the session of %s is held by the keeper alone: %s", status.target, error.message)
                return
            session = _Session(status=described, descriptors=descriptors)
            if self._drops == drops:
                break
            session.close()  # it may have been unmounted meanwhile
        self.drop(status.target)
        self._held[status.target] = session

    def drop(self, target: str) -> None:
        """The mount is gone, or another's; that nothing is held is success."""
        self._drops += 1
        held = self._held.pop(target, None)
        if held is not None:
            held.close()

    async def ensure(self) -> None:
        """Gives what is held to a keeper that is new, and holds what that one has.

        Costs a stat of the keeper's socket when there is nothing to do. Raises KeeperUnreachableError.
        """
        async with self._lock:
            owner = self._keeper.identity()
            if owner is None or owner == self._owner:
                return
            for session in list(self._held.values()):
                await self._give_back(session)
            await self.refresh()
            self._owner = owner

    async def refresh(self) -> None:
        """Holds what the keeper has, as it is now. Raises KeeperUnreachableError."""
        for status in (await self._keeper.status()).mounts:
            if os.path.dirname(status.target) == self._folder:
                await self.hold(status)

    async def _give_back(self, session: _Session) -> None:
        target = session.status.target
        try:
            await self._keeper.adopt(status=session.status, descriptors=session.descriptors)
        except KeeperUnreachableError:
            raise
        except DriverError as error:
            level = logging.DEBUG if error.code is Code.NOT_FOUND else logging.ERROR
            _LOGGER.log(level, "the keeper does not take the session of %s: %s", target, error.message)
            self.drop(target)

    async def watch(self) -> None:
        """Never returns: gives what is held to each new keeper, and keeps up with what it has."""
        refreshed = time.monotonic()
        while True:
            try:
                await self.ensure()
                if time.monotonic() - refreshed > REFRESH_SECONDS:
                    await self.refresh()
                    refreshed = time.monotonic()
            except DriverError as error:
                _LOGGER.debug("sessions are not given back yet: %s", error.message)
            await asyncio.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """At the end: nothing is held any more. The keeper and the daemons go on."""
        for target in list(self._held):
            self.drop(target)
