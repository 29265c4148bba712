"""What the mounts of a warm-up have counted by now, and what a pass has found out from it.

Counters are the keeper's, and of whoever reads from the mounts meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csi._proto import efc_pb2
from csi.node.keeper import options_of
from csi.node.statistics import CACHE_LEVELS, bytes_by_level
from csi.warming.passes import bytes_cached
from csi.warming.tally import Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Sums over mounts, or what was added to them since."""

    levels: Mapping[str, int]  # bytes by where they came from
    nas_blocks: int  # that were asked of the NAS ...
    nas_bytes: int  # ... and what they had
    missed_blocks: int  # that every cache was asked for in vain
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
            nas_blocks=sum(mount.stats.cache.nas_blocks for mount in mounts),
            nas_bytes=sum(mount.stats.cache.nas_bytes for mount in mounts),
            missed_blocks=sum(map(_missed_blocks, mounts)),
            taken_bytes=sum(map(_taken_bytes, mounts)),
        )

    def since(self, before: Counts) -> Counts:
        """What was added since: never less than nothing, should a daemon have died before it reported."""
        return Counts(
            levels={level: max(0, count - before.levels[level]) for level, count in self.levels.items()},
            nas_blocks=max(0, self.nas_blocks - before.nas_blocks),
            nas_bytes=max(0, self.nas_bytes - before.nas_bytes),
            missed_blocks=max(0, self.missed_blocks - before.missed_blocks),
            taken_bytes=max(0, self.taken_bytes - before.taken_bytes),
        )

    @property
    def unasked_bytes(self) -> int:
        """What the NAS gave without every cache having said that it has not got it: one was late, or away."""
        return self.nas_bytes * max(0, self.nas_blocks - self.missed_blocks) // max(1, self.nas_blocks)

    def missing_bytes(self, figures: Figures) -> int:
        """Bytes that were not in caches; those of files that change are left out."""
        return max(0, self.levels["nas"] - figures.bytes_changed)

    def missing_bytes_at_first(self, figures: Figures) -> int:
        """The same of the first pass: nothing if caches gave all, otherwise all that it was about."""
        covered = figures.bytes_read + figures.bytes_noted
        return covered if self.missing_bytes(figures) or bytes_cached(self.levels) < covered else 0


def _missed_blocks(mount: efc_pb2.MountStatus) -> int:
    cache, stats = options_of(mount).cache, mount.stats
    missed = []
    if cache.workers:
        missed.append(stats.cache.workers_misses)
    if cache.store_mib:
        missed.append(stats.store.misses)
    return min(missed, default=0)


def _taken_bytes(mount: efc_pb2.MountStatus) -> int:
    return max(mount.stats.cache.workers_filled_bytes, mount.stats.store.filled_bytes)
