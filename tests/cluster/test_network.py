"""Daemons in the network of a pod: the NAS sees that pod's address, and when it is replaced that of the next pod."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.cluster import SYSTEM_NAMESPACE, Cluster, Namespace, pod
from tests.cluster.workload import verified_load
from tests.support.processes import wait_until

_NODE = "n1"
_NFS_PORT = 2049


def _daemon(namespace: Namespace) -> int:
    """The node's one daemon in the pod's network, by that network."""
    script = f"""
        network=$(readlink /proc/{_holder(namespace)}/ns/net)
        for pid in $(pgrep -x efcd); do [ "$(readlink /proc/$pid/ns/net)" != "$network" ] || echo $pid; done"""
    (pid,) = namespace.cluster.on_node(_NODE, "sh", "-c", script).split()
    return int(pid)


def _holder(namespace: Namespace) -> int:
    """Process id of `efc-network` on the node: that with the pod's address in its network."""
    for pid in namespace.cluster.on_node(_NODE, "pgrep", "-x", "efc-network").split():
        listing = namespace.cluster.on_node(_NODE, "nsenter", "--net", "--target", pid, "ip", "-brief", "address")
        if f"{_address(namespace)}/" in listing:
            return int(pid)
    raise AssertionError("no efc-network runs there")


def _network_of(namespace: Namespace, pid: int) -> str:
    return namespace.cluster.on_node(_NODE, "readlink", f"/proc/{pid}/ns/net").strip()


def _has_daemon(namespace: Namespace) -> bool:
    """Whether there is one in the network of the present pod."""
    try:
        return bool(_daemon(namespace))
    except ValueError:
        return False


def _has_holder(namespace: Namespace) -> bool:
    try:
        return bool(_holder(namespace))
    except AssertionError:
        return False


def _address(namespace: Namespace) -> str:
    """Of the network pod of the node."""
    pods = namespace.cluster.objects("pods", namespace=SYSTEM_NAMESPACE, selector="app.kubernetes.io/component=network")
    (address,) = (item["status"]["podIP"] for item in pods if item["spec"]["nodeName"] == _NODE)
    return str(address)


def _clients_of_nas(namespace: Namespace) -> set[str]:
    """Addresses that have a connection to the NAS, as its own side of the network sees them."""
    listing = namespace.cluster.on_node("n0", "ss", "-Htn", "state", "established", f"sport = :{_NFS_PORT}")
    return {line.split()[-1].rpartition(":")[0].strip("[]").removeprefix("::ffff:") for line in listing.splitlines()}


@pytest.fixture
def elsewhere(namespace: Namespace) -> str:
    """A claim whose daemon uses the pod's network."""
    (namespace.cluster.nas_folder / namespace.name).mkdir(mode=0o777)
    source = namespace.cluster.nas_url
    namespace.static_volume("elsewhere", source=source, path=namespace.name, options=["network=pod"])
    return "elsewhere"


def test_the_nas_sees_the_pods_address(namespace: Namespace, elsewhere: str) -> None:
    cluster = namespace.cluster
    address = _address(namespace)
    assert address.startswith("10.244.1."), "not the node's own address"
    assert address not in _clients_of_nas(namespace)
    namespace.apply(pod("user", claims={"/data": elsewhere}, node=_NODE))
    namespace.await_pods("user")
    namespace.run("user", "dd if=/dev/urandom of=/data/file bs=1M count=8 2>/dev/null; md5sum /data/file >/data/sum")
    assert address in _clients_of_nas(namespace)
    first = _daemon(namespace)

    # The daemon and the process that holds the network die, and kubelet restarts the latter: the network is the pod's.
    cluster.on_node(_NODE, "kill", "-KILL", str(_holder(namespace)), str(first))
    assert namespace.run("user", "md5sum -c /data/sum").endswith("OK")
    wait_until(lambda: _has_holder(namespace), what="kubelet to restart it", limit_s=60)
    successor = _daemon(namespace)
    assert successor != first
    assert address == _address(namespace)
    assert address in _clients_of_nas(namespace)


@pytest.mark.timeout(400)
def test_daemons_are_moved_when_the_pod_is_replaced(
    namespace: Namespace, elsewhere: str, figures: dict[str, object]
) -> None:
    cluster = namespace.cluster
    wait_until(lambda: not cluster.daemon_mounts(_NODE), what="earlier daemons to be released", limit_s=60)
    with verified_load(namespace, claim=elsewhere, node=_NODE) as report:
        address, network = _address(namespace), _network_of(namespace, _daemon(namespace))
        cluster.restart("network", node=_NODE)
        assert _address(namespace) != address
        assert _network_of(namespace, _holder(namespace)) != network
        wait_until(lambda: _has_daemon(namespace), what="the keeper to move the daemon", limit_s=60)
        wait_until(lambda: _address(namespace) in _clients_of_nas(namespace), what="a connection", limit_s=60)
    figures["network pod replaced"] = vars(report)
    assert report.errors == 0, report


@contextmanager
def without_pods(cluster: Cluster) -> Iterator[None]:
    """No node has a network pod in the block."""
    found = cluster.get("daemonset", "efc-network", namespace=SYSTEM_NAMESPACE)
    assert found is not None, "the chart has it by default"
    ours = {key: found["metadata"][key] for key in ("name", "namespace", "labels")}
    cluster.kubectl("-n", SYSTEM_NAMESPACE, "delete", "daemonset", "efc-network", "--wait")
    try:
        wait_until(
            lambda: not cluster.on_node(_NODE, "sh", "-c", "pgrep -x efc-network || true").strip(), what="its end"
        )
        yield
    finally:
        cluster.apply({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": ours, "spec": found["spec"]})
        cluster.await_driver("network")


def test_without_the_pod_the_events_say_how_to_get_it(namespace: Namespace, elsewhere: str) -> None:
    cluster = namespace.cluster
    with without_pods(cluster):
        # An earlier test's daemon would be shared, whose network is gone: it is kept for a while after its last volume.
        wait_until(lambda: not cluster.daemon_mounts(_NODE), what="earlier daemons to be released", limit_s=60)
        namespace.apply(pod("user", claims={"/data": elsewhere}, node=_NODE))
        namespace.await_message("user", "FailedMount", "no network", "network.enabled=true")
        assert namespace.delete("pod", "user") < 15
