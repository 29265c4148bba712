"""``efc umount``: asks the keeper to unmount a target and end its daemon; without a keeper, unmounts by itself."""

import argparse
import asyncio
import contextlib
from pathlib import Path

from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.cli.mount import found_target
from csi.node.keeper import Keeper, KeeperForbiddenError, KeeperUnreachableError
from csi.node.mounts import Mount, Mounts


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc umount``, which succeeds only if there was a mount of EFC, like umount(8)."""
    _, mount = found_target(parsed.target)
    if mount is None:
        raise DriverError(Code.NOT_FOUND, f"{parsed.target!r} is not a mount of EFC")
    asyncio.run(_unmount(Keeper(parsed.run_dir), mount, force=parsed.force))
    return 0


async def _unmount(keeper: Keeper, mount: Mount, *, force: bool) -> None:
    try:
        await keeper.unmount(target=mount.target, force=force)
    except KeeperForbiddenError:
        raise
    except KeeperUnreachableError:
        # A daemon that is left ends by itself when its mount has gone.
        if force:
            _abort(mount)
        await Mounts(children=Children()).unmount(mount.target, detach=force)


def _abort(mount: Mount) -> None:
    """Aborts the FUSE connection: callers that wait get an error. Where fusectl is not mounted, they wait on."""
    connection = mount.device.partition(":")[2]
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{connection}/abort").write_text("1")
