"""The cache levels of a worker: their sizes and media, and the memory that its pod needs for them."""

from dataclasses import dataclass, field
from typing import Any

from csi.api.common import Json
from csi.api.efcruntime import EFCRuntime, Level, MediumType, VolumeType
from csi.api.quantities import BYTES_MAX
from csi.base import workers
from csi.base.errors import DriverError, invalid
from csi.config.paths import check_components
from csi.operator.objects.sizes import size_of

MIB = workers.MIB
#: Of memory, where a runtime says nothing.
_MEMORY_MIB_DEFAULT = 1024
#: Of memory, where a runtime has disks only: for what is on its way to them. It does not count as capacity.
_BUFFER_MIB = 128
_QUOTA_MIB_MIN = 64


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file of a worker's: so much of it, in a directory of the node, or with "" in an ``empty_dir`` of the pod's."""

    directory: str
    size_mib: int
    empty_dir: Json = field(default_factory=dict)


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
        """What counts as the worker's capacity; no more than a quantity can be, however many levels say so."""
        return min((self.memory_mib + self.disk_mib) * MIB, BYTES_MAX)


def cache_of(runtime: EFCRuntime) -> Cache:
    """What the runtime's levels are together; raises INVALID_ARGUMENT that names the field."""
    memory, disks = 0, []
    for index, level in enumerate(runtime.spec.tieredstore.levels):
        where = f"spec.tieredstore.levels[{index}]"
        if level.mediumtype not in set(MediumType):
            raise invalid(f"{where}.mediumtype: {str(level.mediumtype)[:64]!r} is not one of {', '.join(MediumType)}")
        places = _places(level, where)
        if level.mediumtype == MediumType.MEM:
            memory += sum(size for _, size in places)
        elif level.volume_type == VolumeType.EMPTY_DIR:
            source = _empty_dir(level, where)
            disks += [Disk(directory="", size_mib=size, empty_dir=source) for _, size in places]
        else:
            disks += [Disk(directory=_directory(path, f"{where}.path"), size_mib=size) for path, size in places]
    if not memory and not disks:
        memory = _MEMORY_MIB_DEFAULT
    return Cache(memory_mib=memory, disks=tuple(disks), buffer_mib=0 if memory else _BUFFER_MIB)


def worker_resources(runtime: EFCRuntime, cache: Cache) -> dict[str, Any]:
    """``worker.resources`` and what the cache needs: as much memory is requested as is the limit."""
    where, given = "spec.worker.resources", runtime.spec.worker.resources
    requests, limits = dict(given.get("requests") or {}), dict(given.get("limits") or {})
    more = size_of(limits.get("memory") or requests.get("memory") or 0, field=f"{where}: memory")
    needed = workers.process_memory_mib(cache.memory_mib + cache.buffer_mib, cache.disk_mib)
    requests["memory"] = limits["memory"] = _written(needed * MIB + more)
    if own := sum(disk.size_mib for disk in cache.disks if not disk.directory):
        requests.setdefault("ephemeral-storage", 0)
        for sizes in (requests, limits):
            if (there := sizes.get("ephemeral-storage")) is not None:
                more = size_of(there, field=f"{where}: ephemeral-storage")
                sizes["ephemeral-storage"] = _written(own * MIB + more)
    return {**given, "requests": requests, "limits": limits}


def _written(size: int) -> str:
    return f"{size // MIB}Mi" if size % MIB == 0 else str(size)


def _places(level: Level, where: str) -> list[tuple[str, int]]:
    """The level's paths, and MiB of each."""
    paths = [path.strip() for path in level.path.split(",")]
    if level.quota_list:
        texts = level.quota_list.split(",")
        quotas = [size_of(text.strip(), field=f"{where}.quotaList") // MIB for text in texts]
        if len(quotas) != len(paths):
            message = f"{where}.quotaList has {len(quotas)} quotas, and path {len(paths)} paths: give one for each"
            raise invalid(message)
    else:
        if level.quota == "":
            raise invalid(f"{where}.quota is missing: say how much, for example 15Gi")
        quotas = [size_of(level.quota, field=f"{where}.quota") // MIB // len(paths)] * len(paths)
    if min(quotas) < _QUOTA_MIB_MIN:
        raise invalid(f"{where}: the quota is {min(quotas)}Mi: {_QUOTA_MIB_MIN}Mi or more is needed for each path")
    return list(zip(paths, quotas, strict=True))


def _empty_dir(level: Level, where: str) -> Json:
    source: Json = level.volume_source.get("emptyDir") or {}
    if source.get("medium") == "Memory":
        message = "is for memory: give the level mediumtype MEM, or leave the medium out"
        raise invalid(f"{where}.volumeSource.emptyDir.medium {message}")
    return source


def _directory(path: str, where: str) -> str:
    """A directory of the node."""
    directory = path.rstrip("/")
    try:
        if not directory.startswith("/"):
            raise invalid("is not the absolute path of a directory below /")
        check_components(directory[1:])
    except DriverError as error:
        raise invalid(f"{where} {path[:256]!r} {error.message}") from None
    return directory
