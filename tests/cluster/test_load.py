"""What a mount costs in a cluster: calls of the driver, its share of a pod's start, CPU time, API requests.

Calls and requests are limited here; times are figures for people. The share is that of NodePublishVolume, as kubelet
measured it (`csi_operations_seconds`), of the time from a pod's scheduling to its readiness. Beside it stands what
kubelet waited for NodeGetCapabilities, which it asks several times for each mount over a connection that it makes each
time: with a hundred at once that is mostly its own waiting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime

import pytest

from tests.cluster.cluster import DRIVER, SYSTEM_NAMESPACE, Cluster, Namespace, claim, pod, timed
from tests.support.processes import wait_until

_NODE = "n1"
_PODS = 100
_ONE_BY_ONE = 10
_CLAIMS = 20


def _requests(cluster: Cluster, account: str) -> list[str]:
    """`VERB RESOURCE` of all that an account of the driver asked the API server (its audit log)."""
    asked = []
    for line in (cluster.folder / "log" / "audit.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["user"].get("username") == f"system:serviceaccount:{SYSTEM_NAMESPACE}:{account}":
            asked.append(f"{event['verb']} {event.get('objectRef', {}).get('resource', event['requestURI'])}")
    return asked


def _node_requests(cluster: Cluster) -> list[str]:
    return _requests(cluster, "efc-node") + _requests(cluster, "efc-keeper")


def _kubelet_waited_s(cluster: Cluster, method: str = "NodePublishVolume") -> float:
    """Seconds that the node's kubelet has spent in calls of a method of the driver."""
    text = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{_NODE}/proxy/metrics")
    total = 0.0
    for labels, value in re.findall(r"^csi_operations_seconds_sum\{(.*)\} (\S+)$", text, re.MULTILINE):
        if f'driver_name="{DRIVER}"' in labels and f'/{method}"' in labels:
            total += float(value)
    return total


def _publishes(cluster: Cluster) -> dict[str, int]:
    """How often the node's kubelet has called NodePublishVolume of the driver, by status."""
    text = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{_NODE}/proxy/metrics")
    calls: dict[str, int] = {}
    for labels, value in re.findall(r"^csi_operations_seconds_count\{(.*)\} (\S+)$", text, re.MULTILINE):
        if f'driver_name="{DRIVER}"' in labels and '/NodePublishVolume"' in labels:
            (status,) = re.findall(r'grpc_status_code="(\w+)"', labels)
            calls[status] = calls.get(status, 0) + int(float(value))
    return calls


def _driver_cpu_s(cluster: Cluster) -> float:
    """CPU seconds of node plugin, keeper and daemons on the node, and of their children that have ended."""
    script = r"""
        for pid in $(pgrep -x efcd; pgrep -x efc-keeper; pgrep -f 'efc csi node'); do
            [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] || sed 's/.*) //' /proc/$pid/stat
        done; getconf CLK_TCK"""
    *processes, hertz = cluster.on_node(_NODE, "sh", "-c", script).splitlines()
    return sum(int(ticks) for process in processes for ticks in process.split()[11:15]) / int(hertz)


def _start_s(namespace: Namespace, names: Sequence[str]) -> float:
    """Seconds from scheduled to Ready, of all pods together; Kubernetes says whole seconds, which evens out."""
    total = 0.0
    for found in namespace.cluster.objects("pods", namespace=namespace.name):
        if found["metadata"]["name"] in names:
            times = {item["type"]: item["lastTransitionTime"] for item in found["status"]["conditions"]}
            ready, scheduled = (datetime.fromisoformat(times[kind]) for kind in ("Ready", "PodScheduled"))
            total += (ready - scheduled).total_seconds()
    return total


@pytest.mark.timeout(600)
def test_a_hundred_pods_of_one_volume(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    cluster = namespace.cluster
    here = {"kubernetes.io/hostname": _NODE}
    names = [f"pod-{number}" for number in range(_PODS)]
    asked = _node_requests(cluster)
    waited_s, cpu_s, called = _kubelet_waited_s(cluster), _driver_cpu_s(cluster), _publishes(cluster)
    capabilities_s = _kubelet_waited_s(cluster, "NodeGetCapabilities")

    def start() -> None:
        namespace.apply(*(pod(name, claims={"/data": shared}, nodeSelector=here) for name in names))
        namespace.await_pods(*names, limit_s=400)

    ready_s = timed(start)
    assert len(cluster.published(_NODE)) == _PODS
    expected = called | {"OK": called.get("OK", 0) + _PODS}
    assert _publishes(cluster) == expected, "each volume is published by the first call"
    waited_s, cpu_s = _kubelet_waited_s(cluster) - waited_s, _driver_cpu_s(cluster) - cpu_s
    capabilities_s = _kubelet_waited_s(cluster, "NodeGetCapabilities") - capabilities_s
    start_s = _start_s(namespace, names)
    deleted_s = namespace.delete("pod", *names, limit_s=300)
    wait_until(lambda: not cluster.published(_NODE), what="kubelet to unpublish all", limit_s=60)
    assert _node_requests(cluster) == asked, "the driver's pods on nodes asked the API server"
    figures["100 pods of one volume on one node"] = {
        "all_ready_s": round(ready_s, 1), "all_deleted_s": round(deleted_s, 1),
        "start_s": round(start_s / _PODS, 2), "publish_ms_per_pod": round(waited_s / _PODS * 1000, 1),
        "publish_share_of_start": round(waited_s / start_s, 4),
        "capabilities_ms_per_pod": round(capabilities_s / _PODS * 1000, 1),
        "driver_cpu_ms_per_mount": round(cpu_s / _PODS * 1000, 1), "api_requests_of_nodes": 0,
    }  # fmt: skip


@pytest.mark.timeout(300)
def test_pods_one_after_another(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    """Where nothing else is waited for, the driver's share is largest."""
    cluster = namespace.cluster
    names = [f"pod-{number}" for number in range(_ONE_BY_ONE)]
    waited_s, called = _kubelet_waited_s(cluster), _publishes(cluster)
    for name in names:
        namespace.apply(pod(name, claims={"/data": shared}, nodeSelector={"kubernetes.io/hostname": _NODE}))
        namespace.await_pods(name)
    waited_s = _kubelet_waited_s(cluster) - waited_s
    start_s = _start_s(namespace, names)
    figures["10 pods one after another"] = {
        "start_s": round(start_s / len(names), 2), "publish_ms_per_pod": round(waited_s / len(names) * 1000, 1),
        "publish_share_of_start": round(waited_s / start_s, 4),
    }  # fmt: skip
    assert _publishes(cluster) == called | {"OK": called.get("OK", 0) + _ONE_BY_ONE}


def test_requests_of_the_controller(namespace: Namespace, figures: dict[str, object]) -> None:
    """What making volumes costs the API server, watches that are there anyway left out."""
    cluster = namespace.cluster
    storage = namespace.storage_class("nas", source=cluster.nas_url)
    names = [f"claim-{number}" for number in range(_CLAIMS)]
    before = len(_requests(cluster, "efc-controller"))
    began = timed(lambda: namespace.apply(*(claim(name, storage_class=storage) for name in names)))
    bound_s = began + timed(lambda: [namespace.bound_directory(name) for name in names])
    asked = [request for request in _requests(cluster, "efc-controller")[before:] if not request.startswith("watch")]
    figures[f"{_CLAIMS} claims"] = {
        "all_bound_s": round(bound_s, 1), "api_requests_per_volume": round(len(asked) / _CLAIMS, 1),
        "of_these": {request: asked.count(request) for request in sorted(set(asked))},
    }  # fmt: skip
    assert len(asked) / _CLAIMS <= 10, asked
