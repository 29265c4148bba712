"""What ``efc doctor`` looks at of mounts: the keeper, how each of its mounts does, and mounts that no keeper serves.

A mount that serves may still do without much of what was asked for: its caches, a source, an option. Each such lack is
a finding of its own, in the words of :mod:`csi.node.conditions`, with what fixes it.
"""

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace

from csi._proto import efc_pb2
from csi.cli.finding import Finding
from csi.cli.unserved import dead_of, mount_command
from csi.config.mount_options import MountOptions
from csi.config.several import described_place, origin_of_wire
from csi.node import mount_status
from csi.node.daemon_keys import session_config
from csi.node.keeper import (
    Keeper,
    KeeperForbiddenError,
    KeeperMissingError,
    KeeperStatus,
    KeeperUnreachableError,
    options_of,
    options_unknown_to,
    source_of,
)
from csi.node.mounts import Mount
from csi.node.records import Publication, Publications


def check_mounts(run_dir: str, ours: Sequence[Mount], *, in_cluster: bool = False) -> Iterator[Finding]:
    """The keeper answers, its daemons serve with all that was asked for, and no mount of ours is without a keeper.

    ``ours`` are the mounts of ours that are seen here.
    """
    try:
        status = asyncio.run(Keeper(run_dir).status())
    except KeeperUnreachableError as error:
        dead = asyncio.run(dead_of(ours))
        are_all_dead = len(dead) == len(ours)
        yield _no_keeper(error, run_dir, ours, in_cluster=in_cluster, are_all_dead=are_all_dead)
        if isinstance(error, KeeperForbiddenError):
            return
        status = KeeperStatus(pid=0, version="", mounts=[])
    else:
        message = f"process {status.pid}, version {status.version}, mounts: {len(status.mounts)}"
        yield Finding(check="keeper", level="ok", message=message)
    records = _records(run_dir) if in_cluster else []
    for served in status.mounts:
        unknown = _unknown_options(served, [record for record in records if served.target.endswith(f"/{record.key}")])
        yield from of_mount(served, in_cluster=in_cluster, unknown=unknown)
    yield from _without_keeper(ours, status, in_cluster=in_cluster)


def _no_keeper(
    error: KeeperUnreachableError, run_dir: str, ours: Sequence[Mount], *, in_cluster: bool, are_all_dead: bool
) -> Finding:
    if isinstance(error, KeeperForbiddenError):
        return Finding(check="keeper", level="fail", message=error.message, mend="sudo efc doctor")
    if in_cluster:
        mend = "the pod of efc-keeper on this node: kubectl describe, kubectl logs"
        message = f"{error.message} No pod with a volume can start, and daemons that die are not replaced"
        return Finding(check="keeper", level="fail", message=message, mend=mend)
    if not isinstance(error, KeeperMissingError):
        mend = f"its log ({run_dir}/keeper.log if efc mount has started it); kill it, and the next efc mount starts one"
        return Finding(check="keeper", level="fail", message=error.message, mend=mend)
    if not ours:
        message = "none runs, and nothing is mounted; efc mount starts one"
        return Finding(check="keeper", level="ok", message=message)
    if are_all_dead:
        mend = "the efc mount commands below start one"
    else:
        mend = f"the next efc mount starts one, or efc-keeper --run-dir {run_dir}: it takes over running daemons"
    return Finding(check="keeper", level="fail", message=error.message, mend=mend)


def _records(run_dir: str) -> list[Publication]:
    try:
        return list(Publications(run_dir).readable())
    except OSError:
        return []


def _unknown_options(served: efc_pb2.MountStatus, records: Sequence[Publication]) -> list[str]:
    """Options that volumes were published with, and that the keeper which mounted them does not know."""
    known = {field.name for field in dataclasses.fields(MountOptions)}
    origin, unknown = origin_of_wire(served.config), set[str]()
    for record in records:
        options = {name: value for name, value in record.options.items() if name in known}
        asked = session_config(origin, replace(MountOptions(), **options))  # type: ignore[arg-type]  # names of fields
        unknown.update(options_unknown_to(served, asked=asked))
    return sorted(unknown)


def of_mount(served: efc_pb2.MountStatus, *, in_cluster: bool, unknown: Sequence[str] = ()) -> Iterator[Finding]:
    """Findings on one mount that the keeper has; at least one."""
    what = f"{source_of(served)} at {served.target}"
    is_well = True
    for level, message, mend in _of_service(served, unknown, in_cluster=in_cluster):
        is_well = False
        yield Finding(check="mounts", level=level, message=f"{what}: {message}", mend=mend)
    if is_well:
        replaced = mount_status.replacements_of(served)
        message = f"{what}: process {served.pid} serves it{replaced and f', {replaced}'}"
        yield Finding(check="mounts", level="ok", message=message)


def _of_service(
    served: efc_pb2.MountStatus, unknown: Sequence[str], *, in_cluster: bool
) -> Iterator[tuple[str, str, str]]:
    """Level, message and remedy of each thing that is not as it should be."""
    log = "kubectl logs of efc-keeper's pod on this node" if in_cluster else "the keeper's log"
    if served.state == efc_pb2.MountStatus.UNRESPONSIVE_NAS:
        _, servers = described_place(origin_of_wire(options_of(served)), "")
        mend = f"is {servers} up, and does it serve NFSv3 to this node? Applications wait, and go on when it answers"
        yield "fail", mount_status.state_of(served), mend
    elif reason := mount_status.state_of(served):
        is_aborted = served.state == efc_pb2.MountStatus.ABORTED and not in_cluster
        mend = f"efc mount once more at {served.target}, with the same source and options" if is_aborted else ""
        yield "warn", reason, mend or f"efc status; {log}"
    if mount_status.dies_again_and_again(served):
        message = f"{mount_status.replacements_of(served)}, and the present daemon is not a quarter of an hour old"
        yield "warn", message, f"{log} says why each ended; applications wait each time"
    for missing in mount_status.missing_sources(served):
        yield "warn", missing, "is that server up, and does it export the directory to this node? It is tried again"
    for full in mount_status.full_tables(served):
        yield "warn", full, "raise --daemon-memory-max, or the option memory-max"
    if lacking := mount_status.workers_of(served):
        mend = "are they up, and does this node reach them? Meanwhile the NAS is read; efc worker key makes a key"
        yield "warn", lacking, mend
    if lacking := mount_status.store_of(served):
        yield "warn", lacking, f"look at its disk (df, dmesg); efc cache shows what stores hold; {log}"
    if lacking := mount_status.unknown_of(unknown):
        yield (
            "warn",
            lacking,
            "delete the efc-keeper pod of this node when the pods with volumes on the node can be restarted",
        )


def _without_keeper(ours: Sequence[Mount], status: KeeperStatus, *, in_cluster: bool) -> Iterator[Finding]:
    """Mounts whose keeper has gone: a daemon that lives serves them, and has no successor; or nobody does."""
    served = {mount.target for mount in status.mounts}
    devices = {mount.device for mount in ours if mount.target in served}
    left = [mount for mount in ours if mount.device not in devices]
    dead = asyncio.run(dead_of(left))
    for mount in left:
        if mount in dead:
            yield _dead(mount, in_cluster=in_cluster)
            continue
        message = f"{mount.target} is a mount of {mount.source} that this keeper does not serve"
        mend = f"if no other keeper (RUN_DIR) serves it: umount -l {mount.target}"
        if in_cluster:
            mend = "if its pod sees errors, delete the pod: the next pod gets a mount of this keeper"
        elif not status.pid:
            message = f"{mount.target} is a mount of {mount.source}: if its daemon dies, nobody starts the next"
            mend = f"start a keeper, as above; umount -l {mount.target} only if access to it fails even then"
        yield Finding(check="mounts", level="warn", message=message, mend=mend)


def _dead(mount: Mount, *, in_cluster: bool) -> Finding:
    message = f"{mount.target} is a dead mount of {mount.source}: nobody holds its session any more"
    mend = mount_command(mount)
    if in_cluster:
        mend = "the driver replaces it within seconds; if not, delete its pod: the next pod gets another mount"
    return Finding(check="mounts", level="fail", message=message, mend=mend)
