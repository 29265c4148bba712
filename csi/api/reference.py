"""``python -m csi.api.reference`` prints the tables of docs/DATASETS.md: every field, what it does, and when."""

from collections.abc import Iterator
from typing import get_args, get_origin

from csi.api.common import Model
from csi.api.dataset import DatasetSpec
from csi.api.efcruntime import EFCRuntimeSpec
from csi.api.fields import Doc, doc_of


def markdown(spec: type[Model]) -> str:
    """The table of one kind."""
    rows = [f"| `{path}` | {doc.text} | {_change(doc)} |" for path, doc in _fields(spec, "spec")]
    return "\n".join(["| field | what it does | in force |", "|---|---|---|", *rows])


def _change(doc: Doc) -> str:
    return doc.change.value if doc.change else ""


def _fields(model: type[Model], place: str) -> Iterator[tuple[str, Doc]]:
    """Each field of which it is said when it counts; of a group for which it is said, only the group."""
    for field in model.model_fields.values():
        doc, path = doc_of(field), f"{place}.{field.alias}"
        parts = [field.annotation, *get_args(field.annotation)]
        models = [part for part in parts if isinstance(part, type) and issubclass(part, Model)]
        if doc.change is None and models:
            is_list = get_origin(field.annotation) is tuple
            yield from _fields(models[0], f"{path}[]" if is_list else path)
        else:
            yield path, doc


if __name__ == "__main__":
    print(markdown(DatasetSpec), markdown(EFCRuntimeSpec), sep="\n\n")
