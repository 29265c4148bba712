"""What both kinds share: the base of all models, and the pieces that Dataset and EFCRuntime have in common."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP, VERSION = "data.fluid.io", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
#: A piece of Kubernetes' own API that is handed on to it as it was written.
Json = Mapping[str, Any]


class Model(BaseModel):
    """A part of an object: camelCase in JSON, never changed after it was read; fields unknown to us are left out."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class NetworkMode(StrEnum):
    """Whose network a pod has; empty is the pod's own."""

    UNSET = ""
    HOST = "HostNetwork"
    CONTAINER = "ContainerNetwork"


class PodMetadata(Model):
    """Labels and annotations that pods get as well."""

    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class ObjectMeta(Model):
    """The part of an object's metadata that we look at."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
