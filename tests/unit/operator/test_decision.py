"""What is done for a Dataset, from what is seen of it."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from csi._proto import dataset_pb2
from csi.base import driver
from csi.config.several import MountedSource, Sources, short_form
from csi.config.sources import Source
from csi.operator.datasets.decision import RETIRE_SECONDS_MAX, decide
from csi.operator.datasets.seen import FINALIZER, Decision, Figures, Origin, Place, Probe, Secrets, Seen
from csi.operator.names import LEADER_LABEL, MASTER_ROLE, ROLE_LABEL, UID_LABEL, WORKER_ROLE
from tests.unit.operator.samples import NOW, RUNTIME_UID, SETTINGS, UID

NAME = ("default", "efc-demo")
SOURCE = "nfs://nas/data"
CREATED = "2026-11-29T11:00:00Z"
BOUND = {"type": "Initialized", "status": "True"}


def metadata(name: str, uid: str, **others: Any) -> dict[str, Any]:
    return {
        "name": name, "namespace": NAME[0], "uid": uid, "resourceVersion": "1", "generation": 1,
        "creationTimestamp": CREATED, **others,
    }  # fmt: skip


def dataset(*, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **others: Any) -> Any:
    mounts = [{"mountPoint": "nfs://nas:/data"}]
    return {
        "apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": metadata(NAME[1], UID, **others),
        "spec": {"mounts": mounts, "placement": "Shared", **(spec or {})}, "status": status or {},
    }  # fmt: skip


def runtime(*, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **others: Any) -> Any:
    return {
        "apiVersion": "data.fluid.io/v1alpha1", "kind": "EFCRuntime",
        "metadata": metadata(NAME[1], RUNTIME_UID, **others),
        "spec": {"replicas": 2, **(spec or {})}, "status": status or {},
    }  # fmt: skip


def made(decision: Decision, kind: str) -> list[str]:
    return [one["metadata"]["name"] for one in decision.objects if one["kind"] == kind]


def with_identity(wanted: dict[str, Any], uid: str, **others: Any) -> dict[str, Any]:
    return {**wanted, "metadata": {**wanted["metadata"], "uid": uid, "resourceVersion": "1"}, **others}


def first(**others: Any) -> Seen:
    """Two objects that were made a moment ago, of a source that has been found."""
    given: dict[str, Any] = {
        "name": NAME, "now": NOW, "random": random.Random(1).randbytes, "dataset": dataset(), "runtime": runtime(),
        "origin": Origin(source=SOURCE),
    }  # fmt: skip
    return Seen(**given | others)


def fresh(**others: Any) -> Seen:
    """The same when their authority has been made."""
    (authority,) = (one for one in decide(first(), SETTINGS).objects if one["kind"] == "Secret")
    return first(**{"secrets": Secrets(authority=with_identity(authority, "authority"))} | others)


def test_nothing_is_signed_by_an_authority_that_is_not_stored() -> None:
    decision = decide(first(), SETTINGS)
    assert made(decision, "Secret") == ["efc-demo-efc-authority"]
    assert made(decision, "StatefulSet") == []
    assert len(made(decide(fresh(), SETTINGS), "Secret")) == 4


def pod(name: str, role: str, *, ready: bool = True, leads: bool = False, **others: Any) -> dict[str, Any]:
    labels = {UID_LABEL: UID, ROLE_LABEL: role} | ({LEADER_LABEL: "true"} if leads else {})
    return {
        "metadata": {"name": name, "namespace": NAME[0], "uid": name, "labels": labels, "deletionTimestamp": None},
        "claims": [], "node": "n1", "phase": "Running", "address": "10.0.0.1", "ready": ready, "unschedulable": "",
        "waiting": "", "ports": [9810 if role == MASTER_ROLE else 11211], **others,
    }  # fmt: skip


def user(name: str = "app", *, phase: str = "Running", node: str = "n1") -> dict[str, Any]:
    return pod(name, "", phase=phase, node=node) | {"claims": [NAME[1]]}


def settled(*, made_of: dict[str, Any] | None = None, **others: Any) -> Seen:
    """All objects are there and bound, and the source has been reached; ``made_of``: what is seen from the first."""
    seen = fresh(
        **{"probe": Probe(source=SOURCE)} | (made_of or {}),
        service={"metadata": {"ownerReferences": [{"uid": RUNTIME_UID}]}, "spec": {"clusterIP": "10.96.0.7"}},
    )
    (volume,) = [one for one in decide(seen, SETTINGS).objects if one["kind"] == "PersistentVolume"]
    # The claim comes when Kubernetes knows the volume.
    seen = replace(seen, volumes=(with_identity(volume, "volume", status={"phase": "Available"}),))
    objects = {(one["kind"], one["metadata"]["name"]): one for one in decide(seen, SETTINGS).objects}
    found = {kind: one for (kind, _), one in objects.items() if kind in ("PersistentVolume", "PersistentVolumeClaim")}
    sets = {name: one for (kind, name), one in objects.items() if kind == "StatefulSet"}
    secrets = {name: with_identity(one, name) for (kind, name), one in objects.items() if kind == "Secret"}
    assert seen.service is not None
    seen = replace(
        seen,
        service=with_identity({**objects["Service", "efc-demo-master"], "spec": seen.service["spec"]}, "service"),
        claim=with_identity(found["PersistentVolumeClaim"], "claim", status={"phase": "Bound"}),
        volumes=(with_identity(found["PersistentVolume"], "volume", status={"phase": "Bound"}),),
        master=with_identity(sets["efc-demo-master"], "master", status={"replicas": 1}),
        workers=with_identity(sets["efc-demo-worker"], "workers", status={"replicas": 2}),
        secrets=Secrets(
            authority=secrets["efc-demo-efc-authority"], node=secrets["efc-demo-efc-node"],
            master=secrets["efc-demo-efc-master"], worker=secrets["efc-demo-efc-worker"],
        ),
        pods=(
            pod("efc-demo-master-0", MASTER_ROLE, leads=True), pod("efc-demo-worker-0", WORKER_ROLE),
            pod("efc-demo-worker-1", WORKER_ROLE),
        ),
    )  # fmt: skip
    return replace(seen, **others)


def said(decision: Decision, kind: str) -> dict[str, Any]:
    assert decision.dataset_status is not None
    assert decision.runtime_status is not None
    both = [*decision.dataset_status["conditions"], *decision.runtime_status["conditions"]]
    found = [one for one in both if one["type"] == kind]
    return dict(found[0]) if found else {}


# ------------------------------------------------------------ being made


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


# ------------------------------------------------------------ who is alone, who is elsewhere


def test_one_without_the_other() -> None:
    decision = decide(fresh(runtime=None), SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "NotBound"
    assert "cacheStates" not in decision.dataset_status
    assert [event.reason for event in decision.events] == ["NoRuntime"]
    assert not decision.objects
    alone = decide(fresh(dataset=None), SETTINGS)
    assert [event.reason for event in alone.events] == ["DatasetNotFound"]
    assert not alone.objects
    young = decide(fresh(runtime=None, now=datetime.datetime.fromisoformat(CREATED)), SETTINGS)
    assert not young.events
    assert young.again_seconds is not None


def test_a_dataset_that_others_serve_is_left_alone() -> None:
    theirs = dataset(status={"phase": "Bound", "conditions": []})
    decision = decide(fresh(dataset=theirs, runtime=None, other_runtimes=("JindoRuntime",)), SETTINGS)
    assert decision.dataset_status is None
    assert not decision.objects
    assert not decision.events


def test_where_fluids_own_controller_runs_nothing_is_written() -> None:
    decision = decide(fresh(rival="fluid-system/efcruntime-controller"), SETTINGS)
    assert {event.reason for event in decision.events} == {"FluidServesIt"}
    assert decision.dataset_status is decision.runtime_status is None
    assert not decision.objects
    assert decision.dataset_metadata is decision.runtime_metadata is None


# ------------------------------------------------------------ masters and figures


def test_one_ready_master_leads() -> None:
    pods = [pod(f"efc-demo-master-{number}", MASTER_ROLE, ready=number != 0) for number in range(3)]
    pods[0]["metadata"]["labels"][LEADER_LABEL] = "true"
    decision = decide(settled(pods=tuple(pods)), SETTINGS)
    assert decision.labels == [
        ((NAME[0], "efc-demo-master-0"), {LEADER_LABEL: None}),
        ((NAME[0], "efc-demo-master-1"), {LEADER_LABEL: "true"}),
    ]
    for one in pods:
        one["ready"] = False
    assert decide(settled(pods=tuple(pods)), SETTINGS).labels == []


def test_the_master_is_told_of_ready_workers_only() -> None:
    pods = (
        pod("efc-demo-master-0", MASTER_ROLE, leads=True),
        pod("efc-demo-worker-0", WORKER_ROLE),
        pod("efc-demo-worker-1", WORKER_ROLE, ready=False),
    )
    master = decide(settled(pods=pods), SETTINGS).master
    assert master is not None
    assert master.address == "10.0.0.1:9810"
    assert [worker.name for worker in master.configuration.workers] == ["efc-demo-worker-0"]
    assert master.configuration.mounts[0].source == SOURCE
    assert len(master.configuration.orders.secrets.block_key) == 32
    assert master.configuration.orders.keep_daemon
    assert not master.configuration.orders.retired


def figures(**totals: Any) -> Figures:
    latest = dataset_pb2.Figures(
        totals=dataset_pb2.Totals(**totals),
        workers=[dataset_pb2.WorkerFigures(name="w", cached_bytes=512 << 20, reachable=True)],
        read=dataset_pb2.ReadFigures(total=1000, from_node=100, from_workers=400),
        nodes=[dataset_pb2.NodeFigures(node="n1", volumes=1, serving=True, connected=True)],
    )
    return Figures(latest=latest, connected=True)


def test_columns() -> None:
    users = (user("a", node="n1"), user("b", node="n2"), user("c", phase="Succeeded", node="n3"))
    seen = settled(figures=figures(bytes=1 << 30, files=7, known=True), users=users)
    decision = decide(seen, SETTINGS)
    status, served = decision.dataset_status, decision.runtime_status
    assert status is not None
    assert served is not None
    assert (status["ufsTotal"], status["fileNum"]) == ("1.00GiB", "7")
    assert status["cacheStates"] == {
        "cached": "512.00MiB", "cacheCapacity": "2.00GiB", "cachedPercentage": "50.0%", "cacheHitRatio": "50.0%",
        "localHitRatio": "10.0%", "remoteHitRatio": "40.0%", "cacheThroughputRatio": "50.0%",
        "localThroughputRatio": "10.0%", "remoteThroughputRatio": "40.0%",
    }  # fmt: skip
    assert (served["desiredFuseNumberScheduled"], served["fuseNumberReady"]) == (2, 1)
    assert served["fusePhase"] == "PartialReady"
    assert "n2" in served["fuseReason"]
    assert said(decision, "TotalsKnown")["status"] == "True"


def test_the_capacity_is_that_of_workers_that_are_ready() -> None:
    pods = (
        pod("efc-demo-master-0", MASTER_ROLE),
        pod("efc-demo-worker-0", WORKER_ROLE),
        pod("efc-demo-worker-1", WORKER_ROLE, ready=False),
    )
    status = decide(settled(figures=figures(bytes=1 << 30, files=7, known=True), pods=pods), SETTINGS).dataset_status
    assert status is not None
    assert status["cacheStates"]["cacheCapacity"] == "1.00GiB"


def test_no_more_than_all_is_cached_and_one_column_stays_blank() -> None:
    """Workers may hold what is no more at the source."""
    status = decide(settled(figures=figures(bytes=1 << 20, files=1, known=True)), SETTINGS).dataset_status
    assert status is not None
    assert status["cacheStates"]["cachedPercentage"] == "100.0%"
    assert "hcfs" not in status


def test_fuses_are_ready_where_no_pod_uses_it() -> None:
    served = decide(settled(), SETTINGS).runtime_status
    assert served is not None
    assert (served["desiredFuseNumberScheduled"], served["fusePhase"]) == (0, "Ready")


def test_what_thousands_of_nodes_say_fits_into_a_status() -> None:
    """A NAS that is away is so for all of them; the API server takes no object of megabytes."""
    names = [f"node-{number:04}" for number in range(5000)]
    nodes = [dataset_pb2.NodeFigures(node=name, conditions=["the NAS does not answer" * 10]) for name in names]
    users = tuple(user(f"app-{name}", node=name) for name in names)
    seen = settled(users=users, figures=Figures(latest=dataset_pb2.Figures(nodes=nodes), connected=True))
    status = decide(seen, SETTINGS).runtime_status
    assert status is not None
    assert len(status["fuseReason"]) <= 1024
    some = dataset_pb2.Figures(nodes=[dataset_pb2.NodeFigures(node=name, conditions=["x"]) for name in names])
    status = decide(replace(seen, figures=Figures(latest=some, connected=True)), SETTINGS).runtime_status
    assert status is not None
    assert status["fuseReason"].startswith("node-0000: x; ")
    assert status["fuseReason"].endswith("and 4995 more nodes")
    none = decide(replace(seen, figures=Figures(latest=dataset_pb2.Figures(), connected=True)), SETTINGS)
    assert none.runtime_status is not None
    assert none.runtime_status["fuseReason"].endswith("node-0004, and 4995 more nodes")


def test_what_kubernetes_says_of_a_pod_fits_into_a_status() -> None:
    pods = (pod("efc-demo-worker-0", WORKER_ROLE, ready=False, waiting="w" * 50_000),)
    status = decide(settled(pods=pods), SETTINGS).runtime_status
    assert status is not None
    assert len(status["workerReason"]) == 1024


def test_a_count_under_way_says_how_far_it_is_and_known_totals_stay_while_a_new_master_counts() -> None:
    counting = figures(bytes=5, files=2, directories_done=1)
    decision = decide(settled(figures=counting), SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["ufsTotal"] == "5.00B"
    assert "2 files in 1 directories" in said(decision, "TotalsKnown")["message"]
    known = {
        "phase": "Bound", "ufsTotal": "1.00GiB", "fileNum": "7",
        "conditions": [BOUND, {"type": "TotalsKnown", "status": "True", "reason": "Counted"}],
    }  # fmt: skip
    later = decide(settled(figures=counting, dataset=dataset(status=known)), SETTINGS).dataset_status
    assert later is not None
    assert (later["ufsTotal"], later["fileNum"]) == ("1.00GiB", "7")


def test_the_masters_word_about_the_source_counts_once_it_looks() -> None:
    lost = figures()
    assert lost.latest is not None
    lost.latest.source.CopyFrom(dataset_pb2.Reachability(known=True, reachable=False, reason="gone"))
    bound = dataset(status={"phase": "Bound", "conditions": [BOUND]})
    decision = decide(settled(figures=lost, dataset=bound), SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "Failed"
    assert said(decision, "Ready")["message"] == "gone"
    assert decision.probe is None


# ------------------------------------------------------------ deletion

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


# ------------------------------------------------------------ changes


def test_another_source_waits_for_pods_and_is_refused_meanwhile() -> None:
    bound = dataset(status={"phase": "Bound", "conditions": [BOUND]})
    other = Origin(source="nfs://nas/other")
    seen = settled(dataset=bound, origin=other, probe=Probe(source=other.source), users=(user("app"),))
    decision = decide(seen, SETTINGS)
    assert not decision.deletions
    assert said(decision, "Updating")["status"] == "False"
    assert "app" in said(decision, "Updating")["message"]
    idle = decide(replace(seen, users=()), SETTINGS)
    assert [one.resource for one in idle.deletions] == ["persistentvolumeclaims"]
    assert idle.dataset_status is not None
    assert idle.dataset_status["phase"] == "Updating"


def test_an_address_of_the_service_that_is_lost_is_asked_for_no_more() -> None:
    """Another Service has got it, or the cluster has other ranges by now: it would be refused for ever."""
    settled_before = settled(service=None)
    (service,) = (one for one in decide(settled_before, SETTINGS).objects if one["kind"] == "Service")
    assert service["spec"]["clusterIP"] == "10.96.0.7"
    words = (
        'Service "efc-demo-master" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.7"]: failed to allocate IP '
        "10.96.0.7: provided IP is already allocated"
    )
    refused = replace(
        settled_before, refused={"Service/efc-demo-master": words}, prepared=decide(settled_before, SETTINGS).prepared
    )
    (another,) = (one for one in decide(refused, SETTINGS).objects if one["kind"] == "Service")
    assert "clusterIP" not in another["spec"]
    there = with_identity({**another, "spec": {**another["spec"], "clusterIP": "10.96.0.8"}}, "service")
    assert [one.resource for one in decide(settled(service=there), SETTINGS).deletions] == ["persistentvolumeclaims"]
    used = decide(settled(service=there, users=(user(),)), SETTINGS)
    assert not used.deletions
    assert "the address of the master's Service" in said(used, "Updating")["message"]
    quota = replace(
        settled_before, refused={"Service/efc-demo-master": 'services "efc-demo-master" is forbidden: quota'}
    )
    (asked,) = (one for one in decide(quota, SETTINGS).objects if one["kind"] == "Service")
    assert asked["spec"]["clusterIP"] == "10.96.0.7"


def test_a_refused_source_is_not_the_one_that_is_looked_at() -> None:
    bound = dataset(status={"phase": "Bound", "conditions": [BOUND, {"type": "SourceReachable", "status": "True"}]})
    other = Origin(source="nfs://nas/other")
    seen = settled(dataset=bound, origin=other, probe=Probe(source=other.source, reason="no"), users=(user("app"),))
    decision = decide(seen, SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "Bound"
    assert said(decision, "SourceReachable")["status"] == "True"
    assert decision.master is not None
    assert decision.master.configuration.mounts[0].source == SOURCE


def several(**paths: str) -> str:
    mounted = (MountedSource(path=f"/{path}", source=Source.parse(url)) for path, url in paths.items())
    return Sources.of(mounted).canonical()


def of_sources(found: dict[str, Any], sources: str) -> dict[str, Any]:
    return {"dataset": found, "origin": Origin(source=sources), "probe": Probe(source=sources)}


def told(sources: str, **others: Any) -> Figures:
    node = dataset_pb2.NodeFigures(node="node-1", connected=True, serving=True, sources=sources, **others)
    reachable = dataset_pb2.Reachability(known=True, reachable=True)
    return Figures(latest=dataset_pb2.Figures(nodes=[node], source=reachable), connected=True)


@pytest.mark.parametrize("form", [str, short_form])
def test_mounts_come_and_go_under_pods_until_all_nodes_have_been_told(form: Callable[[str], str]) -> None:
    """Masters of a release before say all of a node's sources."""
    spec = {"mounts": [{"mountPoint": "nfs://nas/x", "path": "/a"}, {"mountPoint": "nfs://nas/y", "name": "b"}]}
    bound = dataset(spec=spec, status={"phase": "Bound", "conditions": [BOUND]})
    both = several(a="nfs://nas/x", b="nfs://nas/y")
    seen = settled(made_of=of_sources(bound, both), users=(user("app"),))
    attributes = seen.volumes[0]["spec"]["csi"]["volumeAttributes"]
    assert (attributes["sources"], "source" in attributes) == (both, False)
    more = several(a="nfs://nas/x", c="nfs://nas/z")
    changed = replace(seen, origin=Origin(source=more), figures=told(form(both)))
    decision = decide(changed, SETTINGS)
    assert decision.dataset_status is not None
    assert (decision.dataset_status["phase"], decision.deletions) == ("Updating", [])
    assert decision.master is not None
    assert [mount.path for mount in decision.master.configuration.mounts] == ["/a", "/c"]
    (volume,) = (one for one in decision.objects if one["kind"] == "PersistentVolume")
    assert volume["metadata"]["annotations"]["efc.data.fluid.io/sources"] == more
    assert volume["spec"]["csi"]["volumeAttributes"]["sources"] == both
    done = decide(replace(changed, figures=told(form(more)), volumes=(with_identity(volume, "volume"),)), SETTINGS)
    assert done.dataset_status is not None
    assert done.dataset_status["phase"] == "Bound"
    # A node that is not there now, or has no daemon, is not waited for.
    gone = told(form(both))
    assert gone.latest is not None
    gone.latest.nodes[0].connected = False
    decision = decide(replace(changed, figures=gone), SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "Bound"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (several(a="nfs://nas/other", b="nfs://nas/y"), "the mountPoint at /a"),
        ("nfs://nas/x", "path: /a keeps a single one where it is"),
    ],
)
def test_what_is_at_a_path_does_not_change_under_pods(wanted: str, words: str) -> None:
    spec = {"mounts": [{"mountPoint": "nfs://nas/x", "path": "/a"}, {"mountPoint": "nfs://nas/y", "name": "b"}]}
    bound = dataset(spec=spec, status={"phase": "Bound", "conditions": [BOUND]})
    before = several(a="nfs://nas/x", b="nfs://nas/y")
    seen = settled(made_of=of_sources(bound, before), users=(user("app"),), figures=told(before))
    decision = decide(replace(seen, origin=Origin(source=wanted)), SETTINGS)
    assert said(decision, "Updating")["status"] == "False"
    assert words in said(decision, "Updating")["message"]
    assert decision.master is not None
    assert [mount.path for mount in decision.master.configuration.mounts] == ["/a", "/b"]
    idle = decide(replace(seen, origin=Origin(source=wanted), users=()), SETTINGS)
    assert [one.resource for one in idle.deletions] == ["persistentvolumeclaims"]


def test_options_that_one_daemon_cannot_have_twice_are_refused() -> None:
    mounts = [
        {"mountPoint": "nfs://nas/x", "path": "/a", "options": {"threads": "3"}},
        {"mountPoint": "nfs://nas/y", "path": "/b", "readOnly": True},
    ]
    source = several(a="nfs://nas/x", b="nfs://nas/y")
    decision = decide(first(dataset=dataset(spec={"mounts": mounts}), origin=Origin(source=source)), SETTINGS)
    assert "option 'threads' of the mount at /b is not that of the first one" in said(decision, "Ready")["message"]


def test_a_dataset_does_not_say_in_whose_name_all_is_read() -> None:
    options = {"ro": "true", "consistency": "bounded", "small-files": "0:0"}
    mounts = [{"mountPoint": "nfs://nas/x", "readOnly": True, "options": options}]
    decision = decide(first(dataset=dataset(spec={"mounts": mounts})), SETTINGS)
    assert "'small-files' says in whose name all is read" in said(decision, "Ready")["message"]


def test_what_stands_in_secrets_reaches_nodes_and_no_object() -> None:
    option = {"name": "read-ahead", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    mount = {"mountPoint": "nfs://nas:/data", "options": {"read-ahead": "1MiB"}, "encryptOptions": [option]}
    missing = decide(settled(dataset=dataset(spec={"mounts": [mount]})), SETTINGS)
    assert "there is no Secret 's'" in said(missing, "Ready")["message"]
    decision = decide(settled(dataset=dataset(spec={"mounts": [mount]}), options={"s": {"k": "3MiB"}}), SETTINGS)
    assert decision.master is not None
    assert decision.master.configuration.orders.options["read-ahead"] == "3MiB"
    assert "3MiB" not in str(decision.objects)
    assert "3MiB" not in str(decision.dataset_status)


def test_a_limit_of_memory_is_an_order() -> None:
    """It wins over the option, and nothing is made anew for it."""
    fuse = {"resources": {"limits": {"memory": "1Gi"}}, "properties": {"memory-max": "2GiB"}}
    decision = decide(settled(runtime=runtime(spec={"fuse": fuse})), SETTINGS)
    assert decision.master is not None
    assert decision.master.configuration.orders.options["memory-max"] == "1024MiB"
    assert said(decision, "Updating") == {}


def test_a_damaged_block_key_is_made_anew_and_keeps_nothing_from_being_deleted() -> None:
    seen = settled()
    node = seen.secrets.node
    assert node is not None
    damaged = {**node, "data": {**node["data"], "block-key": "bm90IGhleA=="}}
    decision = decide(replace(seen, secrets=replace(seen.secrets, node=damaged)), SETTINGS)
    (mended,) = (one for one in decision.objects if one["metadata"]["name"] == "efc-demo-efc-node")
    assert mended["data"]["block-key"] != damaged["data"]["block-key"]
    going = replace(seen, dataset=dataset(deletionTimestamp=CREATED), secrets=replace(seen.secrets, node=damaged))
    assert decide(going, SETTINGS).deletions


def test_a_runtime_may_have_a_controller_of_its_users() -> None:
    metadata = decide(fresh(), SETTINGS).runtime_metadata
    assert metadata is not None
    (owner,) = metadata["metadata"]["ownerReferences"]
    assert owner["uid"] == UID
    assert "controller" not in owner
