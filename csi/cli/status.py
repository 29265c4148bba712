"""``efc status``: what the keeper of this run directory has mounted."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from csi._proto import efc_pb2
from csi.keeper import Keeper, KeeperStatus, KeeperUnreachableError, options_of, source_of
from csi.repair import Reports

_COLUMNS = ("SOURCE", "TARGET", "STATE", "PID", "RESTARTS", "READ", "WRITTEN", "REASON")


def run(parsed: argparse.Namespace) -> int:
    """Without a keeper nothing is mounted: an empty list."""
    try:
        status = asyncio.run(Keeper(parsed.run_dir).status())
    except KeeperUnreachableError:
        status = KeeperStatus(pid=0, version="", mounts=[])
    reports = Reports(parsed.run_dir)
    mounts = [described(mount, status, reports) for mount in sorted(status.mounts, key=lambda mount: mount.target)]
    if parsed.json:
        print(json.dumps(mounts, indent=2))
    elif not mounts:
        print(f"Nothing is mounted (run directory {parsed.run_dir}).")
    else:
        _print_table([_row(mount, reports) for mount in status.mounts])
    return 0


def described(mount: efc_pb2.MountStatus, status: KeeperStatus, reports: Reports) -> dict[str, object]:
    """One element of ``efc status --json``. Keys are only ever added."""
    report = reports.get(mount.target, device=f"0:{mount.connection}")
    return {
        "source": source_of(mount),
        "target": mount.target,
        "pid": mount.pid or None,
        "keeper_pid": status.pid,
        "version": mount.version or None,
        "keeper_version": status.version,
        "state": efc_pb2.MountStatus.State.Name(mount.state).lower(),
        "restarts": mount.restarts,
        "reason": mount.reason or None,
        "cache": None,
        "connection": mount.connection,
        "mounted_at_unix_ms": mount.mounted_at_unix_ms,
        "read_only": mount.config.read_only,
        "options": {
            field.name: value
            for field, value in options_of(mount).ListFields()
            if field.name not in ("source", "read_only")
        },
        "stats": statistics(mount.stats) if mount.HasField("stats") else None,
        "repair": asdict(report) if report else None,
    }


def statistics(stats: efc_pb2.DaemonStats) -> dict[str, object]:
    """All counters, zeros too."""
    return {field.name: getattr(stats, field.name) for field in stats.DESCRIPTOR.fields}


def _row(mount: efc_pb2.MountStatus, reports: Reports) -> tuple[str, ...]:
    report = reports.get(mount.target, device=f"0:{mount.connection}")
    repaired = [report.failure(), report.note()] if report else []
    return (
        source_of(mount),
        mount.target + (" (ro)" if mount.config.read_only else ""),
        efc_pb2.MountStatus.State.Name(mount.state).lower().replace("_", " "),
        str(mount.pid or "-"),
        str(mount.restarts),
        _bytes(mount.stats.bytes_read),
        _bytes(mount.stats.bytes_written),
        "; ".join(part for part in (mount.reason, *repaired) if part),
    )


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        # For pipes: plain columns, nothing cut off.
        widths = [max(len(row[index]) for row in [_COLUMNS, *rows]) for index in range(len(_COLUMNS))]
        for row in [_COLUMNS, *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS, box=None)
    for row in rows:
        state = row[2] if row[2] == "serving" else f"[bold red]{row[2]}[/]"
        table.add_row(*row[:2], state, *row[3:])
    Console().print(table)
