"""``efc status``: what the keeper of this run directory has mounted, and the volumes that pods have of it."""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from csi._proto import efc_pb2
from csi.base.text import printable
from csi.cli.figures import size
from csi.cli.tables import print_table
from csi.cli.unserved import Left, left_over, mount_command, nothing_is_mounted
from csi.config.mount_options import consistency_of, settings_of
from csi.config.pods import Pod
from csi.node import statistics
from csi.node.keeper import Keeper, KeeperMissingError, KeeperStatus, options_of, source_of
from csi.node.mount_status import missing_sources, passthrough_of, silence_of, store_of, suggestion_of, workers_of
from csi.node.records import Publication, Publications
from csi.node.reports import Reports

#: As kubelet makes targets: the pod's uid, and the name of its volume (that of a PersistentVolume, or the pod's own).
_KUBELETS_TARGET = re.compile(r"/pods/([^/]+)/volumes/[^/]+/([^/]+)/mount")
_VOLUME_COLUMNS = ("VOLUME", "POD", "NAME", "SOURCE", "PATH", "ACCESS")
_COLUMNS = ("SOURCE", "TARGET", "STATE", "MODE", "PID", "RESTARTS", "READ", "WRITTEN", "REASON")


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc status``; returns 1 if there are mounts of ours that no keeper answers for: standard error names them.

    Daemons may serve on without a keeper, whose mounts are not described then: nobody knows how they do.
    """
    try:
        status = asyncio.run(Keeper(parsed.run_dir).status())
        left = left_over(parsed.run_dir, status.mounts)
    except KeeperMissingError:
        status = KeeperStatus(pid=0, version="", mounts=[])
        left = left_over(parsed.run_dir)
    for line in _said_of(left, parsed.run_dir):
        print(f"efc: {line}", file=sys.stderr)
    reports = Reports(parsed.run_dir)
    published = volumes(parsed.run_dir)
    mounts = [
        described(mount, status, reports, published.get(mount.target, []))
        | {"volumes": published.get(mount.target, [])}
        for mount in sorted(status.mounts, key=lambda mount: mount.target)
    ]
    if parsed.json:
        print(json.dumps(mounts, indent=2))
    elif mounts:
        print_table(_COLUMNS, [_row(mount, reports, published.get(mount.target, [])) for mount in status.mounts])
        if rows := [_volume_row(volume) for mount in sorted(published) for volume in published[mount]]:
            print()
            print_table(_VOLUME_COLUMNS, rows)
    elif not left:
        print(nothing_is_mounted(parsed.run_dir))
    return int(bool(left))


def _said_of(left: Left, run_dir: str) -> Iterator[str]:
    """What a person is to know of mounts without a keeper."""
    if left.wait:
        names = ", ".join(printable(mount.target) for mount in left.wait)
        yield (
            f"no keeper answers in {run_dir}, but these targets are mounted: {names}. Running daemons go on serving, "
            "and the next keeper takes them over (outside Kubernetes, the next efc mount starts one)"
        )
    for mount in left.dead:
        target, command = printable(mount.target), printable(mount_command(mount))
        yield f"{target} is dead: nobody holds its session any more; outside Kubernetes: {command}"


def volumes(run_dir: str) -> dict[str, list[dict[str, object]]]:
    """Target of a dataset's mount -> its volumes by the node plugin's records; nothing where there is no such."""
    found: dict[str, list[dict[str, object]]] = {}
    publications = Publications(run_dir)
    try:
        records = sorted(publications.readable(), key=lambda record: record.target)
    except OSError:
        return {}
    for record in records:
        pod = publications.pod_of(record.target)
        found.setdefault(f"{run_dir}/mnt/{record.key}", []).append(_volume(record, pod))
    return found


def _volume(record: Publication, pod: Pod | None) -> dict[str, object]:
    match = _KUBELETS_TARGET.search(record.target)
    return {
        "volume_id": record.volume_id,
        "pod_uid": match[1] if match else None,
        "pod_namespace": pod.namespace if pod else None,
        "pod_name": pod.name if pod else None,
        "name": match[2] if match else None,
        "target": record.target,
        "source": record.source,
        "path": record.path,
        "read_only": record.read_only,
    }


def _volume_row(volume: dict[str, object]) -> tuple[str, ...]:
    return (
        str(volume["volume_id"]),
        f"{volume['pod_namespace']}/{volume['pod_name']}" if volume["pod_name"] else str(volume["pod_uid"] or "-"),
        str(volume["name"] or volume["target"]),
        str(volume["source"]),
        str(volume["path"] or "/"),
        "read-only" if volume["read_only"] else "read-write",
    )


def _suggestion(mount: efc_pb2.MountStatus, volumes: Sequence[dict[str, object]]) -> str:
    is_read_only = mount.config.read_only or (bool(volumes) and all(volume["read_only"] for volume in volumes))
    return suggestion_of(mount, is_read_only=is_read_only)


def described(
    mount: efc_pb2.MountStatus, status: KeeperStatus, reports: Reports, volumes: Sequence[dict[str, object]] = ()
) -> dict[str, object]:
    """One element of ``efc status --json``. Keys are only ever added."""
    report = reports.get(mount.target, device=f"0:{mount.connection}")
    return {
        "source": source_of(mount),
        "sources": statistics.sources_of(mount),
        "target": mount.target,
        "pid": mount.pid or None,
        "keeper_pid": status.pid,
        "version": mount.version or None,
        "keeper_version": status.version,
        "state": efc_pb2.MountStatus.State.Name(mount.state).lower(),
        "restarts": mount.restarts,
        "upgrades": mount.upgrades,
        "reason": mount.reason or None,
        "network_trouble": mount.network_trouble or None,
        "cache": statistics.cache_of(mount.stats),
        "store": {"directory": mount.store, **(statistics.store_of(mount.stats) or {})} if mount.store else None,
        "passthrough": passthrough_of(mount),
        "connection": mount.connection,
        "mounted_at_unix_ms": mount.mounted_at_unix_ms,
        "read_only": mount.config.read_only,
        "consistency": consistency_of(options_of(mount)),
        "suggestion": _suggestion(mount, volumes) or None,
        "options": {name: value for name, value in settings_of(options_of(mount)).items() if name != "read_only"},
        "stats": statistics.described(mount.stats) if mount.HasField("stats") else None,
        "repair": asdict(report) if report else None,
    }


def _row(mount: efc_pb2.MountStatus, reports: Reports, volumes: Sequence[dict[str, object]]) -> tuple[str, ...]:
    report = reports.get(mount.target, device=f"0:{mount.connection}")
    repaired = [report.failure(), report.note()] if report else []
    return (
        source_of(mount),
        mount.target + (" (ro)" if mount.config.read_only else ""),
        efc_pb2.MountStatus.State.Name(mount.state).lower().replace("_", " "),
        consistency_of(options_of(mount)),
        str(mount.pid or "-"),
        str(mount.restarts),
        size(mount.stats.nfs.bytes_read),
        size(mount.stats.nfs.bytes_written),
        "; ".join(filter(None, (*_reasons(mount), *repaired, _suggestion(mount, volumes)))),
    )


def _reasons(mount: efc_pb2.MountStatus) -> tuple[str, ...]:
    troubles = (*missing_sources(mount), mount.network_trouble, workers_of(mount), store_of(mount))
    return silence_of(mount), mount.reason, *troubles
