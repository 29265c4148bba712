"""What is done for a Dataset that is deleted."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from csi.base import driver
from csi.operator.datasets.decision import RETIRE_SECONDS_MAX, decide
from csi.operator.datasets.seen import FINALIZER
from tests.unit.operator.samples import NOW, SETTINGS, UID
from tests.unit.operator.seen import dataset, figures, fresh, runtime, said, settled, user

DELETED = "2026-11-29T11:59:59Z"


def test_a_deletion_waits_for_pods_that_have_not_ended() -> None:
    seen = settled(
        dataset=dataset(deletionTimestamp=DELETED, finalizers=[FINALIZER]),
        users=(user("app"), user("done", phase="Succeeded")),
    )
    decision = decide(seen, SETTINGS)
    assert not decision.deletions
    assert decision.dataset_metadata is None
    (event,) = [one for one in decision.events if one.reason == "ErrorDeleteDataset"]
    assert "default/app" in event.message
    assert "done" not in event.message
    assert decision.master is not None
    assert decision.master.configuration.orders.retired


def test_then_claim_volume_and_both_objects_go_in_this_order() -> None:
    seen = settled(dataset=dataset(deletionTimestamp=DELETED, finalizers=[FINALIZER]))
    seen = replace(seen, runtime=runtime(finalizers=[FINALIZER], ownerReferences=[{"uid": UID}]))
    assert [one.resource for one in decide(seen, SETTINGS).deletions] == ["persistentvolumeclaims"]
    seen = replace(seen, claim=None)
    assert [one.resource for one in decide(seen, SETTINGS).deletions] == ["persistentvolumes"]
    seen = replace(seen, volumes=())
    last = decide(seen, SETTINGS)
    assert [one.resource for one in last.deletions] == ["efcruntimes"]
    for applied in (last.dataset_metadata, last.runtime_metadata):
        assert applied is not None
        assert applied["metadata"]["finalizers"] == []
    assert last.forget == UID
    assert last.dataset_status is None


def test_a_deletion_gives_idle_daemons_time_to_go_but_not_for_ever() -> None:
    seen = settled(dataset=dataset(deletionTimestamp=DELETED), figures=figures(known=True))
    decision = decide(seen, SETTINGS)
    assert not decision.deletions
    assert decision.again_seconds is not None
    late = replace(seen, now=NOW + datetime.timedelta(seconds=RETIRE_SECONDS_MAX))
    assert [one.resource for one in decide(late, SETTINGS).deletions] == ["persistentvolumeclaims"]


@pytest.mark.parametrize(
    "spec",
    [
        {"mounts": "what a schema of before let pass"},
        {"mounts": [{"mountPoint": "nfs://nas:/data"}], "owner": {"uid": -1}},
    ],
)
def test_whatever_is_wrong_with_it_it_can_be_deleted(spec: dict[str, Any]) -> None:
    """Nor would its namespace ever end."""
    going = dataset(spec=spec, deletionTimestamp=DELETED, finalizers=[FINALIZER])
    seen = settled(dataset=going, runtime=runtime(finalizers=[FINALIZER]))
    assert [one.resource for one in decide(seen, SETTINGS).deletions] == ["persistentvolumeclaims"]
    last = decide(replace(seen, claim=None, volumes=()), SETTINGS)
    for applied in (last.dataset_metadata, last.runtime_metadata):
        assert applied is not None
        assert applied["metadata"]["finalizers"] == []


@pytest.mark.parametrize("number", [-1, 1 << 32, (1 << 63) - 1])
def test_an_owner_that_no_nas_knows_is_said(number: int) -> None:
    decision = decide(settled(dataset=dataset(spec={"owner": {"uid": 0, "gid": number}})), SETTINGS)
    assert said(decision, "Ready")["reason"] == "InvalidSpec"
    assert "spec.owner.gid" in said(decision, "Ready")["message"]


def test_a_cache_of_many_levels_is_no_more_than_can_be_told() -> None:
    disk = {"mediumtype": "SSD", "volumeType": "hostPath", "quota": "8Ei"}
    levels = [{**disk, "path": f"/disk-{number}"} for number in range(12)]
    master = decide(settled(runtime=runtime(spec={"tieredstore": {"levels": levels}})), SETTINGS).master
    assert master is not None
    assert master.configuration.workers[0].capacity_bytes == (1 << 63) - 1


def test_only_volumes_of_ours_are_cleared_away() -> None:
    def volume(name: str, of: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "uid": name}, "spec": {"csi": {"driver": of}}}

    both = (volume("ours", driver.NAME), volume("theirs", "other.example.com"))
    decision = decide(fresh(dataset=None, runtime=None, volumes=both), SETTINGS)
    assert [one.uid for one in decision.deletions] == ["ours"]
