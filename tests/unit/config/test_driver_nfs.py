"""StorageClasses and PersistentVolumes of csi-driver-nfs, unchanged but for the driver's name; docs/MIGRATION.md."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from csi._proto import csi_pb2
from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.config.capabilities import flags
from csi.config.mount_options import MountOptions, parse, parse_list
from csi.config.parameters import OnDelete, VolumeParameters
from csi.config.sources import Source
from csi.config.volumes import NodeVolume
from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "MIGRATION.md").read_text()
METADATA = {
    "csi.storage.k8s.io/pvc/namespace": "team-a",
    "csi.storage.k8s.io/pvc/name": "scratch",
    "csi.storage.k8s.io/pv/name": "pvc-1",
}
CLASS = {"server": "nas", "share": "/data"}


def parameters(**given: str) -> VolumeParameters:
    return VolumeParameters.parse(METADATA | CLASS | given)


def attributes(*mount_flags: str, **given: str) -> NodeVolume:
    return NodeVolume.from_context("nas#data#x##", METADATA | CLASS | given, mount_flags=list(mount_flags))


def url(source: Source | None) -> str:
    assert source is not None
    return source.canonical()


def test_storage_class() -> None:
    plain = parameters()
    assert url(plain.source) == "nfs://nas/data"
    assert (plain.path, plain.on_delete, plain.mode, plain.options) == ("pvc-1", OnDelete.DELETE, 0o777, {})
    full = parameters(subDir="/a/${pvc.metadata.namespace}-${pvc.metadata.name}/${pv.metadata.name}/",
                      mountPermissions="02770", onDelete="Archive", mountOptions="nfsvers=3,nconnect=2")  # fmt: skip
    assert full.path == "a/team-a-scratch/pvc-1"
    assert (full.on_delete, full.mode, full.options) == (OnDelete.ARCHIVE, 0o2770, {"connections": "2"})
    small = VolumeParameters.parse({"SERVER": "nas", "Share": "/", "subdir": "x", "onDELETE": "retain"})
    assert (url(small.source), small.path, small.on_delete) == ("nfs://nas/", "x", OnDelete.RETAIN)
    assert parameters(mountPermissions="0", subDir="").mode == 0o777
    assert (
        url(parameters(server="fd00::1").source) == url(parameters(server="[fd00::1]").source) == "nfs://[fd00::1]/data"
    )
    assert url(parameters(port="2050").source) == "nfs://nas:2050/data"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"server": ""}, ["'server'", "host name"]),
        ({"share": ""}, ["'share'", "absolute path"]),
        ({"share": "data"}, ["'data'", "absolute"]),
        ({"share": "/data?mountport=1"}, ["absolute", "?"]),
        ({"share": "/a/../b"}, [".."]),
        ({"server": "nas/x"}, ["'nas/x'", "not a host name"]),
        ({"server": "user@nas"}, ["not a host name"]),
        ({"server": "nas:2049"}, ["port"]),
        ({"subDir": "../x"}, [".."]),
        ({"subDir": "${pvc.uid}"}, ["subDir", "${pvc.uid}", "${pvc.name}"]),
        ({"mountPermissions": "rwx"}, ["mountPermissions", "'rwx'", "octal"]),
        ({"mountPermissions": "99"}, ["octal"]),
        ({"mountPermissions": "9" * 10_000}, ["octal"]),
        ({"onDelete": "wipe"}, ["onDelete", "'wipe'"]),
        ({"mountOptions": "nfsvers=4.1"}, ["this driver speaks NFSv3"]),
        ({"mountOptions": "nconnect=2,nconnect=4"}, ["'nconnect'", "once"]),
        ({"mountOptions": "uid=1000"}, ["'uid'", "mountOptions"]),
        ({"mountOptions": "nolock,pathPattern=x"}, ["'pathPattern'", "mountOptions"]),
        ({"source": "nfs://nas/data"}, ["'source'", "one kind"]),
        ({"pathPattern": "x"}, ["'pathPattern'", "one kind"]),
        ({"SERVER": "other"}, ["twice"]),
        ({"sharr": "x"}, ["'sharr'"]),
    ],
)
def test_bad_classes_are_refused_in_words(given: dict[str, str], words: list[str]) -> None:
    with pytest.raises(DriverError) as caught:
        parameters(**given)
    assert caught.value.code is Code.INVALID_ARGUMENT
    for word in words:
        assert word in caught.value.message
    assert len(caught.value.message) < 1500


def test_persistent_volume() -> None:
    volume = attributes("nfsvers=3", "hard", subdir="team-a/scratch", mountPermissions="0755", onDelete="retain")
    assert (volume.source.canonical(), volume.path, volume.options) == (
        "nfs://nas/data",
        "team-a/scratch",
        MountOptions(),
    )
    assert attributes().path == ""
    assert attributes(subDir="${pvc.metadata.name}").path == "scratch"
    assert attributes(mountOptions="ro,nconnect=2").options == MountOptions(read_only=True, connections=2)
    with pytest.raises(DriverError, match="NFSv3"):
        attributes("nfsvers=4.1")
    with pytest.raises(DriverError, match="contradicts"):
        attributes("nconnect=4", mountOptions="nconnect=2")
    with pytest.raises(DriverError, match=r"\.\."):
        attributes(subdir="../x")
    with pytest.raises(DriverError, match="'shar'"):
        NodeVolume.from_context("x", {"source": "nfs://nas/data", "shar": "y"}, mount_flags=[])


def blocks() -> Iterator[dict[str, Any]]:
    for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL):
        yield from yaml.safe_load_all(text)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in blocks() if manifest["kind"] == kind]


def mount_options(flag_list: list[str]) -> MountOptions:
    capability = csi_pb2.VolumeCapability()
    capability.mount.mount_flags.extend(flag_list)
    return flags(capability)


def test_documented_classes_mean_the_same() -> None:
    classes = of_kind("StorageClass")
    theirs, ours = (VolumeParameters.parse(METADATA | one["parameters"]) for one in classes)
    assert theirs == ours
    assert theirs.path == "team-a/scratch"
    assert mount_options(classes[0]["mountOptions"]) == mount_options(classes[1]["mountOptions"])
    assert {one["provisioner"] for one in classes} == {driver.NAME}


def test_documented_volumes() -> None:
    moved, before, after = of_kind("PersistentVolume")
    csi = moved["spec"]["csi"]
    volume = NodeVolume.from_context(
        csi["volumeHandle"], csi["volumeAttributes"], mount_flags=moved["spec"]["mountOptions"]
    )
    assert (volume.source.canonical(), volume.path) == ("nfs://nas.example.com/data", csi["volumeAttributes"]["subdir"])
    assert volume.options == MountOptions()
    assert (moved["spec"]["csi"]["driver"], after["spec"]["csi"]["driver"]) == (driver.NAME, driver.NAME)
    (claim,) = of_kind("PersistentVolumeClaim")
    assert claim["spec"]["volumeName"] == moved["metadata"]["name"]
    assert moved["spec"]["claimRef"] == {name: claim["metadata"][name] for name in ("namespace", "name")}

    csi = after["spec"]["csi"]
    volume = NodeVolume.from_context(
        csi["volumeHandle"], csi["volumeAttributes"], mount_flags=after["spec"]["mountOptions"]
    )
    kernels = before["spec"]["nfs"]
    assert isinstance(volume.source, Source)
    assert volume.source.beneath(volume.path).canonical() == f"nfs://{kernels['server']}{kernels['path']}"
    assert before["spec"]["mountOptions"] == after["spec"]["mountOptions"]
    assert volume.options == parse(
        parse_list("unprivileged-port,attr-ttl=30s,attr-ttl-max=30s,entry-ttl=30s"), origin=""
    )


def test_documented_inline_volume() -> None:
    (pod,) = of_kind("Pod")
    csi = pod["spec"]["volumes"][0]["csi"]
    context = csi["volumeAttributes"] | {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.namespace": pod["metadata"]["namespace"],
        "csi.storage.k8s.io/pod.uid": "uid",
    }
    target = "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/data/mount"
    volume = NodeVolume.from_context("csi-" + "0" * 64, context, mount_flags=[], target=target)
    assert (csi["driver"], volume.source.canonical(), volume.inline_in) == (
        driver.NAME,
        "nfs://nas.example.com/data",
        "team-a",
    )
    assert volume.options == MountOptions()


def test_documented_command() -> None:
    (line,) = re.findall(r"\$ (efc mount .*)", DOCUMENT)
    _, _, source, _, dash_o, options = shlex.split(line)
    assert dash_o == "-o"
    assert Source.parse(source).canonical() == source
    assert parse(parse_list(options), origin="-o") == parse(parse_list("soft,timeout=30s"), origin="-o")
