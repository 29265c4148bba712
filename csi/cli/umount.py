"""``efc umount``: asks the keeper to unmount targets and end their daemons; without a keeper, unmounts by itself.

One target after the other: what cannot be unmounted is said, and the others are unmounted all the same.
"""

import argparse
import asyncio
import contextlib
import shlex
import sys
from pathlib import Path

from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.base.text import printable
from csi.cli.mount import found_target
from csi.cli.status import volumes
from csi.cli.unserved import is_nothing_mounted, nothing_is_mounted
from csi.node.keeper import Keeper, KeeperForbiddenError, KeeperUnreachableError
from csi.node.mount_status import silence_of
from csi.node.mounts import Mount, Mounts

_BUSY = (Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED)


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc umount``, which succeeds only if there were mounts of EFC, like umount(8)."""
    if parsed.all and is_nothing_mounted(parsed.run_dir):
        print(nothing_is_mounted(parsed.run_dir))
        return 0
    keeper, failures = Keeper(parsed.run_dir), 0
    for text in parsed.targets or _all(keeper, parsed.run_dir):
        try:
            _, mount = found_target(text)
            if mount is None:
                raise DriverError(Code.NOT_FOUND, f"{text!r} is not a mount of EFC")
            asyncio.run(_unmount(keeper, mount, force=parsed.force))
        except DriverError as error:
            failures += 1
            print(f"efc: {printable(error.message)}", file=sys.stderr)
    return int(failures > 0)


def _all(keeper: Keeper, run_dir: str) -> list[str]:
    """What the keeper serves, the innermost first; raises FAILED_PRECONDITION where pods use it."""
    if volumes(run_dir):
        message = f"pods have volumes of the mounts in {run_dir}, which --all would take from them: delete the pods"
        raise DriverError(Code.FAILED_PRECONDITION, message)
    return sorted((mount.target for mount in asyncio.run(keeper.status()).mounts), reverse=True)


async def _unmount(keeper: Keeper, mount: Mount, *, force: bool) -> None:
    try:
        await keeper.unmount(target=mount.target, force=force)
    except KeeperForbiddenError:
        raise
    except KeeperUnreachableError:
        # A daemon that is left ends by itself when its mount has gone.
        if force:
            _abort(mount)
        await _without_keeper(mount, force=force)
    except DriverError as error:
        if force or error.code not in _BUSY:
            raise
        raise DriverError(error.code, await _busy(keeper, mount, error.message)) from None


async def _without_keeper(mount: Mount, *, force: bool) -> None:
    try:
        await Mounts(children=Children()).unmount(mount.target, detach=force)
    except DriverError as error:
        if force or error.code not in _BUSY:
            raise
        raise DriverError(error.code, f"{error.message}: {_by_force(mount)}") from None


async def _busy(keeper: Keeper, mount: Mount, message: str) -> str:
    """Why a mount stays, and what unmounts it all the same."""
    silence = ""
    with contextlib.suppress(DriverError):
        status = await keeper.status(mount.target)
        silence = "".join(silence_of(one) for one in status.mounts)
    return f"{message}{silence and f'; {silence}'}: {_by_force(mount)}"


def _by_force(mount: Mount) -> str:
    return f"efc umount --force {shlex.quote(mount.target)} unmounts it anyway, and applications that use it get errors"


def _abort(mount: Mount) -> None:
    """Aborts the FUSE connection: callers that wait get an error. Where fusectl is not mounted, they wait on."""
    connection = mount.device.partition(":")[2]
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{connection}/abort").write_text("1")
