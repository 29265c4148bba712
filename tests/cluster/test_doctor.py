"""`efc doctor` in the containers of a node: what it says there is true."""

from __future__ import annotations

import json

import pytest

from tests.cluster.cluster import SYSTEM_NAMESPACE, Cluster, Namespace, pod
from tests.support.processes import wait_until

NODE = "n1"


def doctor(cluster: Cluster, component: str) -> list[dict[str, str]]:
    """Its findings in the `node` or `keeper` container of NODE."""
    (found,) = (
        pod["metadata"]["name"]
        for pod in cluster.objects(
            "pods", namespace=SYSTEM_NAMESPACE, selector=f"app.kubernetes.io/component={component}"
        )
        if pod["spec"]["nodeName"] == NODE and pod["status"]["phase"] == "Running"
    )
    # It fails when something is wrong, and prints its findings all the same.
    text = cluster.kubectl("-n", SYSTEM_NAMESPACE, "exec", found, "--", "efc", "doctor", "--json", check=False)
    findings: list[dict[str, str]] = json.loads(text)
    return findings


def said(findings: list[dict[str, str]], check: str) -> str:
    return "\n".join(f"{finding['level']} {finding['message']}" for finding in findings if finding["check"] == check)


@pytest.mark.parametrize("component", ["node", "keeper"])
def test_a_node_that_is_well(namespace: Namespace, shared: str, component: str) -> None:
    cluster = namespace.cluster
    namespace.apply(pod("user", claims={"/data": shared}, node=NODE))
    namespace.await_pods("user")
    findings = doctor(cluster, component)
    assert [finding for finding in findings if finding["level"] == "fail"] == []
    assert said(findings, "container").startswith("ok the node plugin" if component == "node" else "ok the keeper")
    assert "ok /run/efc is shared with the node" in said(findings, "propagation")
    (daemon,) = cluster.daemons(NODE)
    assert f"{cluster.nas_url} at /run/efc/mnt/" in said(findings, "mounts")
    assert f"process {daemon} serves it" in said(findings, "mounts")
    checks = {finding["check"] for finding in findings}
    if component == "node":
        assert checks >= {"sockets", "records", "inline"}
        assert "ok /var/lib/kubelet/pods is shared" in said(findings, "propagation")
        assert said(findings, "sockets").count("ok ") == 2
        assert said(findings, "records") == "ok 1 volumes are published, and mounted"
        assert "1 rules" in said(findings, "inline")
    else:
        assert checks >= {"programs", "fuse", "kernel", "capabilities", "fusectl"}


def test_a_daemon_that_died_is_mentioned(namespace: Namespace, shared: str) -> None:
    cluster = namespace.cluster
    namespace.apply(pod("user", claims={"/data": shared}, node=NODE))
    namespace.await_pods("user")
    (daemon,) = cluster.daemons(NODE)
    cluster.on_node(NODE, "kill", "-9", str(daemon))
    namespace.run("user", "ls /data")
    wait_until(lambda: "1 restart " in said(doctor(cluster, "keeper"), "mounts"), what="the restart to be told")


def test_a_node_without_its_keeper(namespace: Namespace, shared: str) -> None:
    """Asked in the node plugin's container while the keeper's pod is on its way back."""
    cluster = namespace.cluster
    keeper = _keeper(cluster)
    cluster.on_node(NODE, "kill", "-STOP", str(keeper))
    try:
        findings = doctor(cluster, "node")
        assert said(findings, "keeper").startswith("fail ")
        (mend,) = (finding["mend"] for finding in findings if finding["check"] == "keeper")
        assert "efc-keeper" in mend
    finally:
        cluster.on_node(NODE, "kill", "-CONT", str(keeper))
    wait_until(lambda: said(doctor(cluster, "node"), "keeper").startswith("ok "), what="the keeper to answer again")


def _keeper(cluster: Cluster) -> int:
    script = """
        for pid in $(pgrep -x efc-keeper); do
            [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] || echo $pid
        done"""
    (pid,) = cluster.on_node(NODE, "sh", "-c", script).split()
    return int(pid)
