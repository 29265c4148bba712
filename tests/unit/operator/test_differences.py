"""Whether an object is as it is wanted, which decides whether it is written."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from csi.operator.datasets.differences import is_as_wanted, merge_patch
from csi.operator.datasets.statuses import differs_in_figures_only
from csi.operator.names import APPLIED_ANNOTATION

WANTED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {
        "name": "x", "namespace": "n", "labels": {"a": "b"}, "annotations": {APPLIED_ANNOTATION: "1"},
        "ownerReferences": [{"uid": "u", "name": "r"}],
    },
    "spec": {
        "replicas": 0,
        "template": {"spec": {"containers": [
            {"name": "c", "args": ["x"], "env": [], "resources": {"limits": {"memory": "1073741824"}}},
        ]}},
    },
}  # fmt: skip


def found(**changes: Any) -> dict[str, Any]:
    """As an API server has it: with additions of its own."""
    one = copy.deepcopy(WANTED)
    one["metadata"] |= {"uid": "1", "resourceVersion": "5"}
    one["metadata"]["labels"]["other"] = "theirs"
    one["metadata"]["annotations"]["other"] = "theirs"
    one["metadata"]["ownerReferences"].append({"uid": "v", "name": "other"})
    one["spec"]["revisionHistoryLimit"] = 10
    container = one["spec"]["template"]["spec"]["containers"][0]
    container["terminationMessagePath"] = "/dev/termination-log"
    container["resources"]["limits"]["memory"] = "1Gi"
    del container["env"]
    one["spec"] |= changes
    return one


def test_additions_of_others_and_other_words_for_a_quantity_are_no_difference() -> None:
    assert is_as_wanted(found(), WANTED)
    without_zero = found()
    del without_zero["spec"]["replicas"]
    assert is_as_wanted(without_zero, WANTED)


@pytest.mark.parametrize(
    "path",
    [
        ("metadata", "annotations", APPLIED_ANNOTATION), ("metadata", "labels", "a"),
        ("spec", "template", "spec", "containers", 0, "name"),
    ],
)  # fmt: skip
def test_what_somebody_changed_is_one(path: tuple[Any, ...]) -> None:
    changed = found()
    at: Any = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = "changed"
    assert not is_as_wanted(changed, WANTED)


def test_more_or_fewer_of_a_list_and_another_quantity_are_differences() -> None:
    more = found()
    more["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"})
    assert not is_as_wanted(more, WANTED)
    larger = found()
    larger["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "2Gi"
    assert not is_as_wanted(larger, WANTED)
    assert not is_as_wanted(found(replicas=3), WANTED)
    orphan = found()
    orphan["metadata"]["ownerReferences"] = [{"uid": "v", "name": "other"}]
    assert not is_as_wanted(orphan, WANTED)


def test_a_merge_patch_makes_one_status_of_another() -> None:
    before = {"phase": "Bound", "ufsTotal": "1", "cacheStates": {"cached": "1", "cacheCapacity": "2"}, "mounts": [1]}
    after = {"phase": "NotBound", "cacheStates": {"cached": "1"}, "mounts": [1]}
    assert merge_patch(before, after) == {"phase": "NotBound", "ufsTotal": None, "cacheStates": {"cacheCapacity": None}}
    assert merge_patch(after, after) == {}


def test_which_changes_can_wait() -> None:
    def status(**changes: Any) -> dict[str, Any]:
        states = {"cached": "1.00B", "cacheCapacity": "1.00GiB"} | changes.pop("states", {})
        counting = {"type": "TotalsKnown", "status": "False", "message": "2 files", "lastUpdateTime": "1"}
        counting |= changes.pop("counting", {})
        return {"phase": "Bound", "ufsTotal": "1", "cacheStates": states, "conditions": [counting]} | changes

    for waits in (
        {"ufsTotal": "2"},
        {"states": {"cached": "2.00B"}},
        {"counting": {"message": "3", "lastUpdateTime": "2"}},
    ):
        assert differs_in_figures_only(status(), status(**waits)), waits
    for now in ({"phase": "Failed"}, {"states": {"cacheCapacity": "0.00B"}}, {"counting": {"status": "True"}}):
        assert not differs_in_figures_only(status(), status(**now)), now
