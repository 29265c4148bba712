"""Attributes of Datasets' volumes, and their Secret."""

from __future__ import annotations

import pytest

from csi.base.errors import Code, DriverError
from csi.config.datasets import DatasetVolume, secrets_of
from csi.config.several import Sources
from csi.config.volumes import NodeVolume

UID = "1e63dbfd-326d-4fab-98e1-e40f2594e3a8"
ATTRIBUTES = {
    "dataset": "ns/demo",
    "master": "10.0.0.1:9810",
    "clean-policy": "OnDemand",
    "fuse-memory-max": "1073741824",
}
CONTEXT = {"source": "nfs://nas/data", "attr-ttl": "5s"}
SECRET = {"block-key": "ab" * 32 + "\n", "ca.crt": "authority", "tls.crt": "certificate", "tls.key": "key"}


def test_a_volume_of_a_dataset() -> None:
    volume = NodeVolume.from_context(f"dataset-{UID}", CONTEXT | ATTRIBUTES, mount_flags=[])
    assert volume.dataset == DatasetVolume(
        uid=UID, name="ns/demo", master="10.0.0.1:9810", stays=False, memory_max=1 << 30
    )  # fmt: skip
    assert volume.dataset.volume_id == volume.id
    assert volume.options.attr_ttl_ms == 5000


def test_only_sources_that_may_change_are_known_by_the_volumes_id() -> None:
    several = {"sources": '[{"path": "/a", "source": "nfs://nas/x"}]'} | ATTRIBUTES
    fixed = NodeVolume.from_context(f"dataset-{UID}", several, mount_flags=[])
    live = NodeVolume.from_context(f"dataset-{UID}", several | {"live-sources": "true"}, mount_flags=[])
    assert isinstance(fixed.source, Sources)
    assert isinstance(live.source, Sources)
    assert (fixed.source.identity, live.source.identity) == ("", live.id)
    assert fixed.dataset is not None
    assert live.dataset is not None
    assert (fixed.dataset.live_sources, live.dataset.live_sources) == (False, True)


def test_what_need_not_be_said() -> None:
    dataset = DatasetVolume.from_attributes(f"dataset-{UID}", {"dataset": "ns/demo", "master": "[fd00::1]:9810"})
    assert dataset is not None
    assert (dataset.stays, dataset.memory_max) == (True, 0)


def test_other_volumes_are_of_none() -> None:
    assert NodeVolume.from_context("v", CONTEXT, mount_flags=[]).dataset is None
    assert NodeVolume.from_context(f"dataset-{UID}", CONTEXT, mount_flags=[]).dataset is None


@pytest.mark.parametrize(
    ("volume_id", "wrong"),
    [
        ("v", {}),
        ("dataset-", {}),
        ("dataset-../x", {}),
        ("dataset-UID", {}),
        (f"dataset-{UID}", {"dataset": "demo"}),
        (f"dataset-{UID}", {"dataset": "../demo"}),
        (f"dataset-{UID}", {"master": ""}),
        (f"dataset-{UID}", {"master": "unix:/x"}),
        (f"dataset-{UID}", {"master": "host"}),
        (f"dataset-{UID}", {"clean-policy": "Never"}),
        (f"dataset-{UID}", {"fuse-memory-max": "1Gi"}),
        (f"dataset-{UID}", {"live-sources": "false"}),
        (f"dataset-{UID}", {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "ns"}),
    ],
)
def test_what_is_wrong_is_refused(volume_id: str, wrong: dict[str, str]) -> None:
    with pytest.raises(DriverError) as raised:
        NodeVolume.from_context(volume_id, CONTEXT | ATTRIBUTES | wrong, mount_flags=[])
    assert raised.value.code in (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)


def test_the_secret() -> None:
    secrets = secrets_of(SECRET)
    assert (secrets.block_key, secrets.authority) == (b"\xab" * 32, b"authority")
    assert (secrets.certificate, secrets.private_key) == (b"certificate", b"key")


@pytest.mark.parametrize("name", SECRET)
def test_a_secret_without_a_key_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(DriverError) as raised:
        secrets_of({key: value for key, value in SECRET.items() if key != name})
    assert name in raised.value.message
    assert not [value for value in SECRET.values() if value.strip() in raised.value.message.split()]


def test_a_key_that_is_none_is_refused_and_not_repeated() -> None:
    with pytest.raises(DriverError) as raised:
        secrets_of(SECRET | {"block-key": "c0ffee"})
    assert "c0ffee" not in raised.value.message
