"""What is made for a Dataset, and what it is told while it is being made."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from csi._proto import dataset_pb2
from csi.operator.datasets.decision import decide
from csi.operator.datasets.seen import FINALIZER, Figures, Place, Probe
from tests.unit.operator.samples import NOW, SETTINGS, UID
from tests.unit.operator.seen import (
    BOUND,
    SOURCE,
    dataset,
    first,
    fresh,
    made,
    runtime,
    said,
    settled,
    user,
)


def test_nothing_is_signed_by_an_authority_that_is_not_stored() -> None:
    decision = decide(first(), SETTINGS)
    assert made(decision, "Secret") == ["efc-demo-efc-authority"]
    assert made(decision, "StatefulSet") == []
    assert len(made(decide(fresh(), SETTINGS), "Secret")) == 4


def test_before_the_source_was_reached_nothing_is_made_that_pods_could_use() -> None:
    decision = decide(fresh(), SETTINGS)
    assert decision.probe == Place(source=SOURCE, root=SOURCE)
    assert made(decision, "StatefulSet") == ["efc-demo-master", "efc-demo-worker"]
    assert made(decision, "PersistentVolumeClaim") == made(decision, "PersistentVolume") == []
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "NotBound"
    assert said(decision, "SourceReachable") == {}
    for applied in (decision.dataset_metadata, decision.runtime_metadata):
        assert applied is not None
        assert applied["metadata"]["finalizers"] == [FINALIZER]
    assert decision.runtime_metadata is not None
    assert [owner["uid"] for owner in decision.runtime_metadata["metadata"]["ownerReferences"]] == [UID]


def test_a_source_that_cannot_be_reached_is_said_with_the_reason_and_tried_again() -> None:
    decision = decide(fresh(probe=Probe(source=SOURCE, reason="nas refuses")), SETTINGS)
    assert decision.probe == Place(source=SOURCE, root=SOURCE)
    assert said(decision, "SourceReachable")["message"] == "nas refuses"
    assert said(decision, "Ready")["status"] == "False"
    assert [event.reason for event in decision.events] == ["SourceUnreachable"]


def test_a_masters_word_that_the_source_is_reached_is_enough() -> None:
    """Of one that was not reached before: nobody else is asked while the master looks."""
    latest = dataset_pb2.Figures(source=dataset_pb2.Reachability(known=True, reachable=True))
    decision = decide(fresh(service=settled().service, figures=Figures(latest=latest, connected=True)), SETTINGS)
    assert decision.probe is None
    assert made(decision, "PersistentVolume")


def test_a_claim_that_has_lost_its_volume_is_made_anew_when_nobody_uses_it() -> None:
    seen = settled(volumes=())
    assert seen.claim is not None
    lost = {**seen.claim, "status": {"phase": "Lost"}}
    used = decide(replace(seen, claim=lost, users=(user(),)), SETTINGS)
    assert used.deletions == []
    assert (said(used, "Ready")["reason"], "end pods app" in said(used, "Ready")["message"]) == ("ClaimLost", True)
    unused = decide(replace(seen, claim=lost), SETTINGS)
    assert [deletion.uid for deletion in unused.deletions] == ["claim"]


@pytest.mark.parametrize(("phase", "deleted"), [("Pending", ["volume"]), ("Bound", [])])
def test_a_volume_of_a_claim_that_was_before_is_made_anew(phase: str, deleted: list[str]) -> None:
    """Kubernetes binds it to no other claim, also not to one that came before this was seen."""
    seen = settled()
    assert seen.claim is not None
    (volume,) = seen.volumes
    seen = replace(
        seen, claim={**seen.claim, "status": {"phase": phase}}, volumes=({**volume, "status": {"phase": "Released"}},)
    )
    assert [deletion.uid for deletion in decide(seen, SETTINGS).deletions] == deleted


def test_the_probe_of_another_source_says_nothing() -> None:
    decision = decide(fresh(probe=Probe(source="nfs://nas/other")), SETTINGS)
    assert decision.probe == Place(source=SOURCE, root=SOURCE)
    assert made(decision, "PersistentVolumeClaim") == []


def test_bound_waits_for_neither_master_nor_workers() -> None:
    decision = decide(settled(pods=()), SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "Bound"
    assert said(decision, "Ready")["status"] == "True"
    assert said(decision, "WorkersReady")["status"] == "False"
    assert decision.master is None


def test_a_settled_dataset_needs_nothing_but_what_it_has() -> None:
    seen = settled()
    once = decide(seen, SETTINGS)
    assert once.dataset_status is not None
    assert once.runtime_status is not None
    seen = replace(
        seen,
        dataset=dataset(status=once.dataset_status, finalizers=[FINALIZER]),
        runtime=runtime(status=once.runtime_status, finalizers=[FINALIZER], ownerReferences=[{"uid": UID}]),
        now=NOW + datetime.timedelta(hours=1),
        probe=None,
    )
    again = decide(seen, SETTINGS)
    assert again.dataset_metadata is None
    assert again.runtime_metadata is None
    assert (again.dataset_status, again.runtime_status) == (once.dataset_status, once.runtime_status)
    assert not again.events
    assert not again.deletions
    assert not again.labels
    assert again.probe is None  # it was reached by an operator before this one


@pytest.mark.parametrize("what", ["refused", "taken"])
def test_what_cannot_be_made_is_said(what: str) -> None:
    seen = settled(claim=None, **{what: {"PersistentVolumeClaim/efc-demo": "words of the API server"}})
    decision = decide(seen, SETTINGS)
    assert "words of the API server" in said(decision, "Ready")["message"]
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "NotBound"
    after = replace(seen, dataset=dataset(status={"conditions": [BOUND], "phase": "Bound"}))
    failed = decide(after, SETTINGS).dataset_status
    assert failed is not None
    assert failed["phase"] == "Failed"


def test_workers_that_are_refused_do_not_keep_it_from_being_bound() -> None:
    decision = decide(settled(pods=(), refused={"StatefulSet/efc-demo-worker": "violates PodSecurity"}), SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "Bound"
    assert said(decision, "WorkersReady")["message"] == "violates PodSecurity"


def test_what_fluids_crds_let_pass_is_said_and_nothing_is_made() -> None:
    decision = decide(fresh(dataset=dataset(spec={"mounts": [{"mountPoint": "https://example.com/x"}]})), SETTINGS)
    assert "https://example.com/x" in said(decision, "Ready")["message"]
    assert not decision.objects
    assert decision.probe is None


@pytest.mark.parametrize("owners", [[{"uid": "former"}], []], ids=["going", "orphaned"])
def test_what_a_former_runtime_left_keeps_anything_from_being_made(owners: list[dict[str, str]]) -> None:
    """An owner that is gone has its objects collected; those that have none stay until somebody deletes them."""
    seen = settled()
    assert seen.workers is not None
    assert seen.service is not None

    def of_former(found: Mapping[str, Any]) -> dict[str, Any]:
        return {**found, "metadata": {**found["metadata"], "ownerReferences": owners}}

    decision = decide(replace(seen, workers=of_former(seen.workers), service=of_former(seen.service)), SETTINGS)
    assert decision.objects == []
    ready = said(decision, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Preparing" if owners else "Orphaned")
    assert "statefulset/efc-demo-worker" in ready["message"]
    command = "kubectl -n default delete service/efc-demo-master statefulset/efc-demo-worker"
    assert (command in ready["message"]) == (not owners)
