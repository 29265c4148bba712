"""Objects that share what they have in common are the objects that they were."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from csi.operator import sharing
from csi.operator.sharing import PARTS_MAX, shared
from csi.operator.store import reduced
from tests.unit.operator.samples import unhurried

_PLAIN = st.none() | st.booleans() | st.sampled_from([0, 1, 1.0, -0.0, 0.0, 10**20]) | st.text(max_size=3)
_JSON = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)


@given(st.lists(_JSON, max_size=20))
@unhurried
def test_nothing_becomes_something_else(values: list[Any]) -> None:
    """Written down they are the same: in Python 1, 1.0 and true are equal."""
    before = [json.dumps(value) for value in values]
    assert [json.dumps(shared(value)) for value in values] == before


def _set(number: int) -> dict[str, Any]:
    text = json.dumps({
        "metadata": {"name": f"set-{number}", "managedFields": [{"manager": "x"}], "annotations": {"a": "b" * 100}},
        "spec": {"replicas": number, "template": {"containers": [{"ports": [{"port": 9810}], "readOnly": True}]}},
    })  # fmt: skip
    found: dict[str, Any] = json.loads(text)
    return found


def test_what_two_objects_have_in_common_is_there_once() -> None:
    one, other = (reduced(_set(number)) for number in (1, 2))
    assert one["spec"]["template"] is other["spec"]["template"]
    assert one["metadata"]["annotations"]["a"] is other["metadata"]["annotations"]["a"]
    assert (one["metadata"]["name"], other["metadata"]["name"]) == ("set-1", "set-2")
    assert (one["spec"]["replicas"], other["spec"]["replicas"]) == (1, 2)
    assert "managedFields" not in one["metadata"]


def test_so_many_parts_are_known_and_no_more() -> None:
    kept = [shared({"number": number, "of": ["all"]}) for number in range(3 * PARTS_MAX)]
    assert len(sharing._parts) <= PARTS_MAX
    assert [one["number"] for one in kept] == [*range(3 * PARTS_MAX)]
    assert len({id(one["of"]) for one in kept}) <= 5
