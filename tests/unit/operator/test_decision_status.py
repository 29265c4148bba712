"""Who serves a Dataset, what its masters and workers say, and what its columns show."""

from __future__ import annotations

import datetime
from dataclasses import replace

from csi._proto import dataset_pb2
from csi.operator.datasets.decision import decide
from csi.operator.datasets.seen import Figures
from csi.operator.names import LEADER_LABEL, MASTER_ROLE, WORKER_ROLE
from tests.unit.operator.samples import SETTINGS
from tests.unit.operator.seen import (
    BOUND,
    CREATED,
    NAME,
    SOURCE,
    dataset,
    figures,
    fresh,
    pod,
    said,
    settled,
    user,
)


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
