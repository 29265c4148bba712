"""``efc top``: what each mount of this node reads and writes per second, where it comes from, and what it waits for.

A table that is drawn anew on a terminal; elsewhere its lines, one interval after the other. The keeper is asked once
each interval, and only what it says is shown. While none answers, that is said instead of the table.
"""

import argparse
import asyncio
import json
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from csi._proto import efc_pb2
from csi.base.errors import DriverError
from csi.base.text import printable
from csi.cli.figures import duration, size
from csi.cli.status import volumes
from csi.cli.terminal import Screen
from csi.cli.unserved import is_nothing_mounted, nothing_is_mounted
from csi.node.keeper import Keeper, source_of
from csi.node.rates import Rates, Sampler

_COLUMNS = ("SOURCE", "STATE", "USED BY", "READ/s", "WRITE/s", "REQ/s", "NAS/s", "FROM", "TOOK", "OLDEST", "MEMORY")
_MS = 1000
_PODS_SHOWN_MAX = 2
_KIB = 1024

View = dict[str, object]


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc top`` until q, Ctrl-C, or the end of the first interval with ``--once``."""
    if is_nothing_mounted(parsed.run_dir):
        print("[]" if parsed.json else nothing_is_mounted(parsed.run_dir))
        return 0
    looks = _Looks(parsed.run_dir)
    looks.take()
    if parsed.once or parsed.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _print(looks, parsed)
    with Screen() as screen:
        screen.draw(_screen("waiting for the first interval", []))
        while not _has_quit(parsed.interval):
            try:
                lines = _screen("", _table([_row(view) for view in looks.take()]))
            except DriverError as error:
                lines = _screen(error.message, [])
            screen.draw(lines)
    return 0


def _print(looks: "_Looks", parsed: argparse.Namespace) -> int:
    while True:
        time.sleep(parsed.interval)
        views = looks.take()
        if parsed.json:
            print(json.dumps(views, indent=2 if parsed.once else None), flush=True)
        else:
            print("\n".join(_table([_row(view) for view in views])), flush=True)
        if parsed.once:
            return 0


def _has_quit(seconds: float) -> bool:
    """Whether q is pressed, or standard input ends, within this time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not select.select([sys.stdin], [], [], left)[0]:
            return False
        if os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
            return True
    return False


# ------------------------------------------------------------ what there is to show


class _Looks:
    """Asks the keeper, and what the node plugin has recorded, again and again."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir, self._keeper, self._sampler = run_dir, Keeper(run_dir), Sampler()

    def take(self) -> list[View]:
        """One object for each mount, those that read most first. Keys are only ever added."""
        mounts = asyncio.run(self._keeper.status()).mounts
        rates = self._sampler.take(mounts, now=time.monotonic())
        users = volumes(self._run_dir)
        views = [view_of(mount, rates[mount.target], users.get(mount.target, [])) for mount in mounts]
        return sorted(views, key=lambda view: (-float(str(view["read_bytes_per_second"] or 0)), str(view["target"])))


def view_of(mount: efc_pb2.MountStatus, rates: Rates | None, users: Sequence[Mapping[str, object]]) -> View:
    """One element of ``efc top --json``; what is per second is None before there is a second report."""
    nfs = mount.stats.nfs
    return {
        "source": source_of(mount),
        "target": mount.target,
        "state": efc_pb2.MountStatus.State.Name(mount.state).lower(),
        "volumes": len(users),
        "pods": sorted({_pod(user) for user in users}),
        "read_bytes_per_second": None if rates is None else round(rates.bytes_read),
        "write_bytes_per_second": None if rates is None else round(rates.bytes_written),
        "requests_per_second": None if rates is None else round(rates.requests, 1),
        "nas_calls_per_second": None if rates is None else round(rates.calls, 1),
        "levels": None if rates is None else {level: round(share, 4) for level, share in rates.shares().items()},
        "level_ms": None if rates is None else {level: round(mean, 3) for level, mean in rates.level_ms.items()},
        "oldest_call_ms": nfs.oldest_call_ms,
        "memory_bytes": _memory_bytes(mount.pid),
    }


def _pod(user: Mapping[str, object]) -> str:
    if user["pod_name"]:
        return f"{user['pod_namespace']}/{user['pod_name']}"
    return str(user["pod_uid"] or user["target"])


def _memory_bytes(pid: int) -> int | None:
    """Resident memory of a daemon; None if it cannot be seen from here."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    # Where the keeper has a pid namespace of its own, this is somebody else.
    if fields.get("Name", "").strip() != "efcd" or "VmRSS" not in fields:
        return None
    return int(fields["VmRSS"].split()[0]) * _KIB


# ------------------------------------------------------------ as text


def _row(view: View) -> tuple[str, ...]:
    pods, levels = view["pods"], view["levels"]
    assert isinstance(pods, list)  # noqa: S101 - for mypy: view_of makes it
    shares = {level: share for level, share in levels.items() if share} if isinstance(levels, dict) else {}
    took = view["level_ms"] if isinstance(view["level_ms"], dict) else {}
    oldest, memory = view["oldest_call_ms"], view["memory_bytes"]
    used_by = pods[:_PODS_SHOWN_MAX] or [str(view["target"])]
    more = f" +{len(pods) - _PODS_SHOWN_MAX}" if len(pods) > _PODS_SHOWN_MAX else ""
    return (
        str(view["source"]),
        str(view["state"]).replace("_", " "),
        " ".join(used_by) + more,
        _size(view["read_bytes_per_second"]),
        _size(view["write_bytes_per_second"]),
        _number(view["requests_per_second"]),
        _number(view["nas_calls_per_second"]),
        " ".join(f"{level} {share:.0%}" for level, share in shares.items()) or "-",
        " ".join(f"{level} {float(str(mean)):.3g} ms" for level, mean in took.items()) or "-",
        duration(int(str(oldest)) / _MS) if int(str(oldest)) >= _MS else f"{oldest} ms" if oldest else "-",
        _size(memory),
    )


def _size(value: object) -> str:
    return "-" if value is None else size(float(str(value)))


def _number(value: object) -> str:
    return "-" if value is None else f"{float(str(value)):.0f}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return ["Nothing is mounted."]
    cells = [_COLUMNS, *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(_COLUMNS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]  # fmt: skip


def _screen(message: str, table: Sequence[str]) -> list[str]:
    return list(_screen_lines(message, table))


def _screen_lines(message: str, table: Sequence[str]) -> Iterator[str]:
    yield f"efc top  {time.strftime('%H:%M:%S')}  q ends it"
    yield printable(message)
    yield from table
