"""How much cache a worker has, of what, and how much memory its pod needs for that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csi.api.efcruntime import EFCRuntime, Level, MediumType, VolumeType
from csi.base import workers
from csi.base.errors import DriverError, invalid
from csi.config.paths import check_components
from csi.operator.quantities import quantity

MIB = workers.MIB
#: Of memory, where a runtime says nothing.
_MEMORY_MIB_DEFAULT = 1024
#: Of memory, where a runtime has disks only: for what is on its way to them. It does not count as capacity.
_BUFFER_MIB = 128
_QUOTA_MIB_MIN = 64


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file of a worker's: so much of it, in a directory of the node, or with "" in one of the pod's own."""

    directory: str
    size_mib: int


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Of one worker; ``buffer_mib`` is memory that no level asks for."""

    memory_mib: int
    disks: tuple[Disk, ...] = ()
    buffer_mib: int = 0

    @property
    def disk_mib(self) -> int:
        """Of all files together."""
        return sum(disk.size_mib for disk in self.disks)

    @property
    def quota_bytes(self) -> int:
        """What counts as the worker's capacity."""
        return (self.memory_mib + self.disk_mib) * MIB


def cache_of(runtime: EFCRuntime) -> Cache:
    """What the runtime's levels are together; raises INVALID_ARGUMENT."""
    memory, disks = 0, []
    for level in runtime.spec.tieredstore.levels:
        places = _places(level)
        if level.mediumtype is MediumType.MEM:
            memory += sum(size for _, size in places)
        else:
            disks += [Disk(directory=_directory(level, path), size_mib=size) for path, size in places]
    if not memory and not disks:
        memory = _MEMORY_MIB_DEFAULT
    return Cache(memory_mib=memory, disks=tuple(disks), buffer_mib=0 if memory else _BUFFER_MIB)


def worker_resources(runtime: EFCRuntime, cache: Cache) -> dict[str, Any]:
    """``worker.resources`` and what the cache needs: as much memory is requested as is the limit."""
    given: Mapping[str, Any] = runtime.spec.worker.resources
    requests, limits = dict(given.get("requests") or {}), dict(given.get("limits") or {})
    more = quantity(limits.get("memory") or requests.get("memory") or 0, noun="the memory of worker.resources")
    needed = workers.process_memory_mib(cache.memory_mib + cache.buffer_mib, cache.disk_mib)
    requests["memory"] = limits["memory"] = _written(needed * MIB + more)
    if own := sum(disk.size_mib for disk in cache.disks if not disk.directory):
        noun = "the ephemeral storage of worker.resources"
        requests["ephemeral-storage"] = _written(own * MIB + quantity(requests.get("ephemeral-storage", 0), noun=noun))
        if limit := limits.get("ephemeral-storage"):
            limits["ephemeral-storage"] = _written(own * MIB + quantity(limit, noun=noun))
    return {**given, "requests": requests, "limits": limits}


def _written(size: int) -> str:
    return f"{size // MIB}Mi" if size % MIB == 0 else str(size)


def _places(level: Level) -> list[tuple[str, int]]:
    """The level's paths, and MiB of each."""
    where = f"of level {level.mediumtype} of the tieredstore"
    paths = [path.strip() for path in level.path.split(",")]
    if level.quota_list:
        quotas = [quantity(text, noun=f"a quota in quotaList {where}") // MIB for text in level.quota_list.split(",")]
        if len(quotas) != len(paths):
            message = f"quotaList {where} has {len(quotas)} quotas and path has {len(paths)} paths: give one for each"
            raise invalid(message)
    else:
        if level.quota == "":
            raise invalid(f"the quota {where} is missing: say how much, for example 15Gi")
        quotas = [quantity(level.quota, noun=f"the quota {where}") // MIB // len(paths)] * len(paths)
    if min(quotas) < _QUOTA_MIB_MIN:
        raise invalid(f"the quota {where} is {min(quotas)}Mi: {_QUOTA_MIB_MIN}Mi or more is needed for each path")
    return list(zip(paths, quotas, strict=True))


def _directory(level: Level, path: str) -> str:
    """The directory of the node, "" for the pod's own."""
    if level.volume_type is VolumeType.EMPTY_DIR:
        return ""
    directory = path.rstrip("/")
    try:
        if not directory.startswith("/"):
            raise invalid("is not the absolute path of a directory below /")
        check_components(directory[1:])
    except DriverError as error:
        raise invalid(f"path {path[:256]!r} of level {level.mediumtype} of the tieredstore {error.message}") from None
    return directory
