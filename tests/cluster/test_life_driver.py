"""The driver's pods are rolled and deleted, and its daemon is killed, while applications work.

What each costs them is measured: `longest_pause_s` of the loop of workload.py, whose usual turn takes milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.cluster import SYSTEM_NAMESPACE, Cluster, Namespace, pod
from tests.cluster.machines import mounts_of
from tests.cluster.workload import HUNG_S, Report, local_load, verified_load
from tests.support.processes import wait_until

_NODE = "n1"


def _new_pod_works(namespace: Namespace, claim: str) -> None:
    namespace.apply(pod("late", claims={"/data": claim}, node=_NODE))
    namespace.await_pods("late")
    namespace.run("late", "ls /data && echo late >/data/late && cat /data/late")


def _under_load(namespace: Namespace, claim: str, action: Callable[[], object]) -> Report:
    with verified_load(namespace, claim=claim, node=_NODE) as report:
        action()
        _new_pod_works(namespace, claim)
    return report


def test_the_node_plugin_is_restarted(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    report = _under_load(namespace, shared, lambda: namespace.cluster.restart("node", node=_NODE))
    figures["node plugin restarted"] = vars(report)
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report


def test_the_node_plugin_is_rolled(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    def roll() -> None:
        cluster = namespace.cluster
        cluster.kubectl("-n", SYSTEM_NAMESPACE, "rollout", "restart", "daemonset/efc-node")
        cluster.await_driver("node")

    report = _under_load(namespace, shared, roll)
    figures["node plugin rolled"] = vars(report)
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report


@pytest.mark.short
def test_the_keeper_is_deleted(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    """Daemons live in cgroups of their own and outlive it; the next one takes them over."""
    cluster = namespace.cluster
    with verified_load(namespace, claim=shared, node=_NODE) as report, local_load(namespace, node=_NODE) as local:
        daemons = cluster.daemons(_NODE)
        cluster.restart("keeper", node=_NODE)
        assert cluster.daemons(_NODE) == daemons, "daemons ended with their keeper"
    _new_pod_works(namespace, shared)
    figures["keeper deleted"] = {**vars(report), "longest_pause_of_a_local_disk_s": local.longest_pause_s}
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report


def test_node_plugin_and_keeper_are_deleted_at_once(
    namespace: Namespace, shared: str, figures: dict[str, object]
) -> None:
    """What runs goes on; new pods work as soon as both are back."""
    cluster = namespace.cluster

    def delete() -> None:
        daemons = cluster.daemons(_NODE)
        cluster.restart("node", "keeper", node=_NODE)
        assert cluster.daemons(_NODE) == daemons, "daemons ended with their keeper"

    report = _under_load(namespace, shared, delete)
    figures["node plugin and keeper deleted at once"] = vars(report)
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report


@pytest.mark.short
def test_a_daemon_is_killed(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    def kill() -> None:
        cluster = namespace.cluster
        (daemon,) = cluster.daemons(_NODE)
        cluster.on_node(_NODE, "kill", "-KILL", str(daemon))
        wait_until(lambda: set(cluster.daemons(_NODE)) - {daemon}, what="the next daemon", limit_s=60)

    report = _under_load(namespace, shared, kill)
    figures["daemon killed"] = vars(report)
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report


@contextmanager
def _every_daemon_dies(cluster: Cluster) -> Iterator[None]:
    """Kills each daemon of the node as soon as it is there, during the block."""
    stop = f"/tmp/stop-{threading.get_native_id()}"
    script = f"""
        while [ ! -e {stop} ]; do
            for pid in $(pgrep -x efcd); do
                [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] || kill -KILL $pid || true
            done
            sleep 0.05
        done
        rm {stop}"""
    killing = threading.Thread(target=cluster.on_node, args=(_NODE, "sh", "-c", script), kwargs={"limit_s": 200})
    killing.start()
    try:
        yield
    finally:
        cluster.on_node(_NODE, "touch", stop)
        killing.join()


@pytest.mark.timeout(300)
def test_a_daemon_that_dies_again_and_again_says_why(
    namespace: Namespace, shared: str, figures: dict[str, object]
) -> None:
    """Each is killed as soon as it serves: back-off, and the reason in `efc status`, in the condition, in an event."""
    cluster = namespace.cluster
    why = ("was killed by signal 9", "times in a row as soon as it served")
    with verified_load(namespace, claim=shared, node=_NODE) as report:
        with _every_daemon_dies(cluster):
            condition = namespace.await_abnormal("load", *why, limit_s=120)
            (mount,) = mounts_of(cluster, _NODE)
            assert all(part in mount["reason"] for part in why), mount["reason"]
        restarts = mount["restarts"]
        # The last of the waits is 10 s.
        wait_until(
            lambda: mounts_of(cluster, _NODE)[0]["state"] == "serving", what="a daemon that serves", limit_s=20
        )  # fmt: skip
    figures["daemon dies again and again"] = {**vars(report), "restarts": restarts, "condition": condition}
    assert report.errors == 0, report
