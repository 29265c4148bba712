"""Whether a run is worse than the baseline, or than another build in the same run.

Counts (calls of NFS, bytes of READ and WRITE per operation) say the same on every machine: 3 % more is worse. So is
a daemon's memory, at 10 %: an allocator rounds. CPU does not, so only ratios within one run are kept: of our client to
the kernel's where there is one, and to the server's own folder. From one run to the next they wander, by as much as
the machine does: 15 % more is worse, beyond the noise. Beside another build in the same run 3 % more is.
Noise is two standard errors of the median, as the rounds show it. Times are reported and never gated.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).with_name("baseline.json")
#: What counts per operation, and memory in bytes.
COUNTS, MEMORY = ("calls", "read_bytes", "written_bytes"), ("daemon_bytes", "state_bytes")
COUNT_MARGIN, MEMORY_MARGIN, CPU_MARGIN, CPU_MARGIN_AGAINST = 0.03, 0.10, 0.15, 0.03
#: A client asks now and then whether its folder's attributes are still true: so many calls in a round do not count.
CALLS_OF_CHANCE = 2
#: A reference that used less CPU in a round is no measure.
CPU_S_MIN = 0.002
#: Fewer say nothing of the noise, and no CPU is gated.
ROUNDS_MIN = 3

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The median of the rounds' ratios, and two standard errors of it; more rounds make them less."""

    median: float
    noise: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Of one ratio per round. The error is estimated from the median deviation, which an outlier does not move."""
        median = statistics.median(ratios)
        deviation = 1.4826 * statistics.median(abs(ratio - median) for ratio in ratios)
        return cls(median=median, noise=2 * 1.2533 * deviation / math.sqrt(len(ratios)))


def worse_than_baseline(name: str, measured: Figures, baseline: Figures | None) -> Iterator[str]:
    """Each figure of a row that is worse than the baseline's, for people."""
    if baseline is None:
        yield f"{name}: it has no baseline: `make bench-baseline ONLY='{name}'` writes one"
        return
    yield from _worse_counts(name, measured, baseline, than="the baseline's")
    for reference, ratio in measured.get("cpu_to", {}).items():
        before = baseline.get("cpu_to", {}).get(reference)
        if before is not None:
            limit = before["median"] * (1 + CPU_MARGIN) + before["noise"] + ratio["noise"]
            if ratio["median"] > limit:
                yield (
                    f"{name}: CPU is {ratio['median']:.2f} times that of {reference}, the baseline's is "
                    f"{before['median']:.2f} (at most {limit:.2f})"
                )


def worse_than_other(name: str, measured: Figures, other: Figures, cpu: Ratio | None) -> Iterator[str]:
    """The same beside another build; `cpu` is the ratio of this one's CPU to the other's."""
    yield from _worse_counts(name, measured, other, than="the other build's")
    if cpu is not None and cpu.median - cpu.noise > 1 + CPU_MARGIN_AGAINST:
        yield f"{name}: CPU is {cpu.median:.3f} times the other build's, {cpu.noise:.3f} of it noise"


def _worse_counts(name: str, measured: Figures, before: Figures, *, than: str) -> Iterator[str]:
    for figure in (*COUNTS, *MEMORY):
        if figure not in measured or figure not in before:
            continue
        margin = MEMORY_MARGIN if figure in MEMORY else COUNT_MARGIN
        chance = CALLS_OF_CHANCE / measured["operations"] if figure == "calls" else 0
        limit = max(before[figure] * (1 + margin), before[figure] + chance)
        if measured[figure] > limit:
            yield f"{name}: {figure} {measured[figure]:,.4g}, {than} {before[figure]:,.4g} (at most {limit:,.4g})"


def read_baseline(path: Path = BASELINE) -> dict[str, Figures]:
    """Figures by row; none if there is no such file."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_baseline(measured: Mapping[str, Figures], path: Path = BASELINE) -> None:
    """Keeps what this run has not measured: other rows, and ratios to a client that cannot run here."""
    rows = read_baseline(path)
    for name, figures in measured.items():
        before = rows.get(name, {})
        merged = {**before, **figures}
        for key in ("cpu_to", "kernel"):
            if key in before or key in figures:
                merged[key] = {**before.get(key, {}), **figures.get(key, {})}
        rows[name] = merged
    path.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
