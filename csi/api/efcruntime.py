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


_Version = Annotated[
    VersionSpec,
    Doc(
        "Has no effect: it selects an image of Fluid's closed EFC programs, and the driver uses its own image.",
        Change.IGNORED,
    ),
]
_Network = Annotated[NetworkMode | str, Field(union_mode="left_to_right")]


class Component(Model):
    """The master or the workers."""

    replicas: Annotated[Int32, Doc("How many there are.", schema={"minimum": 1})] = 0
    version: _Version = VersionSpec()
    properties: Annotated[
        dict[str, str], Doc("Has no effect: these are options of Fluid's closed EFC programs.", Change.IGNORED)
    ] = Field(default_factory=dict)
    ports: Annotated[
        dict[str, int],
        Doc("Has no effect: the driver chooses the ports of the pods.", Change.IGNORED),
    ] = Field(default_factory=dict)
    resources: Annotated[
        Resources,
        Doc("CPU and memory of each pod's container.", Change.ROLLING),
    ] = Field(default_factory=dict)
    disabled: Annotated[bool, Doc("None of these pods run.")] = False
    node_selector: Annotated[dict[str, str], Doc("Labels of nodes where the pods may run.", Change.ROLLING)] = Field(
        default_factory=dict
    )
    network_mode: Annotated[
        _Network,
        Doc(
            "`HostNetwork`: the pods use the node's network. Otherwise, and by default, they have a network of "
            "their own.",
            Change.ROLLING,
        ),
    ] = NetworkMode.UNSET
    pod_metadata: Annotated[
        PodMetadata,
        Doc("`labels` and `annotations` of these pods; they override those of `spec.podMetadata`.", Change.ROLLING),
    ] = PodMetadata()


class Master(Component):
    """The masters."""

    replicas: Annotated[
        Int32,
        Doc(
            f"Number of masters, of which one leads. Default: 1. Maximum: {MASTERS_MAX}; more is `FieldsIgnored`.",
            Change.LIVE,
            {"minimum": 1},
        ),
    ] = 0
    disabled: Annotated[
        bool, Doc("Must not be true: without a master, nodes do not know the workers.", Change.REFUSED)
    ] = False


class Worker(Component):
    """The workers."""

    replicas: Annotated[
        Int32,
        Doc("Has no effect, as in Fluid: `spec.replicas` is the number of workers.", Change.IGNORED, {"minimum": 1}),
    ] = 0
    resources: Annotated[
        Resources,
        Doc(
            "CPU and memory of each worker. The memory that its levels need is added to the given one.", Change.ROLLING
        ),
    ] = Field(default_factory=dict)
    disabled: Annotated[bool, Doc("True: there are no workers, and everything is read from the NAS.", Change.LIVE)] = (
        False
    )


class InitFuse(Model):
    """Ignored: it names a closed program."""

    version: _Version = VersionSpec()


class Fuse(Model):
    """The daemons on the nodes."""

    version: _Version = VersionSpec()
    properties: Annotated[
        dict[str, str],
        Doc(
            "Mount options of the Dataset; options in the Dataset override them. CONFIGURATION.md lists them, and "
            "says which of them change live.",
            Change.LIVE,
        ),
    ] = Field(default_factory=dict)
    resources: Annotated[
        Resources,
        Doc(
            "`limits.memory` is the memory limit of the Dataset's daemon on each node. Anything else is "
            "`FieldsIgnored`.",
            Change.LIVE,
        ),
    ] = Field(default_factory=dict)
    node_selector: Annotated[
        dict[str, str],
        Doc("Labels of nodes where pods may use the Dataset. They become the volume's node affinity.", Change.CREATION),
    ] = Field(default_factory=dict)
    clean_policy: Annotated[
        Annotated[CleanPolicy | str, Field(union_mode="left_to_right"), Schema({"type": "string"})],
        Doc(
            "When the daemon of a node ends. `OnRuntimeDeleted` (the default): it stays, with its caches, until "
            "the runtime is deleted. `OnDemand`: it ends 30 s after the last pod on its node. `OnFuseChanged` "
            "means `OnRuntimeDeleted`, and is `FieldsIgnored`.",
            Change.LIVE,
            {"maxLength": TEXT_LENGTH_MAX},
            (rules.CLEAN_POLICY,),
        ),
    ] = CleanPolicy.UNSET
    network_mode: Annotated[
        _Network,
        Doc(
            "`ContainerNetwork`: daemons connect to the NAS from the network of the node's pod `efc-network`, as "
            "with the mount option `network=pod`. Otherwise, and by default, they connect from the node's "
            "network.",
            Change.CREATION,
        ),
    ] = NetworkMode.UNSET
    pod_metadata: Annotated[PodMetadata, Doc("Has no effect: daemons are not pods.", Change.IGNORED)] = PodMetadata()


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
            "What the level is stored in. `MEM`: memory of the worker, whatever `path` and `volumeType` say. "
            "`SSD` and `HDD`: files below `path`.",
            Change.ROLLING,
        ),
    ]
    volume_type: Annotated[
        Annotated[VolumeType | str, Field(union_mode="left_to_right")],
        Doc(
            "`hostPath`: `path` is a directory of the node. `emptyDir`: it is a directory of the pod, and is "
            "deleted with the pod.",
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
            "Directory for the files of an `SSD` or `HDD` level, or several separated by commas.",
            Change.ROLLING,
            {"minLength": 1, "maxLength": TEXT_LENGTH_MAX},
        ),
    ] = ""
    quota: Annotated[
        Quantity,
        Doc(
            "Size of the level in each worker, divided equally among its paths; 64Mi or more for each path.",
            Change.ROLLING,
            rules=(rules.QUOTA,),
        ),
    ] = ""
    quota_list: Annotated[
        str,
        Doc(
            "Sizes of the level's paths, one for each path, separated by commas; replaces `quota`.",
            Change.ROLLING,
            {"pattern": _QUOTA_LIST_PATTERN, "maxLength": QUOTA_LIST_LENGTH_MAX},
            (rules.QUOTA_LIST,),
        ),
    ] = ""
    high: Annotated[
        str,
        Doc(
            "Has no effect: memcached has no watermarks, and evicts when it is full.",
            Change.IGNORED,
            {"maxLength": TEXT_LENGTH_MAX},
        ),
    ] = ""
    low: Annotated[
        str,
        Doc(
            "Has no effect: memcached has no watermarks, and evicts when it is full.",
            Change.IGNORED,
            {"maxLength": TEXT_LENGTH_MAX},
        ),
    ] = ""


class TieredStore(Model):
    """The levels, the fastest first."""

    levels: Annotated[
        tuple[Level, ...],
        Doc(
            "The levels: memory and disk of each worker. Without any, each worker has 1Gi of memory.",
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
        Master, Doc("The pods that tell nodes about workers, and collect figures.", rules=(rules.MASTER_DISABLED,))
    ] = Master()
    worker: Annotated[Worker, Doc("The pods that cache.")] = Worker()
    init_fuse: Annotated[
        InitFuse, Doc("Has no effect: it selects an image of Fluid's closed EFC programs.", Change.IGNORED)
    ] = InitFuse()
    fuse: Annotated[Fuse, Doc("The daemons that serve the Dataset on nodes with pods that use it.")] = Fuse()
    tieredstore: Annotated[TieredStore, Doc("Memory and disks in which each worker caches.")] = TieredStore()
    replicas: Annotated[
        Int32,
        Doc(
            "Number of workers. 0, the default: there are none, and everything is read from the NAS.",
            Change.LIVE,
            rules=(rules.REPLICAS,),
        ),
    ] = 0
    os_advise: Annotated[OSAdvise, Doc("Has no effect: it concerns Fluid's closed EFC programs.", Change.IGNORED)] = (
        OSAdvise()
    )
    clean_cache_policy: Annotated[
        CleanCachePolicy,
        Doc("Has no effect: a worker's cache ends with the worker, so there is nothing to clean.", Change.IGNORED),
    ] = CleanCachePolicy()
    pod_metadata: Annotated[PodMetadata, Doc("`labels` and `annotations` of masters and workers.", Change.ROLLING)] = (
        PodMetadata()
    )


class EFCRuntime(Model):
    """One EFCRuntime; ``status`` is as the API server has it, for comparing with what it should be."""

    metadata: ObjectMeta
    spec: EFCRuntimeSpec = EFCRuntimeSpec()
    status: dict[str, Any] = Field(default_factory=dict)
