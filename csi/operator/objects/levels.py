"""How much cache a worker has, of what, and how much memory its pod needs for that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csi.api.efcruntime import EFCRuntime, Level, MediumType
from csi.base.errors import invalid
from csi.operator.quantities import quantity

MIB = 1 << 20
#: Of memory, where a runtime says nothing.
_MEMORY_MIB_DEFAULT = 1024
_QUOTA_MIB_MIN = 64


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file of a worker's: so much of it, in a directory ``path`` of the node, or of the pod's own."""

    path: str
    size_mib: int
    is_of_node: bool


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Of one worker."""

    memory_mib: int
    disks: tuple[Disk, ...] = ()

    @property
    def quota_bytes(self) -> int:
        """What counts as the worker's capacity."""
        return (self.memory_mib + sum(disk.size_mib for disk in self.disks)) * MIB


def cache_of(runtime: EFCRuntime) -> Cache:
    """What the runtime's levels are together; raises INVALID_ARGUMENT."""
    levels = runtime.spec.tieredstore.levels
    if not levels:
        return Cache(memory_mib=_MEMORY_MIB_DEFAULT)
    memory = 0
    for level in levels:
        if level.mediumtype is not MediumType.MEM:
            raise invalid(f"mediumtype {level.mediumtype}: use MEM")
        memory += sum(_quotas(level))
    return Cache(memory_mib=memory)


def _quotas(level: Level) -> list[int]:
    """MiB of each of the level's paths."""
    where = f"of the tieredstore's level {level.mediumtype}"
    paths = [path for path in level.path.split(",") if path] or [""]
    if level.quota_list:
        quotas = [quantity(text, noun=f"quotaList {where}") // MIB for text in level.quota_list.split(",")]
        if len(quotas) != len(paths):
            raise invalid(
                f"quotaList {where} has {len(quotas)} entries and path {len(paths)}: give a quota for each path"
            )
    else:
        if level.quota in ("", None):
            raise invalid(f"the quota {where} is missing: say how much, for example 15Gi")
        quotas = [quantity(level.quota, noun=f"the quota {where}") // MIB // len(paths)] * len(paths)
    for size in quotas:
        if size < _QUOTA_MIB_MIN:
            raise invalid(f"the quota {where} is {size}Mi for a path: {_QUOTA_MIB_MIN}Mi or more is allowed")
    return quotas


def memory_needed_mib(cache: Cache) -> int:
    """Memory of a worker's process in MiB, at most."""
    return cache.memory_mib + cache.memory_mib // 50 + 64


def worker_resources(runtime: EFCRuntime, cache: Cache) -> dict[str, Any]:
    """``worker.resources`` and what the cache needs: the same memory is requested as is the limit."""
    given: Mapping[str, Any] = runtime.spec.worker.resources
    requests, limits = dict(given.get("requests") or {}), dict(given.get("limits") or {})
    noun = "the memory in worker.resources"
    more = quantity(limits.get("memory") or requests.get("memory") or 0, noun=noun)
    memory = str(memory_needed_mib(cache) * MIB + more)
    requests["memory"] = limits["memory"] = memory
    return {**given, "requests": requests, "limits": limits}
