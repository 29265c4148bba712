"""EFCRuntime: how much cache a Dataset of the same name has, and how its parts run."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from csi.api.common import Json, Model, NetworkMode, ObjectMeta, PodMetadata


class MediumType(StrEnum):
    """What a level of the cache is made of."""

    MEM = "MEM"
    SSD = "SSD"
    HDD = "HDD"


class VolumeType(StrEnum):
    """What a level's path is a volume of; empty is a directory of the node."""

    UNSET = ""
    HOST_PATH = "hostPath"
    EMPTY_DIR = "emptyDir"


class CleanPolicy(StrEnum):
    """When a node's daemon ends; empty is OnRuntimeDeleted."""

    UNSET = ""
    ON_DEMAND = "OnDemand"
    ON_RUNTIME_DELETED = "OnRuntimeDeleted"
    ON_FUSE_CHANGED = "OnFuseChanged"


class VersionSpec(Model):
    """An image of Fluid's closed programs: ignored, images are the chart's."""

    image: str = ""
    image_tag: str = ""
    image_pull_policy: str = ""


class Component(Model):
    """The master or the workers."""

    replicas: int = 0
    version: VersionSpec = VersionSpec()
    properties: dict[str, str] = Field(default_factory=dict)
    ports: dict[str, int] = Field(default_factory=dict)
    resources: Json = Field(default_factory=dict)
    disabled: bool = False
    node_selector: dict[str, str] = Field(default_factory=dict)
    network_mode: NetworkMode = NetworkMode.UNSET
    pod_metadata: PodMetadata = PodMetadata()


class InitFuse(Model):
    """Ignored: it names a closed program."""

    version: VersionSpec = VersionSpec()


class Fuse(Model):
    """The daemons on the nodes."""

    version: VersionSpec = VersionSpec()
    properties: dict[str, str] = Field(default_factory=dict)
    resources: Json = Field(default_factory=dict)
    node_selector: dict[str, str] = Field(default_factory=dict)
    clean_policy: CleanPolicy = CleanPolicy.UNSET
    network_mode: NetworkMode = NetworkMode.UNSET
    pod_metadata: PodMetadata = PodMetadata()


class Level(Model):
    """One level of each worker's cache; sizes are quantities of Kubernetes ("15Gi")."""

    mediumtype: MediumType
    volume_type: VolumeType = VolumeType.UNSET
    volume_source: Json = Field(default_factory=dict)
    path: str = ""
    quota: str | int = ""
    quota_list: str = ""
    high: str = ""
    low: str = ""


class TieredStore(Model):
    """The levels, the fastest first."""

    levels: tuple[Level, ...] = ()


class OSAdvise(Model):
    """Ignored: it is about a closed program."""

    os_version: str = ""
    enabled: bool = False


class CleanCachePolicy(Model):
    """Ignored: a worker's cache goes with the worker."""

    grace_period_seconds: int = 60
    max_retry_attempts: int = 3


class EFCRuntimeSpec(Model):
    """What a user asks for."""

    master: Component = Component()
    worker: Component = Component()
    init_fuse: InitFuse = InitFuse()
    fuse: Fuse = Fuse()
    tieredstore: TieredStore = TieredStore()
    replicas: int = 0
    os_advise: OSAdvise = OSAdvise()
    clean_cache_policy: CleanCachePolicy = CleanCachePolicy()
    pod_metadata: PodMetadata = PodMetadata()


class EFCRuntime(Model):
    """One EFCRuntime; ``status`` is as the API server has it, for comparing with what it should be."""

    metadata: ObjectMeta
    spec: EFCRuntimeSpec = EFCRuntimeSpec()
    status: dict[str, Any] = Field(default_factory=dict)
