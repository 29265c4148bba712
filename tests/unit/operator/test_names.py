"""Names of a Dataset's objects: what Kubernetes takes, whatever the Dataset is called, and nobody else's."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.api.common import ObjectMeta
from csi.operator.names import (
    MASTER_ROLE,
    WORKER_ROLE,
    Names,
    is_our_volume,
    is_owned,
    owner_reference,
)
from tests.unit.operator.samples import unhurried

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
#: A name of an object (IsDNS1123Subdomain): 253 characters as a whole, and no limit between dots.
_PART = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_PART}(\.{_PART})*"
_VALUE = r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]"
LABELS = st.from_regex(_LABEL, fullmatch=True)
#: Of Datasets: of one character to 253.
DATASETS = st.lists(LABELS, min_size=1, max_size=8).map(".".join).filter(lambda name: len(name) <= 253) | st.builds(
    lambda letter, size: letter * size, st.sampled_from("a9"), st.integers(1, 253)
)
UIDS = st.uuids().map(str)
NAMES = st.builds(Names, namespace=LABELS, name=DATASETS, uid=UIDS)


@unhurried
@given(NAMES)
def test_names_are_what_kubernetes_takes(names: Names) -> None:
    for secret in (names.authority, names.node_secret, names.master_secret, names.worker_secret):
        assert re.fullmatch(_SUBDOMAIN, secret)
        assert len(secret) <= 253
    for stateful_set in (names.master, names.workers):
        # RFC 1035 for the Service; pods' names are hosts, and a label has another ten characters (a revision's hash).
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", stateful_set)
        assert len(f"{stateful_set}-0123456789") <= 63
    assert len(names.volume) <= 63
    assert names.claim == names.name


@unhurried
@given(NAMES)
def test_labels_are_what_kubernetes_takes(names: Names) -> None:
    every = [names.pod_labels(role, placement="Shared") for role in (MASTER_ROLE, WORKER_ROLE)]
    for labels in (*every, names.volume_labels(), names.selector(WORKER_ROLE)):
        for key, value in labels.items():
            prefix, slash, name = key.rpartition("/")
            assert re.fullmatch(_VALUE, name)
            assert not slash or re.fullmatch(_SUBDOMAIN, prefix)
            assert re.fullmatch(_VALUE, value)


@unhurried
@given(NAMES, NAMES)
def test_two_datasets_share_no_name(one: Names, other: Names) -> None:
    if one.uid == other.uid:
        return
    assert one.volume != other.volume
    assert one.volume_handle != other.volume_handle
    assert one.selector(WORKER_ROLE) != other.selector(WORKER_ROLE)
    if one.namespace == other.namespace and one.name != other.name:
        secrets = [{name.authority, name.node_secret, name.master_secret, name.worker_secret} for name in (one, other)]
        assert not secrets[0] & secrets[1]
        assert not {one.master, one.workers} & {other.master, other.workers}


def test_datasets_of_one_name_in_two_namespaces_share_nothing_of_the_cluster() -> None:
    one, other = (Names(namespace=text, name="data", uid=str(uuid.uuid4())) for text in ("a", "b"))
    assert one.master == other.master, "in namespaces of their own"
    assert one.volume != other.volume
    assert one.node_label != other.node_label


def test_labels_are_those_that_fluids_documents_select_by() -> None:
    names = Names(namespace="default", name="efc-demo", uid="u-1")
    labels = names.pod_labels(WORKER_ROLE, placement="Exclusive")
    assert labels.items() >= {
        ("app", "efc"), ("release", "efc-demo"), ("role", "efc-worker"), ("fluid.io/dataset", "default-efc-demo"),
        ("fluid.io/dataset-placement", "Exclusive"),
    }  # fmt: skip
    volume = names.volume_labels()
    assert volume["fluid.io/s-default-efc-demo"] == "true"
    assert volume["fluid.io/dataset-id"] == "default-efc-demo"


@pytest.mark.parametrize(
    ("name", "master"),
    [
        ("efc-demo", "efc-demo-master"),
        ("a" * 45, "a" * 45 + "-master"),
        ("a" * 46, "efc-u-1-master"),  # a pod's label would have 64 characters
        ("1st", "efc-u-1-master"),  # a Service begins with a letter
        ("team.data", "efc-u-1-master"),  # a pod's host has no dots
    ],
)
def test_the_uid_stands_in_for_a_name_that_would_not_do(name: str, master: str) -> None:
    assert Names(namespace="default", name=name, uid="u-1").master == master


@unhurried
@given(NAMES)
def test_ports_in_the_network_of_nodes_are_above_those_of_services(names: Names) -> None:
    ports = [names.host_port(role) for role in (MASTER_ROLE, WORKER_ROLE)]
    assert all(20_000 <= port < 30_000 for port in ports)


def test_whose_an_object_is() -> None:
    ours, others = (ObjectMeta(name="data", namespace="default", uid=uid) for uid in ("u-1", "u-2"))
    metadata = {"ownerReferences": [owner_reference("EFCRuntime", ours)]}
    assert is_owned(metadata, ours)
    assert not is_owned(metadata, others)
    assert not is_owned({}, ours)
    names = Names.of(ours)
    csi = {"driver": "efc.csi.data.fluid.io", "volumeHandle": names.volume_handle}
    assert is_our_volume({"spec": {"csi": csi}}, names, driver="efc.csi.data.fluid.io")
    assert not is_our_volume({"spec": {"csi": csi | {"volumeHandle": "x"}}}, names, driver="efc.csi.data.fluid.io")
    assert not is_our_volume({"spec": {"nfs": {}}}, names, driver="efc.csi.data.fluid.io")
