"""Volumes as users ask for them: claims through a StorageClass, data sets that are there already, users, sub-paths."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import BUSYBOX, Cluster, Namespace, claim, pod
from tests.support.processes import wait_until


def test_every_node_knows_the_driver(cluster: Cluster) -> None:
    for found in cluster.objects("csinodes"):
        drivers = [driver["name"] for driver in found["spec"]["drivers"] or []]
        assert "efc.csi.data.fluid.io" in drivers, found["metadata"]["name"]


@pytest.mark.short
def test_a_stateful_set_on_two_nodes(namespace: Namespace) -> None:
    """Each replica gets a directory of its own, and finds its data again when its pod is replaced."""
    storage = namespace.storage_class(
        "nas", source=namespace.cluster.nas_url, pathPattern="${pvc.namespace}/${pvc.name}"
    )
    template = pod("unused", claims={})["spec"]
    container = {**template["containers"][0], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
    namespace.apply({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"},
        "spec": {
            "serviceName": "web", "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 0, "containers": [container],
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
            }},
            "volumeClaimTemplates": [claim("data", storage_class=storage)],
        },
    })  # fmt: skip
    ready = "--for=jsonpath={.status.readyReplicas}=2"
    namespace.cluster.kubectl("-n", namespace.name, "wait", ready, "--timeout=90s", "statefulset/web", limit_s=100)
    folder = namespace.cluster.nas_folder / namespace.name
    for name in ("web-0", "web-1"):
        namespace.run(name, f"echo of {name} >/data/file && sync /data/file")
        assert (folder / f"data-{name}" / "file").read_text() == f"of {name}\n"
    namespace.delete("pod", "web-0")
    wait_until(lambda: namespace.cluster.get("pod", "web-0", namespace=namespace.name), what="a new web-0", limit_s=30)
    namespace.await_pods("web-0")
    assert namespace.run("web-0", "cat /data/file") == "of web-0"


@pytest.mark.short
def test_many_pods_of_both_nodes_share_a_volume(namespace: Namespace, shared: str) -> None:
    cluster = namespace.cluster
    names = {f"{node}-{number}": node for node in cluster.nodes() for number in range(3)}
    namespace.apply(*(pod(name, claims={"/data": shared}, node=node) for name, node in names.items()))
    namespace.await_pods(*names)
    for name in names:
        namespace.run(name, f"echo {name} >/data/{name}")
    for name in names:
        assert namespace.run(name, "cat /data/*").split() == sorted(names)
    for node in cluster.nodes():
        assert len(cluster.published(node)) == 3
        mounted = cluster.on_node(node, "cat", "/proc/self/mountinfo")
        assert len({line.split()[2] for line in mounted.splitlines() if " - fuse.efc " in line}) == 1, "one daemon"


@pytest.mark.parametrize("place", ["access mode", "claim", "mount", "option"])
def test_read_only_wherever_it_is_said(namespace: Namespace, place: str) -> None:
    """All places that reach the driver: `readOnly` of a PersistentVolume's `csi` is only for drivers that attach."""
    cluster = namespace.cluster
    folder = cluster.nas_folder / namespace.name
    folder.mkdir()
    (folder / "file").write_text("data\n")
    namespace.static_volume(
        "data", source=cluster.nas_url, path=namespace.name,
        mode="ReadOnlyMany" if place == "access mode" else "ReadWriteMany",
        options=["ro"] if place == "option" else [],
    )  # fmt: skip
    read_only = {"readOnly": True}
    namespace.apply(pod(
        "reader", claims={"/data": "data"}, mount=read_only if place == "mount" else None,
        volume=read_only if place == "claim" else None,
    ))  # fmt: skip
    namespace.await_pods("reader")
    assert namespace.run("reader", "cat /data/file") == "data"
    assert "Read-only file system" in namespace.fails("reader", "echo x >/data/file")


def test_read_only_of_a_persistent_volumes_csi_reaches_no_driver_that_does_not_attach(namespace: Namespace) -> None:
    """So it does nothing, as docs/QUICKSTART.md says; when Kubernetes changes that, this test tells."""
    cluster = namespace.cluster
    (cluster.nas_folder / namespace.name).mkdir()
    namespace.static_volume("data", source=cluster.nas_url, path=namespace.name, csi={"readOnly": True})
    namespace.apply(pod("writer", claims={"/data": "data"}))
    namespace.await_pods("writer")
    namespace.run("writer", "echo written >/data/file && sync /data/file")
    assert (cluster.nas_folder / namespace.name / "file").read_text() == "written\n"


def test_read_write_once_pod(namespace: Namespace) -> None:
    """A second pod waits for the first one's end: in the scheduler, and where a node was given to it, at kubelet."""
    storage = namespace.storage_class("nas", source=namespace.cluster.nas_url)
    namespace.apply(claim("data", storage_class=storage, mode="ReadWriteOncePod"))
    namespace.apply(pod("first", claims={"/data": "data"}))
    namespace.await_pods("first")
    namespace.run("first", "echo first >/data/file && sync /data/file")
    found = namespace.cluster.get("pod", "first", namespace=namespace.name)
    assert found is not None
    namespace.apply(
        pod("second", claims={"/data": "data"}), pod("pinned", claims={"/data": "data"}, node=found["spec"]["nodeName"])
    )
    namespace.await_message("second", "FailedScheduling", "ReadWriteOncePod")
    namespace.await_message("pinned", "ReadWriteOncePod access mode and is already in use by another pod")
    namespace.delete("pod", "pinned", "first")
    namespace.await_pods("second")
    assert namespace.run("second", "cat /data/file") == "first"


@pytest.mark.parametrize(("on_delete", "kept"), [("delete", False), ("archive", True), ("retain", True)])
def test_deleting_a_claim(namespace: Namespace, on_delete: str, kept: bool) -> None:  # noqa: FBT001
    cluster = namespace.cluster
    storage = namespace.storage_class("nas", source=cluster.nas_url, onDelete=on_delete)
    namespace.apply(claim("data", storage_class=storage), pod("writer", claims={"/data": "data"}))
    namespace.await_pods("writer")
    namespace.run("writer", "echo precious >/data/file && sync /data/file")
    directory = namespace.bound_directory("data")
    assert (cluster.nas_folder / directory / "file").exists()
    namespace.delete("pod", "writer")
    namespace.delete("persistentvolumeclaim", "data")

    def volumes_left() -> list[str]:
        return [
            found["metadata"]["name"] for found in cluster.objects("persistentvolumes")
            if (found["spec"].get("claimRef") or {}).get("namespace") == namespace.name
        ]  # fmt: skip

    wait_until(lambda: not volumes_left(), what="the volume to be deleted", limit_s=30, interval_s=0.3)
    assert not (cluster.nas_folder / directory).exists() or on_delete == "retain"
    found = [path for path in cluster.nas_folder.rglob("file") if directory.rsplit("/", 1)[-1] in str(path)]
    assert bool(found) == kept, f"after onDelete={on_delete}: {found}"


def test_a_user_with_supplementary_groups(namespace: Namespace) -> None:
    """Rights come from uid, gid and groups; the second group decides here."""
    cluster = namespace.cluster
    storage = namespace.storage_class("nas", source=cluster.nas_url, uid="0", gid="4242", mode="0770")
    namespace.apply(
        claim("data", storage_class=storage),
        pod("member", claims={"/data": "data"}, securityContext={
            "runAsUser": 1000, "runAsGroup": 1000, "supplementalGroups": [4141, 4242],
        }),
        pod("stranger", claims={"/data": "data"}, securityContext={"runAsUser": 1001, "runAsGroup": 1001}),
    )  # fmt: skip
    namespace.await_pods("member", "stranger")
    namespace.run("member", "echo mine >/data/file")
    assert namespace.run("member", "stat -c %u:%g /data/file") == "1000:1000"
    assert "Permission denied" in namespace.fails("stranger", "ls /data")


def test_sub_paths(namespace: Namespace, shared: str) -> None:
    container = {
        "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
        "volumeMounts": [
            {"name": "data", "mountPath": f"/{name}", "subPath": f"deep/{name}"} for name in ("left", "right")
        ],
    }  # fmt: skip
    manifest = pod("user", claims={})
    manifest["spec"].update(
        containers=[container], volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": shared}}]
    )
    namespace.apply(manifest)
    namespace.await_pods("user")
    namespace.run("user", "echo l >/left/file; echo r >/right/file; sync")
    folder = namespace.cluster.nas_folder / namespace.name / "deep"
    assert [(folder / name / "file").read_text() for name in ("left", "right")] == ["l\n", "r\n"]
