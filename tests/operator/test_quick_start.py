"""A Dataset and its EFCRuntime become what the quick start promises, and go again, on a real API server."""

from __future__ import annotations

import datetime
import signal
import time
from typing import Any

import pytest

from csi.operator.datasets.seen import FINALIZER
from tests.cluster.cluster import Cluster, Namespace, pod
from tests.operator.objects import await_phase, await_said, await_status, condition, dataset, get, runtime, source_of
from tests.operator.operators import Operator, requests
from tests.support.processes import wait_until

_OBJECTS = "statefulsets,services,secrets,persistentvolumeclaims,efcruntimes,datasets"


def _left(namespace: Namespace) -> list[str]:
    found = namespace.cluster.objects(_OBJECTS, namespace=namespace.name)
    return [f"{one['kind']}/{one['metadata']['name']}" for one in found]


def _volumes(namespace: Namespace) -> list[dict[str, Any]]:
    found = namespace.cluster.objects("persistentvolumes")
    return [one for one in found if (one["spec"].get("claimRef") or {}).get("namespace") == namespace.name]


def _await_nothing_left(namespace: Namespace) -> None:
    wait_until(
        lambda: not _left(namespace) and not _volumes(namespace), what="all of it to go", limit_s=90, interval_s=0.3
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_two_objects_become_a_bound_claim(namespace: Namespace) -> None:
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo", replicas=2))
    namespace.cluster.kubectl(
        "-n", namespace.name, "wait", "--for=condition=Ready", "dataset/demo", "--timeout=90s", limit_s=90
    )
    found = await_phase(namespace, "demo", "Bound")
    assert FINALIZER in found["metadata"]["finalizers"]
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert condition(found, "SourceReachable")["status"] == "True"
    states = found["status"]["cacheStates"]
    assert (states["cached"], states["cachedPercentage"], states["cacheHitRatio"]) == ("0.00B", "0.0%", "0.0%")
    assert found["status"]["runtimes"][0] == {
        "name": "demo", "namespace": namespace.name, "category": "Accelerate", "type": "efc", "masterReplicas": 1,
    }  # fmt: skip

    served = get(namespace, "efcruntime", "demo")
    assert [owner["uid"] for owner in served["metadata"]["ownerReferences"]] == [found["metadata"]["uid"]]
    assert served["status"]["desiredWorkerNumberScheduled"] == 2
    assert served["status"]["fusePhase"] == "Ready"  # no pod uses it

    claim = get(namespace, "persistentvolumeclaim", "demo")
    assert claim["status"]["phase"] == "Bound"
    assert (claim["spec"]["storageClassName"], claim["spec"]["accessModes"]) == ("fluid", ["ReadOnlyMany"])
    assert claim["status"]["capacity"]["storage"] == "100Pi"
    (volume,) = _volumes(namespace)
    assert volume["metadata"]["name"] == f"efc-dataset-{found['metadata']['uid']}"
    assert volume["spec"]["csi"]["volumeAttributes"]["dataset"] == f"{namespace.name}/demo"
    for kind, name in (("statefulset", "demo-master"), ("statefulset", "demo-worker"), ("service", "demo-master")):
        owners = get(namespace, kind, name)["metadata"]["ownerReferences"]
        assert [owner["uid"] for owner in owners] == [served["metadata"]["uid"]]
    selector = served["status"]["selector"]
    wait_until(
        lambda: len(namespace.cluster.objects("pods", namespace=namespace.name, selector=selector)) == 2,
        what="the workers, by the selector that autoscalers get",
    )


def test_a_scaled_runtime(namespace: Namespace) -> None:
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo", replicas=3))
    await_phase(namespace, "demo", "Bound")
    namespace.cluster.kubectl("-n", namespace.name, "scale", "efc", "demo", "--replicas=1")
    await_status(
        namespace, "statefulset", "demo-worker", lambda found: found["spec"]["replicas"] == 1, what="one replica"
    )
    await_said(namespace, "efc", "demo", "WorkersScaledIn", "from 3 to 1", status="True")


def test_either_object_first(namespace: Namespace) -> None:
    namespace.apply(dataset("early", source_of(namespace)), runtime("late"))
    found = await_said(namespace, "dataset", "early", "Ready", "no EFCRuntime 'early'")
    assert found["status"]["phase"] == "NotBound"
    assert "cacheStates" not in found["status"]
    await_said(namespace, "efc", "late", "WorkersReady", "no Dataset 'late'")
    namespace.await_message("early", "NoRuntime", limit_s=90)
    namespace.await_message("late", "DatasetNotFound", limit_s=90)
    assert "PersistentVolumeClaim" not in str(_left(namespace))
    namespace.apply(dataset("late", source_of(namespace)), runtime("early"))
    await_phase(namespace, "early", "Bound")
    await_phase(namespace, "late", "Bound")


def test_a_deletion_waits_for_pods(namespace: Namespace) -> None:
    namespace.apply(
        dataset("demo", source_of(namespace)), runtime("demo", replicas=1), pod("user", claims={"/data": "demo"})
    )
    await_phase(namespace, "demo", "Bound")
    namespace.cluster.kubectl("-n", namespace.name, "delete", "dataset", "demo", "--wait=false")
    namespace.await_message("demo", "ErrorDeleteDataset", f"{namespace.name}/user", limit_s=90)
    time.sleep(2)
    assert get(namespace, "persistentvolumeclaim", "demo")["status"]["phase"] == "Bound"
    assert "deletionTimestamp" not in get(namespace, "persistentvolumeclaim", "demo")["metadata"]
    namespace.cluster.kubectl("-n", namespace.name, "delete", "pod", "user", "--wait=false")
    _await_nothing_left(namespace)


def test_a_runtime_is_replaced(namespace: Namespace) -> None:
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo", replicas=1))
    first = await_phase(namespace, "demo", "Bound")
    namespace.cluster.kubectl("-n", namespace.name, "delete", "efc", "demo", "--timeout=90s", limit_s=100)
    alone = await_phase(namespace, "demo", "NotBound")
    assert "cacheStates" not in alone["status"]
    assert "runtimes" not in alone["status"]
    assert FINALIZER not in alone["metadata"].get("finalizers", [])
    namespace.apply(runtime("demo"))
    again = await_phase(namespace, "demo", "Bound")
    assert again["metadata"]["uid"] == first["metadata"]["uid"]
    namespace.cluster.kubectl("-n", namespace.name, "delete", "dataset", "demo", "--timeout=90s", limit_s=90)
    _await_nothing_left(namespace)


def test_a_namespace_with_running_pods_ends(namespace: Namespace) -> None:
    namespace.apply(
        dataset("demo", source_of(namespace)), runtime("demo", replicas=1), pod("user", claims={"/data": "demo"})
    )
    await_phase(namespace, "demo", "Bound")
    namespace.cluster.kubectl("delete", "namespace", namespace.name, "--timeout=90s", limit_s=100)
    assert not _volumes(namespace)


def test_a_restart_writes_nothing(namespace: Namespace, operator: Operator) -> None:
    for name in ("one", "two"):
        namespace.apply(dataset(name, source_of(namespace)), runtime(name))
        await_phase(namespace, name, "Bound")
    _await_quiet(operator.cluster)
    operator.end()
    since = _now()
    operator.start()
    operator.await_in_step(limit_s=90)
    time.sleep(4)
    written = [
        (event["verb"], event["objectRef"]["resource"], event["objectRef"].get("name"))
        for event in requests(operator.cluster, since=since)
        if event["verb"] not in ("get", "list", "watch") and event["objectRef"]["resource"] != "leases"
    ]
    assert not written


def test_what_was_deleted_while_it_was_away_goes_when_it_is_back(namespace: Namespace, operator: Operator) -> None:
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo"))
    await_phase(namespace, "demo", "Bound")
    operator.end(signal.SIGKILL)
    namespace.cluster.kubectl("-n", namespace.name, "delete", "dataset/demo", "efcruntime/demo", "--wait=false")
    operator.start()
    _await_nothing_left(namespace)


def test_a_second_one_takes_over(namespace: Namespace, operator: Operator) -> None:
    second = Operator(cluster=operator.cluster, name="second")
    second.start()
    try:
        time.sleep(4)
        assert not second.leads()
        namespace.apply(dataset("demo", source_of(namespace)), runtime("demo"))
        await_phase(namespace, "demo", "Bound")
        operator.end()
        wait_until(second.leads, what="the second one to lead at once", limit_s=90)
        namespace.apply(dataset("other", source_of(namespace)), runtime("other"))
        await_phase(namespace, "other", "Bound")
        operator.start()
        second.end(signal.SIGKILL)
        operator.await_in_step(limit_s=90)
    finally:
        second.end()
        if not operator.said():
            operator.start()


def test_the_requests_of_one_dataset(namespace: Namespace, operator: Operator) -> None:
    """What a Dataset costs the API server, until it is bound."""
    _await_quiet(operator.cluster)
    since = _now()
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo"))
    await_phase(namespace, "demo", "Bound")
    asked = [
        event
        for event in requests(operator.cluster, since=since)
        if event["verb"] != "watch" and "objectRef" in event and event["objectRef"]["resource"] != "leases"
        and (event["objectRef"].get("namespace") == namespace.name or "persistentvolume" in str(event["objectRef"]))
    ]  # fmt: skip
    assert len(asked) <= 30, [(event["verb"], event["objectRef"]["resource"]) for event in asked]


def _await_quiet(cluster: Cluster) -> None:
    """Returns when nothing has been written for two seconds."""

    def is_quiet() -> bool:
        since = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return not [
            event
            for event in requests(cluster, since=since)
            if event["verb"] not in ("get", "list", "watch") and event["objectRef"]["resource"] != "leases"
        ]

    wait_until(is_quiet, what="the operator to have nothing to write", limit_s=90, interval_s=0.3)


pytestmark = pytest.mark.timeout(300)
