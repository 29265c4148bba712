"""``efc upgrade``: replaces running daemons by ones of this release's program, under their applications.

One mount after the other. A program that cannot go on with what a daemon has saved is refused before anything is
touched, and one that does not serve in time gives the mount back to the former.
"""

import argparse
import asyncio

from csi.cli.mount import checked_target
from csi.errors import Code, DriverError
from csi.keeper import Keeper
from csi.program import DaemonProgram


def run(parsed: argparse.Namespace) -> int:
    """Stops at the first mount that is not upgraded: the others keep their daemons."""
    if bool(parsed.target) == parsed.all:
        raise DriverError(Code.INVALID_ARGUMENT, "name one TARGET, or say --all")
    targets = [checked_target(parsed.target)] if parsed.target else []
    asyncio.run(_upgrade(Keeper(parsed.run_dir), targets))
    return 0


async def _upgrade(keeper: Keeper, targets: list[str]) -> None:
    """Without targets, all mounts."""
    mounts = {mount.target: mount for mount in (await keeper.status()).mounts}
    await DaemonProgram.installed(keeper).install()
    for target in targets or sorted(mounts):
        before = mounts[target].version if target in mounts else ""
        status = await keeper.upgrade(target=target)
        print(f"{target}: {before} -> {status.version}, process {status.pid}")
