"""``efc upgrade``: replaces running daemons by ones of this release's program, under their applications.

One mount after the other. A program that cannot go on with what a daemon has saved is refused before anything is
touched, and one that does not serve in time gives the mount back to the former. That ends the command, since it would
come to the others too; a mount that the keeper does not find any more does not. Options of a mounted dataset change on
the same way: the next daemon serves with them. Where all of them are live and the daemon is of this release, it takes
them and stays. So it is with the sources of a dataset that has several: those that are named replace those before.
"""

import argparse
import asyncio
import shlex
import sys

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.base.text import printable
from csi.cli.mount import found_target, mounted_sources
from csi.cli.unserved import is_nothing_mounted, nothing_is_mounted, own_mounts
from csi.config.mount_options import changed, parse_list
from csi.config.several import Sources
from csi.node.keeper import Keeper, options_of
from csi.node.program import DaemonProgram

#: With all that some option needs.
_ANY_MOUNT = efc_pb2.DaemonConfig(soft=True, cache=efc_pb2.CacheConfig(workers_key="/", store_mib=64))


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc upgrade``, which stops at the first mount that cannot be upgraded: the others keep their daemons."""
    if bool(parsed.target) == parsed.all:
        raise DriverError(Code.INVALID_ARGUMENT, "name one TARGET, or use --all")
    targets = [_mount_point(parsed.target)] if parsed.target else []
    items = parse_list(",".join(parsed.options))
    changed(_ANY_MOUNT, items, origin="-o")  # what is wrong in itself, before anything is touched
    mounted = mounted_sources(parsed)
    if mounted and not targets:
        raise DriverError(Code.INVALID_ARGUMENT, "sources are those of one TARGET: name it")
    sources = Sources.of(mounted).to_wire() if mounted else []
    if parsed.all and is_nothing_mounted(parsed.run_dir):
        print(nothing_is_mounted(parsed.run_dir))
        return 0
    return int(asyncio.run(_upgrade(Keeper(parsed.run_dir), targets, items, sources)) > 0)


def _mount_point(text: str) -> str:
    path, mount = found_target(text)
    if mount is None:
        raise DriverError(Code.NOT_FOUND, f"{text!r} is not a mount of EFC")
    return path


async def _upgrade(
    keeper: Keeper, targets: list[str], items: list[tuple[str, str | None]], sources: list[efc_pb2.MountedSource]
) -> int:
    """Upgrades the daemons at ``targets``, or without any those of all mounts; how many of these were not found."""
    missing = 0
    mounts = {mount.target: mount for mount in (await keeper.status()).mounts}
    await DaemonProgram.installed(keeper).install()
    for target in targets or sorted(mounts):
        before = mounts.get(target)
        is_changed = bool(items or sources)
        base = options_of(mounts[target]) if is_changed and target in mounts else None
        options = changed(base, items, origin="-o") if base is not None else None
        if options is not None and sources:
            del options.sources[:]
            options.sources.extend(sources)
        try:
            status = await keeper.upgrade(target=target, options=options, base=base, in_place=is_changed)
        except DriverError:
            if targets or before is None or (absence := _absence_of(before)) is None:
                raise
            missing += 1
            print(f"efc: {printable(f'{target} is not upgraded: {absence}')}", file=sys.stderr)
        else:
            print(printable(_said_of(before, status, target=target)))
    return missing


def _absence_of(mount: efc_pb2.MountStatus) -> str | None:
    """Why the keeper does not find a mount where it has made it; None if it is there."""
    device = f"0:{mount.connection}"
    places = [found.target for found in own_mounts() if found.device == device]
    if mount.target in places:
        return None
    if not places:
        return "it is not mounted any more"
    now = shlex.quote(places[0])
    return (
        f"it is at {now} since a directory above it was renamed; rename that back,"
        f" or unmount it there (efc umount {now}) and mount it anew"
    )


def _said_of(before: efc_pb2.MountStatus | None, after: efc_pb2.MountStatus, *, target: str) -> str:
    """What has become of a mount's daemon."""
    if before is not None and before.pid == after.pid:
        return f"{target}: {after.version}, process {after.pid} stays and has taken the options"
    former = "" if before is None else f"{before.version} (process {before.pid}) -> "
    return f"{target}: {former}{after.version}, process {after.pid}"
