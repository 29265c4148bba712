"""Volume ids, records on the NAS, StorageClass parameters and volume contexts."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.base.errors import Code, DriverError
from csi.config.parameters import OnDelete, VolumeParameters
from csi.config.pods import Pod
from csi.config.volumes import NodeVolume, VolumeRecord, check_volume_id, is_own_id, volume_id_of

NAMESPACE, CLAIM, VOLUME = (f"csi.storage.k8s.io/{key}" for key in ("pvc/namespace", "pvc/name", "pv/name"))
METADATA = {NAMESPACE: "team", CLAIM: "data-0", VOLUME: "pvc-1"}


@given(st.text(min_size=1, max_size=128))
def test_ids_are_opaque(name: str) -> None:
    try:
        volume_id = volume_id_of(name)
    except DriverError:
        assert not name.isprintable() or len(name.encode(errors="replace")) > 128
        return
    assert re.fullmatch(r"[a-z0-9-]{1,63}", volume_id)
    assert is_own_id(volume_id)
    assert volume_id_of(name) == volume_id


@given(st.text(max_size=80))
def test_any_id_is_accepted_or_refused_clearly(volume_id: str) -> None:
    try:
        assert check_volume_id(volume_id) == volume_id
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT
    assert not is_own_id(volume_id) or re.fullmatch("efc-[0-9a-f]{32}", volume_id)


@pytest.mark.parametrize(
    "volume_id", ["efc-" + "0" * 32 + "\n", "efc-" + "0" * 31, "EFC-" + "0" * 32, "../" + "0" * 33]
)
def test_foreign_ids(volume_id: str) -> None:
    assert not is_own_id(volume_id)


def record(**changes: object) -> VolumeRecord:
    fields: dict[str, object] = {
        "id": volume_id_of("v"), "name": "v", "source": "nfs://nas/data", "path": "team/v", "capacity_bytes": 1,
        "on_delete": "delete", "uid": 0, "gid": 0, "mode": 0o777, "options": {"soft": "true"}, "fileid": 42,
        "created_unix_ns": 1,
    }  # fmt: skip
    return VolumeRecord(**(fields | changes))  # type: ignore[arg-type]


def test_record_survives_the_nas() -> None:
    assert VolumeRecord.from_json(record().to_json(), volume_id=volume_id_of("v")) == record()


@pytest.mark.parametrize(
    "change",
    [{"path": "../x"}, {"path": ""}, {"path": "/x"}, {"path": "a\\..\\b"}, {"source": "nfs://nas/a/../b"},
     {"source": "x"},
     {"source": "nfs://NAS/data"}, {"id": volume_id_of("w")}, {"on_delete": "wipe"}, {"fileid": "42"}, {"fileid": True},
     {"version": 2}, {"options": []}, {"options": {"soft": True}}, {"options": {"soft": "\x1b"}}, {"name": "w"},
     {"options": {"a" * 300: ""}}, {"capacity_bytes": 1 << 63}, {"capacity_bytes": -1}, {"mode": 1 << 40},
     {"options": {"soft": None}}],
)  # fmt: skip
def test_a_record_is_not_taken_on_trust(change: dict[str, object]) -> None:
    text = json.dumps(json.loads(record().to_json()) | change).encode()
    with pytest.raises(DriverError) as caught:
        VolumeRecord.from_json(text, volume_id=volume_id_of("v"))
    assert caught.value.code is Code.INTERNAL


def test_what_a_later_release_adds_to_a_record_does_not_harm() -> None:
    text = json.dumps(json.loads(record().to_json()) | {"more": {"a": [1]}}).encode()
    assert VolumeRecord.from_json(text, volume_id=volume_id_of("v")) == record()


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b" " * (1 << 20), b'{"id": NaN}'])
def test_records_of_no_reasonable_form_are_refused(text: bytes) -> None:
    with pytest.raises(DriverError, match="damaged"):
        VolumeRecord.from_json(text, volume_id=volume_id_of("v"))


@given(st.binary(max_size=100))
def test_damaged_records_are_refused(text: bytes) -> None:
    with pytest.raises(DriverError):
        VolumeRecord.from_json(text, volume_id=volume_id_of("v"))


def test_parameters() -> None:
    parameters = VolumeParameters.parse(
        METADATA
        | {"source": "nfs://nas/data/", "pathPattern": "${pvc.namespace}/x-${pvc.name}/${pv.name}",
           "onDelete": "archive",
           "uid": "1000", "gid": "2000", "mode": "2770", "connections": "8", "csi.storage.k8s.io/fstype": "x"}
    )  # fmt: skip
    assert parameters.path == "team/x-data-0/pvc-1"
    assert (parameters.on_delete, parameters.uid, parameters.gid, parameters.mode) == (
        OnDelete.ARCHIVE,
        1000,
        2000,
        0o2770,
    )
    assert parameters.options == {"connections": "8"}
    assert parameters.source is not None
    assert parameters.source.canonical() == "nfs://nas/data"
    assert VolumeParameters.parse({}).mode == 0o777


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"onDelet": "retain"}, ["'onDelet'", "did you mean 'onDelete'"]),
        ({"onDelete": "Retain"}, ["onDelete", "'Retain'", "delete, retain or archive"]),
        ({"uid": "-1"}, ["uid", "'-1'"]),
        ({"uid": "4294967295"}, ["uid"]),
        ({"gid": "staff"}, ["gid", "'staff'"]),
        ({"mode": "999"}, ["mode", "'999'", "octal"]),
        ({"mode": "rwx"}, ["mode"]),
        ({"consistency": "strong"}, ["consistency", "'strong'", "bounded"]),
        ({"connections": "1,soft"}, ["connections", "1 to 16"]),
        ({"pathPattern": "${pvc.uid}"}, ["${pvc.uid}", "${pvc.name}"]),
        ({"pathPattern": "a/$x"}, ["$"]),
        ({"pathPattern": "../${pvc.name}"}, [".."]),
        ({"pathPattern": "/a"}, ["absolute"]),
        ({"source": "nas:/x"}, ["nfs://"]),
        ({"source": "nfs://nas:1/x", "port": "2"}, ["contradicts"]),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, str], words: list[str]) -> None:
    with pytest.raises(DriverError) as caught:
        VolumeParameters.parse(METADATA | parameters)
    assert caught.value.code is Code.INVALID_ARGUMENT
    for word in words:
        assert word in caught.value.message


def test_pattern_without_metadata_says_how_to_get_it() -> None:
    with pytest.raises(DriverError, match="extra-create-metadata"):
        VolumeParameters.parse({"pathPattern": "${pvc.name}"})


@given(st.text(max_size=30), st.text(max_size=30))
def test_metadata_never_leads_out_of_the_pattern(namespace: str, name: str) -> None:
    try:
        path = VolumeParameters.parse(
            {"pathPattern": "v/${pvc.namespace}/${pvc.name}", NAMESPACE: namespace, CLAIM: name}
        ).path
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT
        return
    assert path.split("/") == ["v", namespace, name]


def node_volume(context: dict[str, str], *flags: str) -> NodeVolume:
    return NodeVolume.from_context("any/handle", context, mount_flags=list(flags))


def test_context() -> None:
    volume = node_volume(
        {"source": "nfs://nas/data", "path": "a/b", "ro": "", "csi.storage.k8s.io/pod.name": "p",
         "storage.kubernetes.io/csiProvisionerIdentity": "1-2-x"},
        "connections=2",
    )  # fmt: skip
    assert (volume.path, volume.options.read_only, volume.options.connections) == ("a/b", True, 2)
    assert node_volume(record().context()).options.soft


_POD = {"pod.uid": "u-1", "pod.namespace": "team-a", "pod.name": "web-0.x"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Pod(namespace="team-a", name="web-0.x")),
        ({"pod.uid": "guessed"}, None),
        ({"pod.uid": ""}, None),
        ({"pod.name": ""}, None),
        ({"pod.name": "x\n"}, None),
        ({"pod.name": "a" * 254}, None),
        ({"pod.namespace": "../x"}, None),
    ],
)
def test_the_pod_by_kubelets_word(said: dict[str, str], expected: Pod | None) -> None:
    """Its uid, which nobody can have known before, tells kubelet's word from an attribute."""
    information = {f"csi.storage.k8s.io/{key}": value for key, value in (_POD | said).items()}
    target = "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/data/mount"
    volume = NodeVolume.from_context("v", {"source": "nfs://nas/data", **information}, mount_flags=[], target=target)
    assert volume.pod == expected


@pytest.mark.parametrize(
    ("context", "flags", "words"),
    [
        ({}, [], ["source"]),
        ({"path": "x"}, [], ["source"]),
        ({"source": "nfs://nas/data", "path": "../x"}, [], [".."]),
        ({"source": "nfs://nas/data", "sorce": "x"}, [], ["'sorce'", "did you mean 'source'"]),
        ({"source": "nfs://nas/data"}, ["ro,soft"], ["'ro,soft'"]),
        ({"source": "nfs://nas/data"}, ["connections=2\nro"], ["connections"]),
        ({"source": "nfs://nas/data", "connections": "3"}, ["connections=2"], ["contradicts"]),
    ],
)
def test_bad_contexts_are_named(context: dict[str, str], flags: list[str], words: list[str]) -> None:
    with pytest.raises(DriverError) as caught:
        node_volume(context, *flags)
    assert caught.value.code is Code.INVALID_ARGUMENT
    for word in words:
        assert word in caught.value.message
