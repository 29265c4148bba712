"""Who may do what in pods: two fsGroups on one volume at once, set-user-ID programs and device nodes on the NAS."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from tests.cluster.cluster import IMAGE, Namespace, pod

RED, BLUE = 5001, 5002


@pytest.mark.parametrize("sub_path", [False, True], ids=["volume", "subPath"])
def test_two_groups_on_one_volume_at_once(namespace: Namespace, shared: str, sub_path: bool) -> None:  # noqa: FBT001
    """Each pod's fsGroup is a supplementary group of its processes; no ownership of the volume is changed for it."""
    folder = namespace.cluster.nas_folder / namespace.name
    for name, group in (("red", RED), ("blue", BLUE)):
        (folder / name).mkdir()
        os.chown(folder / name, 0, group)
        (folder / name).chmod(0o2770)
        security = {"runAsUser": 1000 + group, "runAsGroup": 1000 + group, "fsGroup": group, "runAsNonRoot": True}
        mount = {"subPath": name} if sub_path else None
        namespace.apply(pod(name, claims={"/data": shared}, node="n1", mount=mount, securityContext=security))
    namespace.await_pods("red", "blue")
    for name, other, group in (("red", "blue", RED), ("blue", "red", BLUE)):
        own = "/data" if sub_path else f"/data/{name}"
        namespace.run(name, f"echo {name} >{own}/file && mkdir {own}/deep && echo x >{own}/deep/file && sync")
        assert namespace.run(name, f"stat -c %u:%g {own}/file") == f"{1000 + group}:{group}"
        if not sub_path:
            for attempt in (f"ls /data/{other}", f"cat /data/{other}/file", f"touch /data/{other}/x"):
                assert "Permission denied" in namespace.fails(name, attempt)
        behind = (folder / name).stat()
        assert (behind.st_uid, behind.st_gid, stat.S_IMODE(behind.st_mode)) == (0, group, 0o2770)
    assert folder.stat().st_uid == 0, "fsGroupPolicy None: kubelet changes nothing"
    for name in ("red", "blue"):
        assert (folder / name / "file").read_text() == f"{name}\n"


def test_set_user_id_and_devices_are_inert(namespace: Namespace, shared: str) -> None:
    """Beside a control on the pod's own disk, where both work."""
    folder = namespace.cluster.nas_folder / namespace.name
    os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (folder / "zero").chmod(0o666)
    manifest: Any = pod("user", claims={"/data": shared}, image=IMAGE)
    manifest["spec"]["volumes"].append({"name": "disk", "emptyDir": {}})
    manifest["spec"]["containers"][0]["volumeMounts"].append({"name": "disk", "mountPath": "/disk"})
    namespace.apply(manifest)
    namespace.await_pods("user")
    namespace.run("user", "for place in /disk /data; do cp /usr/bin/id $place/id && chmod 4755 $place/id; done")
    assert (folder / "id").stat().st_mode & stat.S_ISUID, "it is set on the NAS"
    assert namespace.run("user", "setpriv --reuid=1000 --clear-groups /disk/id -u") == "0"
    assert namespace.run("user", "setpriv --reuid=1000 --clear-groups /data/id -u") == "1000"
    namespace.run("user", "mknod /disk/zero c 1 5")
    assert namespace.run("user", "head -c 3 /disk/zero | wc -c") == "3"
    assert namespace.run("user", "stat -c %t:%T /data/zero") == "1:5"
    assert "Permission denied" in namespace.fails("user", "head -c 3 /data/zero")


def test_a_volume_that_may_be_id_mapped(namespace: Namespace) -> None:
    """Option `idmap` with pods that have no user namespace: the daemon knows them all the same, groups included.

    Id-mapped mounts themselves are in tests/conformance/posix: this cluster's containerd 1.6 makes none.
    """
    cluster = namespace.cluster
    folder = cluster.nas_folder / namespace.name
    folder.mkdir()
    os.chown(folder, 0, RED)
    folder.chmod(0o2770)
    namespace.static_volume("data", source=cluster.nas_url, path=namespace.name, options=["idmap"])
    security = {"runAsUser": 1000, "runAsGroup": 1000}
    namespace.apply(
        pod("member", claims={"/data": "data"}, node="n1", securityContext={**security, "fsGroup": RED}),
        pod("stranger", claims={"/data": "data"}, node="n1", securityContext=security),
    )
    namespace.await_pods("member", "stranger")
    namespace.run("member", "echo mine >/data/file && cat /data/file && mkdir /data/deep && ls /data/deep")
    assert ((folder / "file").stat().st_uid, (folder / "file").stat().st_gid) == (1000, RED)
    assert "Permission denied" in namespace.fails("stranger", "ls /data")
