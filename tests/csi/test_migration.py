"""Volumes as csi-driver-nfs has them, through the real driver.

The words themselves: tests/unit/config/test_driver_nfs.py.
"""

from __future__ import annotations

import uuid
from urllib.parse import parse_qs, urlsplit

import grpc

from csi._proto import csi_pb2
from tests.support.driver import Driver, refused
from tests.support.nas import Nas

METADATA = {
    "csi.storage.k8s.io/pvc/namespace": "team-a",
    "csi.storage.k8s.io/pvc/name": "moved",
    "csi.storage.k8s.io/pv/name": "pvc-moved",
}
FLAGS = [
    "vers=3",
    "proto=tcp",
    "hard",
    "nolock",
    "noatime",
    "rsize=1048576",
    "wsize=1048576",
    "timeo=600",
    "nconnect=2",
]


def place(nas: Nas) -> dict[str, str]:
    """`server` and `share` of the NAS, and its ports, which csi-driver-nfs has no words for."""
    url = urlsplit(nas.url)
    ports = {"port": str(url.port), "mountport": parse_qs(url.query)["mountport"][0]}
    return {"server": str(url.hostname), "share": url.path, **ports}


def test_a_class_and_its_volumes(driver: Driver, nas: Nas) -> None:
    how = {
        "subDir": "${pvc.metadata.namespace}/${pvc.metadata.name}",
        "mountPermissions": "02770",
        "onDelete": "archive",
    }
    volume = driver.create(f"pvc-{uuid.uuid4()}", parameters=place(nas) | METADATA | how)
    directory = nas.export_folder() / "team-a" / "moved"
    assert directory.stat().st_mode & 0o7777 == 0o2770
    target = driver.target()
    driver.publish(volume, target, mount_flags=FLAGS)
    (target / "file").write_text("content")
    driver.unpublish(volume, target)
    assert (directory / "file").read_text() == "content"

    static = csi_pb2.Volume(
        volume_id=f"{place(nas)['server']}#export#team-a/moved##",
        volume_context=place(nas)
        | METADATA
        | {"subdir": "team-a/moved", "mountPermissions": "0", "onDelete": "delete"},
    )
    driver.publish(static, target, mount_flags=FLAGS)
    assert (target / "file").read_text() == "content"
    driver.unpublish(static, target)
    driver.delete(static.volume_id)
    assert (directory / "file").read_text() == "content", "it is not a volume that the driver made"

    driver.delete(volume.volume_id)
    kept = [path.parent.name for path in (nas.export_folder() / ".efc" / "archived").rglob("file")]
    assert [name.startswith("team-a-moved-efc-") for name in kept] == [True]


def test_what_cannot_be_had_is_said_where_it_is_seen(driver: Driver, nas: Nas) -> None:
    """At the claim if its class says it, at the pod if a PersistentVolume does."""
    for flag, reason in (("nfsvers=4.1", "NFSv3"), ("sec=krb5", "AUTH_SYS"), ("proto=rdma", "TCP")):
        capability = csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(mount_flags=[flag]),
            access_mode=csi_pb2.VolumeCapability.AccessMode(mode="MULTI_NODE_MULTI_WRITER"),
        )
        request = csi_pb2.CreateVolumeRequest(
            name="refused", volume_capabilities=[capability], parameters=place(nas) | METADATA
        )
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as message:
            driver.call("controller", "CreateVolume", request)
        assert reason in message[0]
        static = csi_pb2.Volume(volume_id="a", volume_context=place(nas))
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as message:
            driver.publish(static, driver.target(), mount_flags=[flag])
        assert reason in message[0]
