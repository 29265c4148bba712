"""Datasets with several mounts, which come and go while pods use them."""

from __future__ import annotations

import json

from tests.cluster.cluster import Manifest, Namespace, pod
from tests.operator.objects import await_phase, await_said, condition, dataset, get, runtime, source_of
from tests.support.processes import wait_until

ANNOTATION = "efc.data.fluid.io/sources"


def of_mounts(namespace: Namespace, *mounts: Manifest) -> Manifest:
    """A Dataset whose mounts are directories of the test on the NAS, made now."""
    whole, _, query = source_of(namespace).partition("?")
    for mount in mounts:
        (namespace.cluster.nas_folder / namespace.name / mount["mountPoint"]).mkdir(exist_ok=True)
    placed = [{**mount, "mountPoint": f"{whole}/{mount['mountPoint']}?{query}"} for mount in mounts]
    return dataset("demo", "", mounts=placed)


def volume_of(namespace: Namespace) -> Manifest:
    claim = get(namespace, "persistentvolumeclaim", "demo")
    found = namespace.cluster.get("persistentvolume", claim["spec"]["volumeName"])
    assert found is not None
    return found


def in_force(volume: Manifest) -> dict[str, str]:
    """Path -> directory, as nodes are told."""
    found = json.loads(volume["metadata"]["annotations"][ANNOTATION])
    return {one["path"]: one["source"].partition("?")[0].rpartition("/")[2] for one in found}


def test_mounts_come_and_go_under_pods_and_what_is_at_a_path_stays(namespace: Namespace) -> None:
    first, second, third = ({"mountPoint": name, "name": name} for name in ("a", "b", "c"))
    namespace.apply(of_mounts(namespace, first, second), runtime("demo"), pod("user", claims={"/data": "demo"}))
    found = await_phase(namespace, "demo", "Bound")
    assert condition(found, "Ready")["status"] == "True"
    assert [mount["name"] for mount in found["status"]["mounts"]] == ["a", "b"]
    volume = volume_of(namespace)
    assert in_force(volume) == {"/a": "a", "/b": "b"}
    assert "source" not in volume["spec"]["csi"]["volumeAttributes"]

    namespace.apply(of_mounts(namespace, first, third | {"path": "/deep/c", "readOnly": True}))
    wait_until(
        lambda: in_force(volume_of(namespace)) == {"/a": "a", "/deep/c": "c"}, what="the mounts to be told", limit_s=30
    )
    assert volume_of(namespace)["metadata"]["uid"] == volume["metadata"]["uid"]
    assert volume_of(namespace)["spec"] == volume["spec"]
    await_phase(namespace, "demo", "Bound")

    for other, words in (
        (second | {"path": "/a"}, "the mountPoint at /a"),
        (first | {"name": ""}, "path: /a keeps it"),
    ):
        namespace.apply(of_mounts(namespace, other))
        await_said(namespace, "dataset", "demo", "Updating", words, "pod user")
        assert in_force(volume_of(namespace)) == {"/a": "a", "/deep/c": "c"}
    namespace.apply(of_mounts(namespace, first | {"path": "/a"}))
    wait_until(lambda: in_force(volume_of(namespace)) == {"/a": "a"}, what="what is left", limit_s=30)
    await_said(namespace, "dataset", "demo", "Ready", status="True")
    assert volume_of(namespace)["metadata"]["uid"] == volume["metadata"]["uid"]


def test_options_of_one_mount_alone_are_refused(namespace: Namespace) -> None:
    mounts = {"mountPoint": "a", "path": "/a"}, {"mountPoint": "b", "path": "/b", "options": {"threads": "3"}}
    namespace.apply(of_mounts(namespace, *mounts), runtime("demo"))
    await_said(namespace, "dataset", "demo", "Ready", "option 'threads' of the mount at /b", "sharedOptions")


def test_a_mount_that_cannot_be_reached_is_named(namespace: Namespace) -> None:
    made = of_mounts(namespace, {"mountPoint": "a", "path": "/a"}, {"mountPoint": "b", "path": "/b"})
    missing = namespace.cluster.nas_folder / namespace.name / "b"
    missing.rmdir()
    namespace.apply(made, runtime("demo"))
    await_said(namespace, "dataset", "demo", "SourceReachable", f"{namespace.name}/b")
    missing.mkdir()
    await_phase(namespace, "demo", "Bound")
