"""Whatever the API server lets through is read, and told what is wrong with it: no object makes the operator fail."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from csi.api import crds
from csi.api.checks import problems
from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.api.ignored import ignored_fields
from csi.api.sources import options_of, secret_options_of, secrets_of
from csi.base.errors import DriverError

_TEXTS = st.sampled_from([
    "", "a", "nfs://nas:/a", "pvc://c", "s3://b", "/a", "/a/..", "1Gi", "1Mi,2Gi", "ro", "0.5", "Shared", "é\n",
])  # fmt: skip
_INTEGERS = st.sampled_from([-1, 0, 1, 5, 2**31 - 1])
_KEYS = st.sampled_from(["ro", "threads", "g_x", "rpc", "limits", "memory", "x"])


def _values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema's types, and null; enumerations, patterns and rules are not kept."""
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(_INTEGERS, st.sampled_from(["1Gi", "64Mi", "1e3", "-1", "1m"]))
    if schema["type"] == "array":
        return st.lists(_values(schema["items"]), max_size=3)
    if "additionalProperties" in schema:
        return st.dictionaries(_KEYS, _values(schema["additionalProperties"]), max_size=3)
    if schema["type"] == "object":
        required, fields = schema.get("required", ()), schema["properties"]
        return st.fixed_dictionaries(
            {name: _values(fields[name]) for name in required},
            optional={name: st.none() | _values(inner) for name, inner in fields.items() if name not in required},
        )
    scalars: dict[str, st.SearchStrategy[Any]] = {"string": _TEXTS, "boolean": st.booleans(), "integer": _INTEGERS}
    return scalars[schema["type"]]


def _spec(kind: int) -> dict[str, Any]:
    schema: dict[str, Any] = crds.crds()[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


_METADATA = {"metadata": {"name": "a", "namespace": "b"}}


@settings(max_examples=100, deadline=None)
@given(data=_values(_spec(0)), runtime=_values(_spec(1)))
def test_everything_of_the_right_types_is_read(data: dict[str, Any], runtime: dict[str, Any]) -> None:
    dataset = Dataset.model_validate(_METADATA | {"spec": data})
    served = EFCRuntime.model_validate(_METADATA | {"spec": runtime})
    for problem in [*problems(dataset), *problems(served)]:
        assert problem.field.startswith("spec.")
        assert "\n" not in problem.message
    assert all(field.startswith("spec.") for field in ignored_fields(dataset, served))
    secrets = {name: {"": "1", "a": "1"} for name in secrets_of(dataset)}
    for mount in dataset.spec.mounts:
        try:
            options_of(dataset, mount, runtime=served)
            secret_options_of(dataset, mount, secrets)
        except DriverError as error:
            assert "\n" not in error.message
