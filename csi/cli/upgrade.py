"""``efc upgrade``: replaces running daemons by ones of this release's program, under their applications.

One mount after the other. A program that cannot go on with what a daemon has saved is refused before anything is
touched, and one that does not serve in time gives the mount back to the former. Options of a mounted dataset change on
the same way: the next daemon serves with them. Where all of them are live and the daemon is of this release, it takes
them and stays. So it is with the sources of a dataset that has several: those that are named replace those before.
"""

import argparse
import asyncio

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.cli.mount import found_target, mounted_sources
from csi.cli.unserved import is_nothing_mounted, nothing_is_mounted
from csi.config.mount_options import changed, parse_list
from csi.config.several import Sources
from csi.node.keeper import Keeper, options_of
from csi.node.program import DaemonProgram

#: With all that some option needs.
_ANY_MOUNT = efc_pb2.DaemonConfig(soft=True, cache=efc_pb2.CacheConfig(workers_key="/", store_mib=64))


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc upgrade``, which stops at the first mount that is not upgraded: the others keep their daemons."""
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
    asyncio.run(_upgrade(Keeper(parsed.run_dir), targets, items, sources))
    return 0


def _mount_point(text: str) -> str:
    path, mount = found_target(text)
    if mount is None:
        raise DriverError(Code.NOT_FOUND, f"{text!r} is not a mount of EFC")
    return path


async def _upgrade(
    keeper: Keeper, targets: list[str], items: list[tuple[str, str | None]], sources: list[efc_pb2.MountedSource]
) -> None:
    """Upgrades the daemons at ``targets``, or without any those of all mounts."""
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
        status = await keeper.upgrade(target=target, options=options, base=base, in_place=is_changed)
        print(_said_of(before, status, target=target))


def _said_of(before: efc_pb2.MountStatus | None, after: efc_pb2.MountStatus, *, target: str) -> str:
    """What has become of a mount's daemon."""
    if before is not None and before.pid == after.pid:
        return f"{target}: {after.version}, process {after.pid} stays and has taken the options"
    former = "" if before is None else f"{before.version} (process {before.pid}) -> "
    return f"{target}: {former}{after.version}, process {after.pid}"
