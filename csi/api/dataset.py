"""Dataset: where the data is, and who may have it how."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from csi.api import rules
from csi.api.common import Model, ObjectMeta
from csi.api.fields import Change, Doc
from csi.api.kubernetes import Int32, Int64, NodeSelector, Toleration

#: Most mounts of a Dataset, and longest texts: what the API server's estimate of the rules' cost allows.
MOUNTS_MAX = 64
MOUNT_POINT_LENGTH_MAX = 2048
PATH_LENGTH_MAX = 1024


class Placement(StrEnum):
    """Whether a node may have workers of several Datasets; empty is Exclusive, as in Fluid."""

    UNSET = ""
    EXCLUSIVE = "Exclusive"
    SHARED = "Shared"


class Phase(StrEnum):
    """What can be done with a Dataset now."""

    NOT_BOUND = "NotBound"
    BOUND = "Bound"
    FAILED = "Failed"
    UPDATING = "Updating"


class SecretKeySelector(Model):
    """One key of a Secret of the Dataset's namespace."""

    name: Annotated[str, Doc("Name of the Secret, in the Dataset's namespace.")]
    key: Annotated[str, Doc("Key of the Secret that holds the option's value.")] = ""


class EncryptOptionSource(Model):
    """Where an option's value comes from."""

    secret_key_ref: Annotated[SecretKeySelector | None, Doc("A key of a Secret.")] = None


class EncryptOption(Model):
    """An option whose value stands in a Secret."""

    name: Annotated[str, Doc("A mount option, as in `options`.")]
    value_from: Annotated[EncryptOptionSource, Doc("Where the option's value is.")] = EncryptOptionSource()


class Mount(Model):
    """One source of the Dataset, and where its files show."""

    mount_point: Annotated[
        str,
        Doc(
            "Where the data is: `nfs://HOST[:PORT]:/DIR` or `nfs://HOST[:PORT]/DIR`; `cpfs://` likewise, which is "
            "served over NFSv3; `pvc://CLAIM[/DIR]` for a claim of the same namespace whose volume is NFS.",
            Change.CREATION,
            {"minLength": 5, "maxLength": MOUNT_POINT_LENGTH_MAX},
            (rules.SCHEME, rules.HOST, rules.DIRECTORY, rules.CLAIM, rules.UPWARDS),
        ),
    ]
    options: Annotated[
        dict[str, str],
        Doc(
            "Mount options of this mount; they override `sharedOptions`. CONFIGURATION.md lists them, and says "
            "which of them change live.",
            Change.LIVE,
        ),
    ] = Field(default_factory=dict)
    name: Annotated[
        str,
        Doc(
            "Name of the mount. If there are several mounts, one without a `path` appears at `/NAME`. The name of "
            "a single mount has no effect.",
            Change.LIVE,
            {"minLength": 0, "maxLength": PATH_LENGTH_MAX},
            (rules.UPWARDS,),
        ),
    ] = ""
    path: Annotated[
        str,
        Doc(
            "Directory of the volume at which the source appears. Default: `/NAME` if there are several mounts, "
            "the root, `/`, for a single one.",
            Change.LIVE,
            {"maxLength": PATH_LENGTH_MAX},
            (rules.UPWARDS,),
        ),
    ] = ""
    read_only: Annotated[
        bool,
        Doc(
            "Nobody can write through this mount, whatever `accessModes` allows. For a mount below the root it "
            "changes live.",
            Change.CREATION,
        ),
    ] = False
    shared: Annotated[bool, Doc("Has no effect: `accessModes` determines access.", Change.IGNORED)] = False
    encrypt_options: Annotated[
        tuple[EncryptOption, ...],
        Doc("Options of this mount whose values are in Secrets; they override `options`.", Change.LIVE),
    ] = ()


class User(Model):
    """As whom the totals are counted."""

    uid: Annotated[
        Int64 | None,
        Doc(
            "User id with which the source's files are counted, for a NAS that does not let root read them.",
            Change.LIVE,
            rules=(rules.OWNER_ID,),
        ),
    ] = None
    gid: Annotated[
        Int64 | None, Doc("Group id with which the source's files are counted.", Change.LIVE, rules=(rules.OWNER_ID,))
    ] = None
    user: Annotated[str, Doc("Has no effect, since NFSv3 uses numbers: set `uid`.", Change.IGNORED)] = ""
    group: Annotated[str, Doc("Has no effect, since NFSv3 uses numbers: set `gid`.", Change.IGNORED)] = ""


class CacheableNodeAffinity(Model):
    """On which nodes the Dataset may be cached: a NodeSelector of core/v1."""

    required: Annotated[
        NodeSelector | None, Doc("A NodeSelector that each node with a worker must match.", Change.ROLLING)
    ] = None


class RuntimeReference(Model):
    """A runtime of a Dataset, as its status has it."""

    name: Annotated[str, Doc("Name of the runtime.")] = ""
    namespace: Annotated[str, Doc("Namespace of the runtime.")] = ""
    category: Annotated[str, Doc("Category of the runtime: Accelerate.")] = ""
    type: Annotated[str, Doc("Kind of the runtime: efc.")] = ""
    master_replicas: Annotated[Int32, Doc("How many masters the runtime has.")] = 0


class DataRestoreLocation(Model):
    """Where a backup of Fluid's lies."""

    path: Annotated[str, Doc("Where the backup is.")] = ""
    node_name: Annotated[str, Doc("On which node the backup is.")] = ""


class DatasetSpec(Model):
    """What a user asks for."""

    mounts: Annotated[
        tuple[Mount, ...],
        Doc(
            "The sources, and where their files appear.",
            schema={"minItems": 1, "maxItems": MOUNTS_MAX},
            rules=(rules.PLACED, rules.APART),
        ),
    ] = ()
    owner: Annotated[
        User | None, Doc("User and group with which files are counted for UFS TOTAL SIZE and TOTAL FILES.")
    ] = None
    node_affinity: Annotated[CacheableNodeAffinity | None, Doc("On which nodes the Dataset may be cached.")] = None
    tolerations: Annotated[
        tuple[Toleration, ...], Doc("Taints of nodes that master and workers tolerate.", Change.ROLLING)
    ] = ()
    access_modes: Annotated[
        tuple[str, ...],
        Doc(
            "Access modes of claim and volume, which the driver enforces. Default: ReadOnlyMany. ReadWriteMany "
            "lets pods write.",
            Change.CREATION,
        ),
    ] = ()
    runtimes: Annotated[
        tuple[RuntimeReference, ...],
        Doc(
            "Has no effect, as in Fluid: a Dataset's runtime is the one with its name in its namespace.", Change.IGNORED
        ),
    ] = ()
    placement: Annotated[
        Annotated[Placement | str, Field(union_mode="left_to_right")],
        Doc(
            "`Exclusive` (the default): a node with a worker of this Dataset has no other worker, neither of "
            "another Dataset nor a second one of its own. `Shared`: workers of several Datasets may run on one "
            "node.",
            Change.ROLLING,
        ),
    ] = Placement.UNSET
    data_restore_location: Annotated[
        DataRestoreLocation | None,
        Doc("Has no effect: backups exist for Alluxio only, so there is nothing to restore.", Change.IGNORED),
    ] = None
    shared_options: Annotated[
        dict[str, str], Doc("Mount options of all mounts; a mount's own `options` override them.", Change.LIVE)
    ] = Field(default_factory=dict)
    shared_encrypt_options: Annotated[
        tuple[EncryptOption, ...],
        Doc("Options of all mounts whose values are in Secrets; they override `options` of any mount.", Change.LIVE),
    ] = ()


class Dataset(Model):
    """One Dataset; ``status`` is as the API server has it, for comparing with what it should be."""

    metadata: ObjectMeta
    spec: DatasetSpec = DatasetSpec()
    status: dict[str, Any] = Field(default_factory=dict)
