"""What a field of a model is, beyond its type: its description, when a change of it counts, and what its schema adds.

The CRDs and the table of docs/DATASETS.md are made from it, and so is the list of fields that are given and do nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic.fields import FieldInfo

from csi.api.rules import Rule


class Change(Enum):
    """When another value of a field is in force."""

    LIVE = "live"
    ROLLING = "live, pod by pod"
    CREATION = "without pods"
    IGNORED = "`FieldsIgnored`"
    REFUSED = "refused"


@dataclass(frozen=True, eq=False)  # hashed by identity: a schema is no key
class Doc:
    """A field's description, in Markdown; ``schema`` are further words of its OpenAPI schema, ``rules`` its CEL rules.

    ``item_rules`` are those of each item of a list.
    A field without a ``change`` is a group of fields that have one, or a part of what has one, or of the status.
    """

    text: str
    change: Change | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    item_rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, eq=False)  # hashed by identity: a schema is no key
class Schema:
    """The OpenAPI schema of a type of Kubernetes' own that is handed on as it was written."""

    schema: Mapping[str, Any]


def doc_of(described: FieldInfo) -> Doc:
    """What stands beside a field's type; each field of a spec or status has it."""
    return next(part for part in described.metadata if isinstance(part, Doc))
