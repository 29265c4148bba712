"""What the mounts of a warm-up have counted by now, and what its first pass has found out from it.

Counters are the keeper's, and of whoever reads from the mounts meanwhile. So they tell where bytes came from, but not
whether caches have what was read: further passes ask for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csi._proto import efc_pb2
from csi.node.statistics import CACHE_LEVELS, bytes_by_level
from csi.warming.passes import bytes_cached
from csi.warming.tally import Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Sums over mounts, or what was added to them since."""

    levels: Mapping[str, int]  # bytes by where they came from
    taken_bytes: int  # by the cache that has taken most

    @classmethod
    def of(cls, mounts: Sequence[efc_pb2.MountStatus]) -> Counts:
        """What they have counted so far."""
        levels = dict.fromkeys(CACHE_LEVELS, 0)
        for mount in mounts:
            for level, count in bytes_by_level(mount.stats).items():
                levels[level] += count
        return cls(
            levels=levels,
            taken_bytes=sum(map(_taken_bytes, mounts)),
        )

    def since(self, before: Counts) -> Counts:
        """What was added since: never less than nothing, should a daemon have died before it reported."""
        return Counts(
            levels={level: max(0, count - before.levels[level]) for level, count in self.levels.items()},
            taken_bytes=max(0, self.taken_bytes - before.taken_bytes),
        )

    def missing_bytes(self, figures: Figures) -> int:
        """Of a first pass: nothing if caches gave all, otherwise all that it was about, as it may be missing."""
        covered = figures.bytes_read + figures.bytes_noted
        came_from_nas = max(0, self.levels["nas"] - figures.bytes_changed)
        return covered if came_from_nas or bytes_cached(self.levels) < covered else 0


def _taken_bytes(mount: efc_pb2.MountStatus) -> int:
    return max(mount.stats.cache.workers_filled_bytes, mount.stats.store.filled_bytes)
