"""What the tests of this folder measure: results/faults.details.json, and a table at the end of their run.

The suite puts the file into results/faults.json. Each test adds its own part, so that one that fails spares the others.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from tests.support.paths import RESULTS

_FILE = RESULTS / "faults.details.json"


def record(part: str, name: str, figures: dict[str, Any]) -> None:
    """Adds the figures of one test to a part, `storms`, `pauses`, `workers` or `writer`."""
    RESULTS.mkdir(exist_ok=True)
    details = recorded()
    details.setdefault(part, {})[name] = figures
    _FILE.write_text(json.dumps(details, indent=2) + "\n")


def recorded() -> dict[str, Any]:
    """What is there."""
    details: dict[str, Any] = json.loads(_FILE.read_text()) if _FILE.exists() else {}
    return details


def spread(values_ms: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    p99 = statistics.quantiles(values_ms, n=100, method="inclusive")[98] if len(values_ms) > 1 else max(values_ms)
    return {
        "p50_ms": round(statistics.median(values_ms), 1),
        "p99_ms": round(p99, 1),
        "max_ms": round(max(values_ms), 1),
    }


def table() -> list[str]:
    """For people."""
    details = recorded()
    lines = []
    if storms := details.get("storms"):
        lines.append(
            f"{'storm':32} {'kills':>5} {'operations':>10} {'errors':>6} {'wrong bytes':>11}"
            f" {'stall p50':>9} {'p99':>6} {'max ms':>6} {'s':>5}"
        )
        lines += [_storm_line(name, figures) for name, figures in storms.items()]
    if pauses := details.get("pauses"):
        lines.append(
            f"{'pause of a read':32} {'kills':>5} {'p50':>7} {'p99':>7} {'max ms':>7}   without kills: p50, p99, max"
        )
        lines += [_pause_line(name, figures) for name, figures in pauses.items()]
    for name, found in details.get("workers", {}).items():
        lines += _worker_lines(name, found)
    lines += [
        f"one writer, three readers, {kind}: {found['rounds']} rounds, {found['reads']} reads, {found['stale']} stale; "
        f"MiB from workers {found['workers_bytes'] >> 20}, from the NAS by blocks {found['nas_bytes'] >> 20}"
        for kind, found in details.get("writer", {}).items()
    ]
    return lines


def _storm_line(name: str, figures: dict[str, Any]) -> str:
    stalls = figures["stalls"]
    return (
        f"{name:32} {figures['kills']:5} {sum(figures['operations'].values()):10} {figures['errors']:6}"
        f" {figures['wrong_bytes']:11} {stalls['p50_ms']:9.0f} {stalls['p99_ms']:6.0f} {stalls['max_ms']:6.0f}"
        f" {figures['seconds']:5.0f}"
    )


def _pause_line(name: str, figures: dict[str, Any]) -> str:
    pauses, calm = figures["pauses"], figures["without_kills"]
    return (
        f"{name:32} {figures['kills']:5} {pauses['p50_ms']:7.1f} {pauses['p99_ms']:7.1f} {pauses['max_ms']:7.1f}"
        f"   {calm['p50_ms']:.1f}, {calm['p99_ms']:.1f}, {calm['max_ms']:.1f}"
    )


def _worker_lines(name: str, found: dict[str, Any]) -> list[str]:
    total = (
        f"workers, {name}: {sum(found['struck'].values())} faults, {found['reads']} reads, {found['errors']} errors, "
        f"{found['wrong_bytes']} wrong bytes, {found['refused']} blocks refused"
    )
    heading = f"{'fault':32} {'times':>5}    longest wait p50, max ms   throughput back after, s at most"
    lines = [
        f"{fault:32} {found['struck'].get(fault, 0):5}    {waits['p50_ms']:16.0f}, {waits['max_ms']:6.0f}"
        f"   {found['back_s_max'].get(fault, 0.0):10.1f}"
        for fault, waits in found["waits"].items()
    ]
    return [total, heading, *lines]
