"""Dataset: where the data is, and who may have it how."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from csi.api.common import Json, Model, ObjectMeta


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

    name: str
    key: str = ""


class EncryptOptionSource(Model):
    """Where an option's value comes from."""

    secret_key_ref: SecretKeySelector | None = None


class EncryptOption(Model):
    """An option whose value stands in a Secret."""

    name: str
    value_from: EncryptOptionSource = EncryptOptionSource()


class Mount(Model):
    """One source of the Dataset, and where its files show."""

    mount_point: str = Field(min_length=5)
    options: dict[str, str] = Field(default_factory=dict)
    name: str = ""
    path: str = ""
    read_only: bool = False
    shared: bool = False
    encrypt_options: tuple[EncryptOption, ...] = ()


class User(Model):
    """As whom the totals are counted."""

    uid: int | None = None
    gid: int | None = None
    user: str = ""
    group: str = ""


class CacheableNodeAffinity(Model):
    """On which nodes the Dataset may be cached: a NodeSelector of core/v1."""

    required: Json | None = None


class DatasetSpec(Model):
    """What a user asks for."""

    mounts: tuple[Mount, ...] = ()
    owner: User | None = None
    node_affinity: CacheableNodeAffinity | None = None
    tolerations: tuple[Json, ...] = ()
    access_modes: tuple[str, ...] = ()
    runtimes: tuple[Json, ...] = ()
    placement: Placement = Placement.UNSET
    data_restore_location: Json | None = None
    shared_options: dict[str, str] = Field(default_factory=dict)
    shared_encrypt_options: tuple[EncryptOption, ...] = ()


class Dataset(Model):
    """One Dataset; ``status`` is as the API server has it, for comparing with what it should be."""

    metadata: ObjectMeta
    spec: DatasetSpec = DatasetSpec()
    status: dict[str, Any] = Field(default_factory=dict)
