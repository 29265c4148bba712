"""Mounts of ours that no keeper answers for: which of them are dead, and what else a keeper that has gone has left.

A mount is dead when nobody holds its session any more: its daemon and its keeper have both ended, and the kernel says
ENOTCONN to everybody. That is asked of the file system by a child process with a deadline, so what hangs holds up
nobody. A mount of another keeper, with a run directory of its own, answers and is none of our business.
"""

import asyncio
import errno
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from csi._proto import efc_pb2
from csi.base.children import Children
from csi.base.errors import DriverError
from csi.node.keeper import Keeper, KeeperMissingError
from csi.node.mounts import FILE_SYSTEM_TYPE, Mount, Mounts, read_mounts

#: A dead mount answers at once.
_ANSWER_SECONDS_MAX = 2.0
#: Most that are asked at once.
_ASKED_AT_ONCE_MAX = 32
#: What mountinfo says of a mount of several sources.
_SEVERAL = "efc"


@dataclass(frozen=True, kw_only=True)
class Left:
    """Mounts without a keeper: those that are ``dead``, and those that ``wait`` for this run directory's next one."""

    dead: Sequence[Mount] = ()
    wait: Sequence[Mount] = ()

    def __bool__(self) -> bool:
        return bool(self.dead or self.wait)


def own_mounts() -> list[Mount]:
    """All mounts of ours that are seen here."""
    return [mount for mount in read_mounts() if mount.file_system_type == FILE_SYSTEM_TYPE]


def left_over(run_dir: str, served: Sequence[efc_pb2.MountStatus] | None = None) -> Left:
    """What there is beside the mounts that this run directory's keeper serves (None: there is none). Never hangs."""
    devices = {f"0:{mount.connection}" for mount in served or ()}
    mounts = [mount for mount in own_mounts() if mount.device not in devices]
    dead = asyncio.run(dead_of(mounts))
    waits = served is None and _has_listeners(run_dir)
    return Left(dead=dead, wait=[mount for mount in mounts if waits and mount not in dead])


def is_nothing_mounted(run_dir: str) -> bool:
    """Whether there is no keeper here, and nothing that one has left."""
    try:
        asyncio.run(Keeper(run_dir).status())
    except KeeperMissingError:
        return not left_over(run_dir)
    return False


async def dead_of(mounts: Iterable[Mount]) -> list[Mount]:
    """Those whose session nobody holds any more."""
    asker, turns = Mounts(children=Children()), asyncio.Semaphore(_ASKED_AT_ONCE_MAX)

    async def is_dead(mount: Mount) -> bool:
        async with turns:
            try:
                await asker.statvfs(mount.target, deadline_seconds=_ANSWER_SECONDS_MAX)
            except DriverError as error:
                return says_dead(error)
            return False

    # On what is mounted several times at one place, only the topmost can be asked.
    mounts = list({mount.target: mount for mount in mounts}.values())
    answers = await asyncio.gather(*map(is_dead, mounts))
    return [mount for mount, is_answer in zip(mounts, answers, strict=True) if is_answer]


def says_dead(error: DriverError) -> bool:
    """Whether a file system has answered that it has no daemon."""
    return any(os.strerror(number) in error.message for number in (errno.ENOTCONN, errno.ECONNABORTED))


def mount_command(mount: Mount) -> str:
    """What mounts it anew, on a host without Kubernetes."""
    if mount.source == _SEVERAL:
        return f"efc mount {shlex.quote(mount.target)} --source PATH=SOURCE ..., with all its sources and options"
    return f"efc mount {shlex.quote(mount.source)} {shlex.quote(mount.target)}, with its options (-o) if it had any"


def nothing_is_mounted(run_dir: str) -> str:
    """What commands say where there is nothing for them."""
    return f"Nothing is mounted (run directory {run_dir})."


def _has_listeners(run_dir: str) -> bool:
    """Whether this run directory has listeners of daemons that wait for a keeper."""
    try:
        return any((Path(run_dir) / "s").iterdir())
    except OSError:
        return False
