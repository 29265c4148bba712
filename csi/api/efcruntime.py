"""EFCRuntime: how much cache a Dataset of the same name has, and how its parts run."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from csi.api import rules
from csi.api.common import Model, NetworkMode, ObjectMeta, PodMetadata
from csi.api.fields import Change, Doc, Schema
from csi.api.kubernetes import QUANTITY_PATTERN, Int32, Quantity, Resources, VolumeSource

#: Most levels of a runtime, and longest texts: what the API server's estimate of the rules' cost allows.
LEVELS_MAX = 12
TEXT_LENGTH_MAX = 1024
QUOTA_LIST_LENGTH_MAX = 512
#: Masters beyond these are not made.
MASTERS_MAX = 3


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

    image: Annotated[str, Doc("An image.")] = ""
    image_tag: Annotated[str, Doc("An image's tag.")] = ""
    image_pull_policy: Annotated[str, Doc("When the image is pulled.")] = ""


_Version = Annotated[VersionSpec, Doc("Names a closed program; the images are the driver's own.", Change.IGNORED)]
_Network = Annotated[NetworkMode | str, Field(union_mode="left_to_right")]


class Component(Model):
    """The master or the workers."""

    replicas: Annotated[Int32, Doc("How many there are.", schema={"minimum": 1})] = 0
    version: _Version = VersionSpec()
    properties: Annotated[dict[str, str], Doc("Options of closed programs.", Change.IGNORED)] = Field(
        default_factory=dict
    )
    ports: Annotated[
        dict[str, int],
        Doc("Where the pods listen is the driver's to say.", Change.IGNORED),
    ] = Field(default_factory=dict)
    resources: Annotated[
        Resources,
        Doc("CPU and memory of each pod's container.", Change.ROLLING),
    ] = Field(default_factory=dict)
    disabled: Annotated[bool, Doc("None of them run.")] = False
    node_selector: Annotated[dict[str, str], Doc("Labels of nodes where the pods may run.", Change.ROLLING)] = Field(
        default_factory=dict
    )
    network_mode: Annotated[
        _Network,
        Doc(
            "`HostNetwork`: the pods have the node's network. Otherwise, and unless given, they have one of their own.",
            Change.ROLLING,
        ),
    ] = NetworkMode.UNSET
    pod_metadata: Annotated[
        PodMetadata,
        Doc("`labels` and `annotations` of these pods; they win over those of `spec.podMetadata`.", Change.ROLLING),
    ] = PodMetadata()


class Master(Component):
    """The masters."""

    replicas: Annotated[
        Int32,
        Doc(
            f"Number of masters, of which one leads: 1 unless given, {MASTERS_MAX} at most; more is `FieldsIgnored`.",
            Change.LIVE,
            {"minimum": 1},
        ),
    ] = 0
    disabled: Annotated[bool, Doc("Must not be true: without a master nodes know no workers.", Change.REFUSED)] = False


class Worker(Component):
    """The workers."""

    replicas: Annotated[
        Int32,
        Doc("Does nothing, as in Fluid: `spec.replicas` is the number of workers.", Change.IGNORED, {"minimum": 1}),
    ] = 0
    resources: Annotated[
        Resources,
        Doc("CPU and memory of each worker; what it needs for its levels is added to memory.", Change.ROLLING),
    ] = Field(default_factory=dict)
    disabled: Annotated[bool, Doc("There are no workers: everything is read from the NAS.", Change.LIVE)] = False


class InitFuse(Model):
    """Ignored: it names a closed program."""

    version: _Version = VersionSpec()


class Fuse(Model):
    """The daemons on the nodes."""

    version: _Version = VersionSpec()
    properties: Annotated[
        dict[str, str],
        Doc(
            "Mount options of CONFIGURATION.md, which also says which of them change live; the Dataset's options win.",
            Change.LIVE,
        ),
    ] = Field(default_factory=dict)
    resources: Annotated[
        Resources,
        Doc(
            "`limits.memory` is the most that the Dataset's daemon uses on a node; anything else is `FieldsIgnored`.",
            Change.LIVE,
        ),
    ] = Field(default_factory=dict)
    node_selector: Annotated[
        dict[str, str],
        Doc("Labels of nodes where pods may use the Dataset: they become the volume's node affinity.", Change.CREATION),
    ] = Field(default_factory=dict)
    clean_policy: Annotated[
        Annotated[CleanPolicy | str, Field(union_mode="left_to_right"), Schema({"type": "string"})],
        Doc(
            "`OnRuntimeDeleted` (also unless given): a node's daemon stays, with its caches, until the runtime is "
            "deleted. `OnDemand`: it ends 30 s after its node's last pod. `OnFuseChanged` counts as the first, and "
            "is `FieldsIgnored`.",
            Change.LIVE,
            {"maxLength": TEXT_LENGTH_MAX},
            (rules.CLEAN_POLICY,),
        ),
    ] = CleanPolicy.UNSET
    network_mode: Annotated[
        _Network,
        Doc(
            "`ContainerNetwork`: daemons connect to the NAS from the network of the node's pod `efc-network`, as with "
            "the mount option `network=pod`. Otherwise, and unless given, from the node's.",
            Change.CREATION,
        ),
    ] = NetworkMode.UNSET
    pod_metadata: Annotated[PodMetadata, Doc("Daemons are no pods.", Change.IGNORED)] = PodMetadata()


#: As the pattern of Fluid's, which wants two quotas or more, and a unit on each but the last.
_QUOTA_LIST_PATTERN = (
    "^("
    + QUANTITY_PATTERN.removeprefix("^").removesuffix("?$")
    + ",)+("
    + QUANTITY_PATTERN.removeprefix("^").removesuffix("$")
    + ")$"
)


class Level(Model):
    """One level of each worker's cache; sizes are quantities of Kubernetes ("15Gi")."""

    mediumtype: Annotated[
        Annotated[MediumType | str, Field(union_mode="left_to_right")],
        Doc(
            "`MEM`: memory of the worker, whatever `path` and `volumeType` say. `SSD` and `HDD`: files below `path`.",
            Change.ROLLING,
        ),
    ]
    volume_type: Annotated[
        Annotated[VolumeType | str, Field(union_mode="left_to_right")],
        Doc(
            "`hostPath`: `path` is a directory of the node. `emptyDir`: it is one of the pod's, and goes with the pod.",
            Change.ROLLING,
            {"enum": ["hostPath", "emptyDir"], "default": "hostPath"},
        ),
    ] = VolumeType.UNSET
    volume_source: Annotated[
        VolumeSource,
        Doc(
            "`emptyDir` of an `SSD` or `HDD` level with `volumeType: emptyDir`: as in a pod, but not in memory. "
            "Anything else is `FieldsIgnored`.",
            Change.ROLLING,
        ),
    ] = Field(default_factory=dict)
    path: Annotated[
        str,
        Doc(
            "Directory of an `SSD` or `HDD` level's files, or several with commas between them.",
            Change.ROLLING,
            {"minLength": 1, "maxLength": TEXT_LENGTH_MAX},
        ),
    ] = ""
    quota: Annotated[
        Quantity,
        Doc(
            "Size of the level in each worker, over all its paths: 64Mi or more for each.",
            Change.ROLLING,
            rules=(rules.QUOTA,),
        ),
    ] = ""
    quota_list: Annotated[
        str,
        Doc(
            "Size for each path of the level, with commas between them, in place of `quota`.",
            Change.ROLLING,
            {"pattern": _QUOTA_LIST_PATTERN, "maxLength": QUOTA_LIST_LENGTH_MAX},
            (rules.QUOTA_LIST,),
        ),
    ] = ""
    high: Annotated[
        str,
        Doc("Memcached evicts when it is full, and has no watermarks.", Change.IGNORED, {"maxLength": TEXT_LENGTH_MAX}),
    ] = ""
    low: Annotated[
        str,
        Doc("Memcached evicts when it is full, and has no watermarks.", Change.IGNORED, {"maxLength": TEXT_LENGTH_MAX}),
    ] = ""


class TieredStore(Model):
    """The levels, the fastest first."""

    levels: Annotated[
        tuple[Level, ...],
        Doc(
            "The levels; several are one worker's memory and disk. Without any, each worker has 1Gi of memory.",
            schema={"maxItems": LEVELS_MAX},
            item_rules=(rules.QUOTA_LENGTH, rules.WATERMARKS),
        ),
    ] = ()


class OSAdvise(Model):
    """Ignored: it is about a closed program."""

    os_version: Annotated[str, Doc("An operating system.")] = ""
    enabled: Annotated[bool, Doc("Whether something is done for it.")] = False


class CleanCachePolicy(Model):
    """Ignored: a worker's cache goes with the worker."""

    grace_period_seconds: Annotated[Int32, Doc("How long cleaning may take.", schema={"default": 60})] = 60
    max_retry_attempts: Annotated[Int32, Doc("How often cleaning is tried again.", schema={"default": 3})] = 3


class EFCRuntimeSpec(Model):
    """What a user asks for."""

    master: Annotated[
        Master, Doc("The pods that tell nodes of workers, and gather figures.", rules=(rules.MASTER_DISABLED,))
    ] = Master()
    worker: Annotated[Worker, Doc("The pods that cache.")] = Worker()
    init_fuse: Annotated[InitFuse, Doc("Names a closed program.", Change.IGNORED)] = InitFuse()
    fuse: Annotated[Fuse, Doc("The daemons that serve the Dataset on nodes with pods that use it.")] = Fuse()
    tieredstore: Annotated[TieredStore, Doc("What each worker caches in.")] = TieredStore()
    replicas: Annotated[
        Int32,
        Doc(
            "Number of workers. 0, also unless given: none, everything is read from the NAS.",
            Change.LIVE,
            rules=(rules.REPLICAS,),
        ),
    ] = 0
    os_advise: Annotated[OSAdvise, Doc("Is about closed programs.", Change.IGNORED)] = OSAdvise()
    clean_cache_policy: Annotated[
        CleanCachePolicy, Doc("There is nothing to clean: a worker's cache goes with the worker.", Change.IGNORED)
    ] = CleanCachePolicy()
    pod_metadata: Annotated[PodMetadata, Doc("`labels` and `annotations` of masters and workers.", Change.ROLLING)] = (
        PodMetadata()
    )


class EFCRuntime(Model):
    """One EFCRuntime; ``status`` is as the API server has it, for comparing with what it should be."""

    metadata: ObjectMeta
    spec: EFCRuntimeSpec = EFCRuntimeSpec()
    status: dict[str, Any] = Field(default_factory=dict)
