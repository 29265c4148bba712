"""Rates per second of each mount: differences between two of the keeper's reports.

Counters belong to the session and only grow, but a daemon that dies loses what it had not reported, and a target that
is mounted again starts at zero. So a rate is never below 0, and a new session has none before its second report. If a
keeper gets no new report from a daemon it repeats the last one, and then the former rates stay.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from csi._proto import efc_pb2
from csi.node.statistics import bytes_by_level, times_by_level

_MS = 1000
_US_PER_MS = 1000


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of one mount, each per second; ``bytes_read`` are those of all levels, each of which is in ``levels``."""

    bytes_read: float = 0.0
    bytes_written: float = 0.0
    requests: float = 0.0
    calls: float = 0.0
    levels: dict[str, float] = field(default_factory=dict)
    #: Level -> what a read that it answered took on the average, in ms; not those that answered none.
    level_ms: dict[str, float] = field(default_factory=dict)

    def shares(self) -> dict[str, float]:
        """Which part of the bytes read came from which level; empty if none were read."""
        total = self.bytes_read
        return {level: rate / total for level, rate in self.levels.items()} if total else {}


@dataclass(frozen=True, kw_only=True)
class _Report:
    """Counters of a session at the time ``at``, in seconds; ``uptime_ms`` is that of the daemon which counted last."""

    session: tuple[int, int]
    at: float
    pid: int
    uptime_ms: int
    counters: dict[str, int]
    levels: dict[str, int]
    times: dict[str, tuple[int, int]]


class Sampler:
    """Keeps the last report of each mount."""

    def __init__(self) -> None:
        self._reports: dict[str, _Report] = {}
        self._rates: dict[str, Rates] = {}

    def take(self, mounts: Iterable[efc_pb2.MountStatus], *, now: float) -> dict[str, Rates | None]:
        """Target -> its rates since the report before; None where there was none. ``now`` is in seconds."""
        reports = {mount.target: _report(mount, now) for mount in mounts if mount.HasField("stats")}
        before = self._reports
        rates: dict[str, Rates] = {}
        for target, report in reports.items():
            earlier = before.get(target)
            if earlier is None or earlier.session != report.session:
                continue
            if (earlier.pid, earlier.uptime_ms) != (report.pid, report.uptime_ms):
                rates[target] = _between(earlier, report)
                continue
            reports[target] = earlier  # said already
            if target in self._rates:
                rates[target] = self._rates[target]
        self._reports, self._rates = reports, rates
        return {mount.target: rates.get(mount.target) for mount in mounts}


def _report(mount: efc_pb2.MountStatus, now: float) -> _Report:
    stats = mount.stats
    return _Report(
        session=(mount.connection, mount.mounted_at_unix_ms),
        at=now,
        pid=mount.pid,
        uptime_ms=stats.uptime_ms,
        counters={"bytes_written": stats.nfs.bytes_written, "requests": stats.fuse.requests, "calls": stats.nfs.calls},
        levels=bytes_by_level(stats),
        times=times_by_level(stats),
    )


def _between(earlier: _Report, later: _Report) -> Rates:
    seconds = later.at - earlier.at
    if later.pid == earlier.pid and later.uptime_ms > earlier.uptime_ms:
        seconds = (later.uptime_ms - earlier.uptime_ms) / _MS  # by the clock of who counted

    def per_second(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
        return {name: max(0, count - before[name]) / seconds if seconds > 0 else 0.0 for name, count in after.items()}

    levels = per_second(earlier.levels, later.levels)
    return Rates(
        bytes_read=sum(levels.values()), levels=levels, level_ms=_means_ms(earlier.times, later.times),
        **per_second(earlier.counters, later.counters),
    )  # fmt: skip


def _means_ms(earlier: dict[str, tuple[int, int]], later: dict[str, tuple[int, int]]) -> dict[str, float]:
    means: dict[str, float] = {}
    for level, (sum_us, count) in later.items():
        sum_before_us, count_before = earlier.get(level, (0, 0))
        if count > count_before and sum_us >= sum_before_us:
            means[level] = (sum_us - sum_before_us) / (count - count_before) / _US_PER_MS
    return means
