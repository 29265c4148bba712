"""``python -m csi.api.crds`` prints deploy/crds.yaml: the CustomResourceDefinitions, made from the models.

What the models do not have stands here: names, printer columns and subresources, which are Fluid's (v1.1), but for the
selector of ``scale``, without which no HorizontalPodAutoscaler works. Fields, enumerations, patterns and defaults are a
superset of Fluid's; only the rules of :mod:`csi.api.rules` refuse what Fluid's let through.

They are applied by themselves, server-side, and are in no release of the chart: whoever removed them would remove every
Dataset. The rules need Kubernetes 1.29, which brought quantities to CEL.
"""

import types
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from csi.api.common import GROUP, VERSION, Model
from csi.api.dataset import DatasetSpec
from csi.api.efcruntime import EFCRuntimeSpec
from csi.api.fields import Schema, doc_of
from csi.api.status import CacheStates, DatasetStatus, RuntimeStatus

_SCALARS: Mapping[type, str] = {str: "string", int: "integer", bool: "boolean"}
#: Priority of a column that only ``-o wide`` prints, as Fluid's.
_WIDE, _WIDER = 10, 11


def crds() -> list[dict[str, Any]]:
    """Both CRDs, as the API server takes them."""
    return [
        _crd(
            "Dataset",
            plural="datasets",
            short_name="dataset",
            spec=_object(DatasetSpec, "Where the data is, and how pods may access it."),
            status=_unchecked(_object(DatasetStatus, "State that the driver reports.")),
            columns=_DATASET_COLUMNS,
            subresources={"status": {}},
        ),
        _crd(
            "EFCRuntime",
            plural="efcruntimes",
            short_name="efc",
            spec=_object(
                EFCRuntimeSpec,
                "How much cache the Dataset of the same name has, and how its masters, workers and daemons run.",
            ),
            status=_unchecked(_object(RuntimeStatus, "State that the driver reports.")),
            columns=_RUNTIME_COLUMNS,
            subresources={
                "scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.currentWorkerNumberScheduled",
                    "labelSelectorPath": ".status.selector",
                },
                "status": {},
            },
        ),
    ]


def _column(name: str, path: str, *, kind: str = "string", priority: int = 0) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | {"priority": priority} if priority else column


_AGE = _column("Age", ".metadata.creationTimestamp", kind="date")
_DATASET_COLUMNS = [
    _column("Ufs Total Size", ".status.ufsTotal"),
    _column("Cached", ".status.cacheStates.cached"),
    _column("Cache Capacity", ".status.cacheStates.cacheCapacity"),
    _column("Cached Percentage", ".status.cacheStates.cachedPercentage"),
    _column("Phase", ".status.phase"),
    _column("HCFS URL", ".status.hcfs.endpoint", priority=_WIDE),
    _column("TOTAL FILES", ".status.fileNum", priority=_WIDER),
    _column("CACHE HIT RATIO", ".status.cacheStates.cacheHitRatio", priority=_WIDE),
    _AGE,
]


def _part_columns(part: str) -> Iterator[dict[str, Any]]:
    """The three columns of Master, Worker or Fuse."""
    yield _column(f"Ready {part}s", f".status.{part.lower()}NumberReady", kind="integer", priority=_WIDE)
    yield _column(f"Desired {part}s", f".status.desired{part}NumberScheduled", kind="integer", priority=_WIDE)
    yield _column(f"{part} Phase", f".status.{part.lower()}Phase")


_RUNTIME_COLUMNS = [*_part_columns("Master"), *_part_columns("Worker"), *_part_columns("Fuse"), _AGE]


def _crd(
    kind: str,
    *,
    plural: str,
    short_name: str,
    spec: dict[str, Any],
    status: dict[str, Any],
    columns: list[dict[str, Any]],
    subresources: dict[str, Any],
) -> dict[str, Any]:
    root = {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "efc-csi"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": plural.removesuffix("s"),
                "shortNames": [short_name],
                "categories": ["fluid"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root},
                    "additionalPrinterColumns": columns,
                    "subresources": subresources,
                }
            ],
        },
    }


def _object(model: type[Model], description: str = "") -> dict[str, Any]:
    """The schema of a model: a property for each field, required where the model has no default."""
    if model is CacheStates:  # a map in Fluid's, whose keys are not fixed
        return {"type": "object", "additionalProperties": {"type": "string"}}
    schema: dict[str, Any] = {"description": description} if description else {}
    schema |= {
        "type": "object",
        "properties": {str(field.alias): _field(field) for field in model.model_fields.values()},
    }
    required = sorted(str(field.alias) for field in model.model_fields.values() if field.is_required())
    return schema | {"required": required} if required else schema


def _unchecked(schema: Any) -> Any:  # noqa: ANN401
    """A schema without what refuses values of users: nobody but the driver writes a status."""
    if not isinstance(schema, dict):
        return schema
    dropped = ("x-kubernetes-validations", "maxLength", "maxItems")
    return {name: _unchecked(value) for name, value in schema.items() if name not in dropped}


def _field(field: FieldInfo) -> dict[str, Any]:
    doc = doc_of(field)
    schema = {"description": doc.text, **_type(Annotated[(field.annotation, *field.metadata)]), **doc.schema}
    if doc.rules:
        schema["x-kubernetes-validations"] = [rule.validation() for rule in doc.rules]
    if doc.item_rules:
        schema["items"]["x-kubernetes-validations"] = [rule.validation() for rule in doc.item_rules]
    return schema


def _type(annotation: Any) -> dict[str, Any]:  # noqa: ANN401
    """The schema of a type: a model, a scalar, an enumeration, a map, a list, or what says itself what it is."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        own = [part.schema for part in annotation.__metadata__ if isinstance(part, Schema)]
        return dict(own[0]) if own else _type(arguments[0])
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    return _object(annotation) if issubclass(annotation, Model) else {"type": _SCALARS[annotation]}


def _union(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Either a type that may be left out, or an enumeration of which unknown words stay texts."""
    chosen = next(argument for argument in arguments if argument is not type(None))
    if isinstance(chosen, type) and issubclass(chosen, StrEnum):
        return {"type": "string", "enum": [str(word) for word in chosen]}
    return _type(chosen)


def text() -> str:
    """The content of deploy/crds.yaml."""
    import yaml  # kopf brings it

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            del data
            return True

    parts = [yaml.dump(crd, Dumper=Dumper, sort_keys=False, width=160) for crd in crds()]
    return "# Made by `python -m csi.api.crds > deploy/crds.yaml` from the models in csi/api.\n" + "---\n".join(parts)


if __name__ == "__main__":
    print(text(), end="")
