"""What is wrong with an object that the API server has let through, with the words of the CRDs' own rules.

Under CRDs of ours little is left to find: what no schema can say of a source, and a Dataset without mounts. Under
Fluid's, nothing of what :mod:`csi.api.rules` knows was refused.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, get_args

from pydantic.fields import FieldInfo

from csi.api import sources
from csi.api.common import Model
from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.api.fields import doc_of
from csi.api.quantities import bytes_of
from csi.api.rules import Rule
from csi.base.errors import DriverError


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A wrong value of a field (``spec.mounts[0].mountPoint``), and what to write instead."""

    field: str
    value: str
    message: str

    def __str__(self) -> str:
        shown = "" if not self.value or self.value in self.message else f"'{self.value}': "
        return f"{self.field}: {shown}{self.message}"


def problems(wrong: Dataset | EFCRuntime) -> list[Problem]:
    """What is wrong with a Dataset or an EFCRuntime, in the order of its fields; nothing if it can be served."""
    found = list(_of_model(wrong.spec, "spec"))
    return found + list(_of_dataset(wrong, found)) if isinstance(wrong, Dataset) else found


def _of_dataset(dataset: Dataset, found: list[Problem]) -> Iterator[Problem]:
    """What only parsing tells, of fields with which nothing else is wrong."""
    if not dataset.spec.mounts:
        message = "there is nothing to mount: write one with a mountPoint such as nfs://HOST:/DIR"
        yield Problem(field="spec.mounts", value="", message=message)
    for index, mount in enumerate(dataset.spec.mounts):
        field = f"spec.mounts[{index}].mountPoint"
        if all(problem.field != field for problem in found):
            yield from _unless_parsed(field, mount.mount_point, partial(sources.source_of, mount.mount_point))
    if all(not problem.field.startswith("spec.mounts") for problem in found):
        yield from _unless_parsed("spec.mounts", "", partial(sources.places_of, dataset))
    yield from _unless_parsed("spec.mounts[].encryptOptions", "", partial(sources.secrets_of, dataset))
    modes = ", ".join(dataset.spec.access_modes)
    yield from _unless_parsed("spec.accessModes", modes, partial(sources.access_modes, dataset))
    size = dataset.metadata.annotations.get(sources.SIZE_ANNOTATION)
    if size is not None:
        yield from _unless_parsed(f"metadata.annotations[{sources.SIZE_ANNOTATION}]", size, partial(bytes_of, size))


def _unless_parsed(field: str, value: str, parse: Callable[[], object]) -> Iterator[Problem]:
    try:
        parse()
    except DriverError as error:
        yield Problem(field=field, value=value, message=error.message)


def _of_model(model: Model, place: str) -> Iterator[Problem]:
    """What is wrong with the fields that are given, and with those within."""
    for name, field in type(model).model_fields.items():
        if name in model.model_fields_set:
            yield from _of_field(getattr(model, name), field, f"{place}.{field.alias}")


def _of_field(value: Any, field: FieldInfo, path: str) -> Iterator[Problem]:  # noqa: ANN401
    doc = doc_of(field)
    if isinstance(value, Model):
        yield from _of_model(value, path)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            if isinstance(item, Model):
                yield from _of_model(item, f"{path}[{index}]")
            yield from _broken(doc.item_rules, _json(item), f"{path}[{index}]")
    yield from _broken(doc.rules, _json(value), path)
    words = _enumeration(field)
    if words and not doc.rules and value not in words:
        yield Problem(field=path, value=str(value), message=_unsupported(str(value), words))


def _broken(rules: tuple[Rule, ...], value: Any, path: str) -> Iterator[Problem]:  # noqa: ANN401
    """The rules that a value, as JSON, does not keep."""
    for rule in rules:
        if not rule.holds(value):
            shown = rule.shown(value)
            yield Problem(field=path + rule.at, value=shown, message=rule.says(shown))


def _json(value: Any) -> Any:  # noqa: ANN401
    """A value as JSON, without what is not given."""
    if isinstance(value, Model):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return [_json(item) for item in value] if isinstance(value, tuple) else value


def _enumeration(field: FieldInfo) -> tuple[str, ...]:
    """The words that a field may have; none if it is no enumeration."""
    allowed: Mapping[str, Any] = doc_of(field).schema
    if "enum" in allowed:
        return tuple(allowed["enum"])
    for part in get_args(field.annotation):
        if isinstance(part, type) and issubclass(part, StrEnum):
            return tuple(str(word) for word in part)
    return ()


def _unsupported(value: str, words: tuple[str, ...]) -> str:
    """What the API server says of a word that is not in an enumeration."""
    allowed = ", ".join(f'"{word}"' for word in words)
    return f"Unsupported value: {json.dumps(value, ensure_ascii=False)}: supported values: {allowed}"
