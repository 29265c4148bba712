"""Pieces of Kubernetes' own API that stand in our kinds: their types, handed on as written, and their schemas."""

from collections.abc import Mapping
from typing import Annotated, Any

from csi.api.fields import Schema

#: A piece of Kubernetes' own API that is handed on to it as it was written.
Json = Mapping[str, Any]

#: Quantities as the API server's own pattern has them (k8s.io/apimachinery, resource.Quantity).
QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
_STRING: Json = {"type": "string"}
_QUANTITY: Json = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": QUANTITY_PATTERN,
    "x-kubernetes-int-or-string": True,
}


def _object(*required: str, **properties: Json) -> Json:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | {"required": sorted(required)} if required else schema


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


_REQUIREMENTS = _list(_object("key", "operator", key=_STRING, operator=_STRING, values=_list(_STRING)))
_ATOMIC: Json = {"x-kubernetes-map-type": "atomic"}
_TERM = {**_object(matchExpressions=_REQUIREMENTS, matchFields=_REQUIREMENTS), **_ATOMIC}
_NODE_SELECTOR = {**_object("nodeSelectorTerms", nodeSelectorTerms=_list(_TERM)), **_ATOMIC}
_PREFERRED = _object("preference", "weight", preference=_TERM, weight={"type": "integer", "format": "int32"})

#: core/v1 NodeSelector.
NodeSelector = Annotated[Json, Schema(_NODE_SELECTOR)]
#: core/v1 NodeAffinity.
NodeAffinity = Annotated[
    Json,
    Schema(
        _object(
            preferredDuringSchedulingIgnoredDuringExecution=_list(_PREFERRED),
            requiredDuringSchedulingIgnoredDuringExecution=_NODE_SELECTOR,
        )
    ),
]
#: core/v1 Toleration.
Toleration = Annotated[
    Json,
    Schema(
        _object(
            effect=_STRING, key=_STRING, operator=_STRING, value=_STRING,
            tolerationSeconds={"type": "integer", "format": "int64"},
        )
    ),
]  # fmt: skip
#: core/v1 ResourceRequirements.
Resources = Annotated[
    Json,
    Schema(
        _object(
            claims={
                **_list(_object("name", name=_STRING, request=_STRING)),
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            limits=_map(_QUANTITY),
            requests=_map(_QUANTITY),
        )
    ),
]
#: core/v1 VolumeSource: `emptyDir` is looked at, any other is taken as it is.
VolumeSource = Annotated[
    Json,
    Schema(
        _object(emptyDir=_object(medium=_STRING, sizeLimit=_QUANTITY)) | {"x-kubernetes-preserve-unknown-fields": True}
    ),
]
#: resource.Quantity, as a text or a whole number.
Quantity = Annotated[str | int, Schema(_QUANTITY)]
#: metav1.Time in RFC 3339.
Time = Annotated[str, Schema({"type": "string", "format": "date-time"})]
#: An integer of 32 bits.
Int32 = Annotated[int, Schema({"type": "integer", "format": "int32"})]
#: An integer of 64 bits.
Int64 = Annotated[int, Schema({"type": "integer", "format": "int64"})]
