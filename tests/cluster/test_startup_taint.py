"""A node that waits for the driver: its pods stay Pending, and start when the driver has registered there.

The audit log says how often the operator patched a node: once for each taint, whatever else happens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from csi.operator.startup_taint import TAINT_KEY
from tests.cluster.cluster import DRIVER, SYSTEM_NAMESPACE, Cluster, Namespace, pod
from tests.support.processes import wait_until

_NODE = "n2"
_OTHER = "efc.test/other"
_LABEL = "efc.test/driver"
_OPERATOR = f"system:serviceaccount:{SYSTEM_NAMESPACE}:efc-operator"
_OK = 200
#: Generous: the operator needs an event and two requests.
REMOVED_S_MAX = 60.0


@pytest.fixture(autouse=True)
def operator(cluster: Cluster) -> Iterator[None]:
    """Runs before; afterwards the node has no taint of the test's."""
    cluster.kubectl(
        "-n", SYSTEM_NAMESPACE, "rollout", "status", "deployment/efc-operator", "--timeout=90s", limit_s=100
    )
    yield
    with suppress(AssertionError):
        cluster.kubectl("taint", "node", _NODE, f"{TAINT_KEY}-")
    with suppress(AssertionError):
        cluster.kubectl("taint", "node", _NODE, f"{_OTHER}-")


def taints(cluster: Cluster, node: str) -> set[str]:
    found = cluster.get("node", node)
    assert found is not None
    return {taint["key"] for taint in found["spec"].get("taints", [])}


def is_registered(cluster: Cluster, node: str) -> bool:
    found = cluster.get("csinode", node)
    assert found is not None
    return DRIVER in {driver["name"] for driver in found["spec"].get("drivers") or []}


def patches(cluster: Cluster) -> int:
    """Of nodes, by the operator. Each of its pods tries, and the API server takes the first one's."""
    changes = [event for event in requests(cluster) if event["verb"] not in {"get", "list", "watch"}]
    for event in changes:
        assert (event["verb"], event["objectRef"]["resource"]) == ("patch", "nodes"), event
    return sum(event["responseStatus"]["code"] == _OK for event in changes)


def watches(cluster: Cluster) -> int:
    """Begun by the operator."""
    return sum(event["verb"] == "watch" for event in requests(cluster))


def requests(cluster: Cluster) -> list[dict[str, Any]]:
    """Of the operator about nodes, as the audit log has them."""
    lines = (cluster.folder / "log" / "audit.jsonl").read_text().splitlines()
    events = (json.loads(line) for line in lines if _OPERATOR in line)
    return [
        event for event in events
        if event["user"]["username"] == _OPERATOR
        and event.get("objectRef", {}).get("resource") in {"nodes", "csinodes"}
    ]  # fmt: skip


@contextmanager
def without_the_driver(cluster: Cluster, node: str) -> Iterator[None]:
    """The node plugin runs on all other nodes only."""
    others = [f"node/{name}" for name in cluster.nodes() if name != node]
    cluster.kubectl("label", *others, f"{_LABEL}=here", "--overwrite")

    def choose(value: str | None) -> None:
        selector = {"spec": {"template": {"spec": {"nodeSelector": {_LABEL: value}}}}}
        cluster.kubectl("-n", SYSTEM_NAMESPACE, "patch", "daemonset", "efc-node", "-p", json.dumps(selector))

    choose("here")
    try:
        wait_until(lambda: not is_registered(cluster, node), what="kubelet to forget the driver", limit_s=90)
        yield
    finally:
        choose(None)
        cluster.kubectl("label", *others, f"{_LABEL}-")
        cluster.await_driver("node")


def test_pods_wait_for_the_driver(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    cluster = namespace.cluster
    before = patches(cluster)
    with without_the_driver(cluster, _NODE):
        # As kubelet's --register-with-taints would have it on a new node.
        cluster.kubectl("taint", "node", _NODE, f"{TAINT_KEY}=:NoSchedule", f"{_OTHER}=:PreferNoSchedule")
        place = {"kubernetes.io/hostname": _NODE}
        namespace.apply(pod("early", claims={"/data": shared}, nodeSelector=place))
        cluster.await_message("early", "untolerated taint", namespace=namespace.name)
        time.sleep(3)
        assert taints(cluster, _NODE) == {TAINT_KEY, _OTHER}, "it was removed without the driver"
    began = time.monotonic()
    wait_until(lambda: TAINT_KEY not in taints(cluster, _NODE), what="the taint to go", limit_s=REMOVED_S_MAX)
    figures["startup taint gone after rollout_s"] = round(time.monotonic() - began, 2)
    assert is_registered(cluster, _NODE)
    assert taints(cluster, _NODE) == {_OTHER}
    namespace.await_pods("early")
    namespace.run("early", "echo here >/data/early && cat /data/early")
    time.sleep(5)
    assert patches(cluster) == before + 1


def test_it_goes_at_once_where_the_driver_is(cluster: Cluster, figures: dict[str, object]) -> None:
    before = patches(cluster)
    restart_operator(cluster)
    began = time.monotonic()
    cluster.kubectl("taint", "node", _NODE, f"{TAINT_KEY}=:NoExecute")
    wait_until(lambda: not taints(cluster, _NODE), what="the taint to go", limit_s=REMOVED_S_MAX, interval_s=0.1)
    figures["startup taint gone after_s"] = round(time.monotonic() - began, 2)
    assert patches(cluster) == before + 1


def test_the_operator_survives_the_api_server(cluster: Cluster, figures: dict[str, object]) -> None:
    def restarts() -> int:
        pods = cluster.objects("pods", namespace=SYSTEM_NAMESPACE, selector="app.kubernetes.io/component=operator")
        return sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods)

    restart_operator(cluster)
    before = patches(cluster)
    restart_api_server(cluster, away_s=10)
    cluster.kubectl("taint", "node", _NODE, f"{TAINT_KEY}=:NoSchedule")
    began = time.monotonic()
    wait_until(lambda: not taints(cluster, _NODE), what="the taint to go", limit_s=60, interval_s=0.1)
    figures["startup taint gone after, API server restarted_s"] = round(time.monotonic() - began, 2)
    assert restarts() == 0
    assert patches(cluster) == before + 1


def restart_operator(cluster: Cluster) -> None:
    """The new one, which has not removed anything in the last minute, watches when this returns."""
    before = watches(cluster)
    cluster.kubectl("-n", SYSTEM_NAMESPACE, "rollout", "restart", "deployment/efc-operator")
    cluster.kubectl(
        "-n", SYSTEM_NAMESPACE, "rollout", "status", "deployment/efc-operator", "--timeout=90s", limit_s=100
    )
    # Nodes and CSINodes, of both pods; those of the ones before ended with them.
    wait_until(lambda: watches(cluster) >= before + 4, what="the operator to watch", limit_s=60, interval_s=0.5)


def restart_api_server(cluster: Cluster, *, away_s: float) -> None:
    script = f"""
        pid=$(pgrep -o -x kube-apiserver)
        cp /proc/$pid/cmdline {cluster.folder}/api-server
        cd {cluster.folder}
        kill $pid
        while [ -e /proc/$pid/exe ]; do sleep 0.1; done
        sleep {away_s}
        setsid xargs -0 -a {cluster.folder}/api-server env </dev/null >>log/kube-apiserver.log 2>&1 &"""
    cluster.on_node("n0", "sh", "-c", script, limit_s=90)
    wait_until(
        lambda: cluster.kubectl("get", "--raw", "/readyz", check=False) == "ok", what="the API server", limit_s=60
    )


def test_what_the_operator_takes(cluster: Cluster, figures: dict[str, object]) -> None:
    """Its memory, and that it may do nothing but what it does."""
    for verb, resource, allowed in (
        ("patch", "nodes", True), ("list", "csinodes", True), ("update", "nodes", False), ("delete", "nodes", False),
        ("get", "secrets", True), ("list", "secrets", False), ("watch", "secrets", False), ("delete", "secrets", False),
        ("list", "pods", True), ("create", "pods", False), ("delete", "pods", False), ("patch", "csinodes", False),
    ):  # fmt: skip
        answer = cluster.kubectl("auth", "can-i", verb, resource, f"--as={_OPERATOR}", check=False).strip()
        assert answer == ("yes" if allowed else "no"), f"{verb} {resource}"
    script = """
        for status in /proc/[0-9]*/status; do
            pid=${status#/proc/}; pid=${pid%/status}
            [ "$(cat /proc/$pid/comm 2>/dev/null)" = efc ] || continue
            tr '\\0' ' ' </proc/$pid/cmdline | grep -q 'efc operator' || continue
            sed -n 's/^VmRSS:[^0-9]*//p;s/^Uid:/uid/p' $status
        done"""
    lines = [line for node in cluster.nodes() for line in cluster.on_node(node, "sh", "-c", script).splitlines()]
    sizes = {int(line.split()[0]) for line in lines if line.endswith("kB")}
    assert sizes
    assert {line.split()[1] for line in lines if line.startswith("uid")} == {"65534"}
    figures["operator_mb"] = round(max(sizes) * 1024 / 1e6, 1)
    assert max(sizes) * 1024 < 100_000_000
