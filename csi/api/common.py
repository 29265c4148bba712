"""What both kinds share: the base of all models, and the pieces that Dataset and EFCRuntime have in common.

A model takes whatever the API server let through under CRDs of ours or of Fluid's: an unknown word of an enumeration
stays a text, and :mod:`csi.api.checks` says what is wrong with it.
"""

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from csi.api.fields import Doc
from csi.api.kubernetes import Json

GROUP, VERSION = "data.fluid.io", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

__all__ = [
    "API_VERSION", "GROUP", "VERSION", "Json", "Model", "NetworkMode", "ObjectMeta", "PodMetadata", "is_object_name",
]  # fmt: skip
#: RFC 1123 subdomains: names of all objects that a Dataset names, or is made of.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def is_object_name(text: str) -> bool:
    """Whether an object of Kubernetes, or a namespace, may be called so."""
    return _NAME.fullmatch(text) is not None


class Model(BaseModel):
    """A part of an object: camelCase in JSON, never changed after it was read; fields unknown to us are left out."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:  # noqa: ANN401
        """A field that is null is not given, as for the API server."""
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class NetworkMode(StrEnum):
    """Whose network a pod has; empty is the pod's own."""

    UNSET = ""
    HOST = "HostNetwork"
    CONTAINER = "ContainerNetwork"


class PodMetadata(Model):
    """Labels and annotations that pods get as well."""

    labels: Annotated[dict[str, str], Doc("Labels of the pods.")] = Field(default_factory=dict)
    annotations: Annotated[dict[str, str], Doc("Annotations of the pods.")] = Field(default_factory=dict)


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
