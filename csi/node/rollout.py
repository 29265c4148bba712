"""Upgrades running daemons after a rollout of the node plugin, one after the other, under their applications.

Once the keeper has this image's program, each daemon of another release is replaced by one of this release, by the
keeper's hot upgrade: the program is checked first, the daemon drained, and the session returned to the former program
if the new one does not serve in time. The next daemon's turn comes when the one before serves. The first upgrade that
is refused or rolled back ends the rollout with this keeper, so that a bad release costs one mount a pause. ``efc
upgrade`` does the same manually.
"""

import asyncio
import logging
import os

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.node.keeper import Keeper
from csi.node.program import DaemonProgram

_LOGGER = logging.getLogger(__name__)
#: How soon daemons are looked at after the keeper got the program, and again while one is not serving.
_LOOK_SECONDS = 1.0


class Rollout:
    """Upgrades the daemons of mounts beneath ``folder`` to ``program``."""

    def __init__(self, *, keeper: Keeper, program: DaemonProgram, folder: str) -> None:
        self._keeper = keeper
        self._program = program
        self._folder = folder
        #: The keeper whose daemons need no more attention: those it starts from now on run the program.
        self._settled: tuple[int, ...] | None = None

    async def watch(self) -> None:
        """Upgrades the daemons of each new keeper; never returns."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            owner = self._keeper.identity()
            if owner is None or owner == self._settled or not self._program.is_offered_to(owner):
                continue
            try:
                is_settled = await self._upgrade_all()
            except DriverError as error:
                if error.code is Code.UNAVAILABLE:
                    _LOGGER.debug("daemons are upgraded later: %s", error.message)
                    continue
                _LOGGER.error("no more daemons are upgraded to %s: %s", self._program.version, error.message)
                is_settled = True
            if is_settled:
                self._settled = owner

    async def _upgrade_all(self) -> bool:
        """Upgrades daemons; False if one must be looked at again. Raises the keeper's error of the first that fails."""
        status = await self._keeper.status()
        if status.program_version != self._program.version:
            return True  # the keeper has refused it, and said so
        outdated = [mount for mount in status.mounts if self._is_outdated(mount)]
        for mount in sorted(outdated, key=lambda mount: mount.target):
            if mount.state not in (efc_pb2.MountStatus.SERVING, efc_pb2.MountStatus.UNRESPONSIVE_NAS):
                continue
            upgraded = await self._keeper.upgrade(target=mount.target)
            if upgraded.version != self._program.version:
                message = f"the new daemon of {mount.target} says that it is {upgraded.version}"
                raise DriverError(Code.FAILED_PRECONDITION, message)
            _LOGGER.info("%s: upgraded from %s to %s", mount.target, mount.version, upgraded.version)
        return not outdated

    def _is_outdated(self, mount: efc_pb2.MountStatus) -> bool:
        is_ours = os.path.dirname(mount.target) == self._folder
        return is_ours and mount.state != efc_pb2.MountStatus.ABORTED and mount.version != self._program.version
