"""``efc umount``: asks the keeper to unmount a target and end its daemon."""

import argparse
import asyncio
import os
from pathlib import Path

from csi.errors import Code, DriverError
from csi.keeper import Keeper
from csi.mounts import FILE_SYSTEM_TYPE, parse_mountinfo, top


def run(parsed: argparse.Namespace) -> int:
    """Succeeds only if there was something of ours to unmount, like umount(8)."""
    absolute = os.path.abspath(parsed.target)
    # The leaf is not looked at: it may be a dead mount.
    target = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    mount = top(parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape")), target)
    if mount is None or mount.file_system_type != FILE_SYSTEM_TYPE:
        raise DriverError(Code.NOT_FOUND, f"{parsed.target!r} is not a mount of EFC")
    asyncio.run(Keeper(parsed.run_dir).unmount(target=target, force=parsed.force))
    return 0
