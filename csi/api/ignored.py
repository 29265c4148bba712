"""Which fields are given and do nothing: what the condition FieldsIgnored lists.

Most are so by their :class:`csi.api.fields.Doc`; of some a part counts, or depends on another, and these are here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from csi.api.common import Model, NetworkMode
from csi.api.dataset import Dataset
from csi.api.efcruntime import MASTERS_MAX, CleanPolicy, EFCRuntime, Fuse, MediumType, VolumeType
from csi.api.fields import Change, doc_of

#: How names begin of options in ``fuse.properties`` that are of the closed client of Fluid's EFC.
CLOSED_OPTIONS = "g_"


def ignored_fields(dataset: Dataset, runtime: EFCRuntime | None, *, has_pod_network: bool = True) -> list[str]:
    """Paths of fields that are given and do nothing, such as ``spec.worker.replicas``; those of the Dataset first.

    ``has_pod_network``: whether nodes have pods ``efc-network``.
    """
    found = list(_documented(dataset.spec, "spec"))
    if runtime is None:
        return found
    return [*found, *_documented(runtime.spec, "spec"), *_partly(runtime, has_pod_network=has_pod_network)]


def _documented(model: Model, place: str) -> Iterator[str]:
    """Fields of a model and of those within that are given and are documented to do nothing."""
    for name, field in type(model).model_fields.items():
        if name not in model.model_fields_set:
            continue
        value, path = getattr(model, name), f"{place}.{field.alias}"
        if doc_of(field).change is Change.IGNORED:
            if _says_something(value, field.default):
                yield path
        elif isinstance(value, Model):
            yield from _documented(value, path)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Model):
                    yield from _documented(item, f"{path}[{index}]")


def _says_something(value: Any, default: Any) -> bool:  # noqa: ANN401
    """Whether a value is neither empty nor what it would be anyway."""
    return bool(value) and value != default


def _partly(runtime: EFCRuntime, *, has_pod_network: bool) -> Iterator[str]:
    """Fields of a runtime of which a part counts."""
    spec = runtime.spec
    if spec.master.replicas > MASTERS_MAX:
        yield "spec.master.replicas"
    yield from _of_fuse(spec.fuse, has_pod_network=has_pod_network)
    for index, level in enumerate(spec.tieredstore.levels):
        is_empty_dir = level.volume_type == VolumeType.EMPTY_DIR and level.mediumtype != MediumType.MEM
        for name in sorted(level.volume_source):
            if name != "emptyDir" or not is_empty_dir:
                yield f"spec.tieredstore.levels[{index}].volumeSource.{name}"


def _of_fuse(fuse: Fuse, *, has_pod_network: bool) -> Iterator[str]:
    for name in sorted(fuse.properties):
        if name.startswith(CLOSED_OPTIONS):
            yield f"spec.fuse.properties.{name}"
    for group, values in sorted(fuse.resources.items()):
        for name in sorted(values) if isinstance(values, Mapping) else ("",) if values else ():
            if (group, name) != ("limits", "memory"):
                yield f"spec.fuse.resources.{group}" + (f".{name}" if name else "")
    if fuse.clean_policy == CleanPolicy.ON_FUSE_CHANGED:
        yield "spec.fuse.cleanPolicy"
    if fuse.network_mode == NetworkMode.CONTAINER and not has_pod_network:
        yield "spec.fuse.networkMode"
