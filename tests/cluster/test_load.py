"""Many pods of one volume on one node: how fast they start, what the driver's part is, and what it asks of the API."""

from __future__ import annotations

import json

import pytest

from tests.cluster.cluster import SYSTEM_NAMESPACE, Namespace, pod, timed
from tests.support.processes import wait_until

_PODS = 100


def _driver_requests(namespace: Namespace) -> int:
    """How often a pod of the driver on a node asked the API server anything (its audit log)."""
    count = 0
    accounts = (
        f"system:serviceaccount:{SYSTEM_NAMESPACE}:efc-node",
        f"system:serviceaccount:{SYSTEM_NAMESPACE}:efc-keeper",
    )
    for line in (namespace.cluster.folder / "log" / "audit.jsonl").read_text().splitlines():
        count += json.loads(line)["user"]["username"] in accounts
    return count


@pytest.mark.timeout(600)
def test_a_hundred_pods_of_one_volume(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    names = [f"pod-{number}" for number in range(_PODS)]
    before = _driver_requests(namespace)

    def start() -> None:
        namespace.apply(*(pod(name, claims={"/data": shared}, node="n1") for name in names))
        namespace.await_pods(*names, limit_s=400)

    started_s = timed(start)
    assert len(namespace.cluster.published("n1")) == _PODS
    deleted_s = namespace.delete("pod", *names, limit_s=300)
    wait_until(lambda: not namespace.cluster.published("n1"), what="kubelet to unpublish all", limit_s=60)
    assert _driver_requests(namespace) == before, "the driver's pods on nodes asked the API server"
    figures["100 pods of one volume on one node"] = {"ready_s": round(started_s, 1), "deleted_s": round(deleted_s, 1)}
