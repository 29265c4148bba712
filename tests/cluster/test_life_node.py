"""What happens to nodes: services restarted, an orderly shutdown, the plug pulled, the cable cut.

The first two cost running pods nothing. A node that boots again brings its pods back by itself, and what they had been
told was stored is there; so it is for a pod that takes the place of one on a lost node.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.cluster.cluster import DRIVER, Manifest, Namespace, pod
from tests.cluster.machines import NODE_LOST_S, Node
from tests.cluster.workload import HUNG_S, verified_load
from tests.support.processes import wait_until

_OTHER, _VICTIM = "n1", "n2"
#: Says a number only after it is in the file on the NAS for good, and goes on where its predecessor stopped.
_JOURNAL = r"""
journal=/data/journal.$HOSTNAME
turn=$(tail -n 1 $journal 2>/dev/null || true)
turn=${turn:-0}
while :; do
    turn=$((turn + 1))
    echo $turn >>$journal && sync $journal && echo $turn || exit 1
    sleep 0.02
done
"""


def _journal_pod(claim: str, **spec: Any) -> Manifest:
    return pod("journal", claims={"/data": claim}, command=["sh", "-c", _JOURNAL], restartPolicy="Always", **spec)


def _check_journal(namespace: Namespace, writer: str, acknowledged: int, *, reader: str) -> None:
    """As another pod sees it, every line is there, once and in order, those that were acknowledged above all."""
    assert acknowledged > 50, "too few to prove anything"
    lines = namespace.run(reader, f"cat /data/journal.{writer}").split()
    assert lines == [str(turn) for turn in range(1, len(lines) + 1)], "the journal lost or repeats lines"
    assert len(lines) >= acknowledged, f"{acknowledged} lines were acknowledged, {len(lines)} are there"


def _last_number(text: str) -> int:
    return max((int(word) for word in text.split() if word.isdigit()), default=0)


def _left_on(node: Node) -> Sequence[str]:
    """Mounts of ours, and directories that look as if one were there, below kubelet's folder."""
    leaves = node.run("sh", "-c", "ls -d /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/*/mount 2>/dev/null || true")
    return [*node.cluster.daemon_mounts(node.name), *leaves.split()]


@pytest.mark.parametrize("service", ["kubelet", "containerd"])
def test_a_service_is_restarted(namespace: Namespace, shared: str, figures: dict[str, object], service: str) -> None:
    """The driver stays, or comes back by itself; kubelet knows it again, and new pods start."""
    node = Node(cluster=namespace.cluster, name=_OTHER)
    with verified_load(namespace, claim=shared, node=_OTHER) as report:
        answers_s = node.restart_service(service)
        wait_until(lambda: _is_registered(node), what="kubelet to know the driver", limit_s=60, interval_s=0.5)
        began = time.monotonic()
        namespace.apply(pod("late", claims={"/data": shared}, node=_OTHER))
        namespace.await_pods("late")
        late_s = time.monotonic() - began
        namespace.run("late", "ls /data && echo late >/data/late && cat /data/late")
    figures[f"{service} restarted"] = {
        **vars(report), "answers_after_s": round(answers_s, 1), "new_pod_ready_s": round(late_s, 1)
    }  # fmt: skip
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report


def _is_registered(node: Node) -> bool:
    found = node.cluster.get("csinode", node.name)
    return found is not None and any(driver["name"] == DRIVER for driver in found["spec"]["drivers"] or [])


@pytest.mark.timeout(600)
def test_a_node_is_shut_down(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    """Pods of a Deployment move, nothing hangs in Terminating, and when the driver has ended no dataset is mounted."""
    cluster = namespace.cluster
    node = Node(cluster=cluster, name=_VICTIM)
    with verified_load(namespace, claim=shared, node=_OTHER) as report:
        first = _deploy(namespace, shared)
        acknowledged = _last_number(namespace.logs(first))
        try:
            steps = node.shut_down()
            mounted = cluster.daemon_mounts(_VICTIM)
            waiting = [
                found["metadata"]["name"] for found in cluster.objects("pods", namespace=namespace.name)
                if "deletionTimestamp" in found["metadata"]
            ]  # fmt: skip
            _await_deployment(namespace)
            second, moved_to = _current(namespace)
            node.pull_plug()
        finally:
            if not _is_powered(node):
                node.boot()
            node.uncordon()
        assert mounted == [], "mounted after the driver's end"
        assert waiting == [], "pods hang in Terminating"
        assert moved_to == _OTHER
        namespace.apply(pod("late", claims={"/data": shared}, node=_VICTIM))
        namespace.await_pods("late")
        _check_journal(namespace, first, acknowledged, reader=second)
    figures["node shut down"] = {**vars(report), **steps}
    assert report.errors == 0, report


@pytest.mark.timeout(600)
def test_a_node_loses_its_power(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    """Its pods come back by themselves with what they had been told was stored; the other node's notice nothing."""
    cluster = namespace.cluster
    node = Node(cluster=cluster, name=_VICTIM)
    with verified_load(namespace, claim=shared, node=_OTHER) as report:
        namespace.apply(_journal_pod(shared, nodeName=_VICTIM))
        namespace.await_pods("journal")
        _await_lines(namespace, "journal")
        records = "/run/efc/csi/published"
        assert node.run("ls", records).split(), "no record of what is published, so this proves nothing"
        node.pull_plug()
        began = time.monotonic()
        boot_s = node.boot()
        wait_until(
            lambda: _restarts(namespace, "journal") > 0, what="the pod to run again", limit_s=150, interval_s=0.5
        )
        namespace.await_pods("journal", limit_s=150)
        back_s = time.monotonic() - began
        acknowledged = _last_number(namespace.logs("journal", "--previous"))
        assert len(cluster.published(_VICTIM)) == 1, "its volume is published once"
        assert len(node.run("ls", records).split()) == 1, "records are those of this boot"
        assert len(cluster.daemons(_VICTIM)) == 1
        _await_lines(namespace, "journal", more_than=acknowledged + 20)
        _check_journal(namespace, "journal", acknowledged, reader="load")
        namespace.delete("pod", "journal")
        wait_until(lambda: not cluster.published(_VICTIM), what="kubelet to clean up", limit_s=60, interval_s=0.5)
        assert [leaf for leaf in _left_on(node) if "/kubelet/" in leaf] == [], "leaves are left of the earlier boot"
    figures["node lost its power"] = {
        **vars(report), "node_and_driver_ready_s": round(boot_s, 1), "pod_ready_s": round(back_s, 1)
    }  # fmt: skip
    assert report.errors == 0, report


@pytest.mark.timeout(600)
def test_a_node_is_lost(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    """Its network is gone for good: the pod that takes its pod's place has the data. The node returns, and is clean."""
    cluster = namespace.cluster
    node = Node(cluster=cluster, name=_VICTIM)
    with verified_load(namespace, claim=shared, node=_OTHER) as report:
        first = _deploy(namespace, shared)
        began = time.monotonic()
        with node.cut_off():
            wait_until(
                lambda: _current(namespace)[1] == _OTHER, what="another pod on the other node",
                limit_s=NODE_LOST_S + 60, interval_s=0.5,
            )  # fmt: skip
            noticed_s = time.monotonic() - began
            _await_deployment(namespace)
            ready_s = time.monotonic() - began
            logs = node.run("sh", "-c", f"cat /var/log/pods/{namespace.name}_{first}_*/main/*.log")
            acknowledged = _last_number(" ".join(line.split()[-1] for line in logs.splitlines()))
            _check_journal(namespace, first, acknowledged, reader=_current(namespace)[0])
        wait_until(lambda: not cluster.daemon_mounts(_VICTIM), what="the returned node to be clean", limit_s=120)
        wait_until(
            lambda: len(cluster.objects("pods", namespace=namespace.name, selector="app=journal")) == 1,
            what="the old pod to go", limit_s=60, interval_s=0.5,
        )  # fmt: skip
    figures["node lost"] = {
        **vars(report), "noticed_s": round(noticed_s, 1), "pod_ready_elsewhere_s": round(ready_s, 1)
    }  # fmt: skip
    assert report.errors == 0, report


# ------------------------------------------------------------ a pod that moves


def _deployment(claim: str) -> Manifest:
    """One pod that would rather be on the victim than on the other, and leaves a node as soon as that is not Ready."""
    gone = [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}
        for state in ("not-ready", "unreachable")
    ]  # fmt: skip
    one_of = {
        nodes: {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [*nodes]}]}
        for nodes in ((_VICTIM,), (_VICTIM, _OTHER))
    }
    spec = _journal_pod(claim)["spec"] | {
        "tolerations": gone, "terminationGracePeriodSeconds": 2,
        "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [one_of[_VICTIM, _OTHER]]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": one_of[_VICTIM,]}],
        }},
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "journal"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "journal"}},
            "template": {"metadata": {"labels": {"app": "journal"}}, "spec": spec},
        },
    }  # fmt: skip


def _await_deployment(namespace: Namespace) -> None:
    status = ("rollout", "status", "deployment/journal", "--timeout=90s")
    namespace.cluster.kubectl("-n", namespace.name, *status, limit_s=100)


def _deploy(namespace: Namespace, claim: str) -> str:
    """The name of the Deployment's pod, which works on the victim."""
    namespace.apply(_deployment(claim))
    _await_deployment(namespace)
    name, node = _current(namespace)
    assert node == _VICTIM
    _await_lines(namespace, name)
    return name


def _await_lines(namespace: Namespace, pod: str, *, more_than: int = 50) -> None:
    wait_until(lambda: _last_number(namespace.logs(pod)) > more_than, what="the journal to grow", limit_s=60)


def _current(namespace: Namespace) -> tuple[str, str]:
    """Name and node of the Deployment's one pod that is not being deleted; ("", "") while there is none."""
    pods = [
        found for found in namespace.cluster.objects("pods", namespace=namespace.name, selector="app=journal")
        if "deletionTimestamp" not in found["metadata"]
    ]  # fmt: skip
    return (pods[0]["metadata"]["name"], pods[0]["spec"].get("nodeName", "")) if len(pods) == 1 else ("", "")


def _restarts(namespace: Namespace, name: str) -> int:
    found = namespace.cluster.get("pod", name, namespace=namespace.name)
    assert found is not None
    return sum(status["restartCount"] for status in found["status"].get("containerStatuses", []))


def _is_powered(node: Node) -> bool:
    try:
        node.run("true")
    except subprocess.CalledProcessError:
        return False
    return True
