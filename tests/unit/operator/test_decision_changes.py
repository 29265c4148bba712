"""What is done for a Dataset that is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from csi.config.several import short_form
from csi.operator.datasets.decision import decide
from csi.operator.datasets.seen import Origin, Probe
from tests.unit.operator.samples import SETTINGS, UID
from tests.unit.operator.seen import (
    BOUND,
    CREATED,
    SOURCE,
    dataset,
    first,
    fresh,
    of_sources,
    runtime,
    said,
    settled,
    several,
    told,
    user,
    with_identity,
)


def test_another_source_waits_for_pods_and_is_refused_meanwhile() -> None:
    bound = dataset(status={"phase": "Bound", "conditions": [BOUND]})
    other = Origin(source="nfs://nas/other")
    seen = settled(dataset=bound, origin=other, probe=Probe(source=other.source), users=(user("app"),))
    decision = decide(seen, SETTINGS)
    assert not decision.deletions
    assert said(decision, "Updating")["status"] == "False"
    assert "app" in said(decision, "Updating")["message"]
    idle = decide(replace(seen, users=()), SETTINGS)
    assert [one.resource for one in idle.deletions] == ["persistentvolumeclaims"]
    assert idle.dataset_status is not None
    assert idle.dataset_status["phase"] == "Updating"


def test_an_address_of_the_service_that_is_lost_is_asked_for_no_more() -> None:
    """Another Service has got it, or the cluster has other ranges by now: it would be refused for ever."""
    settled_before = settled(service=None)
    (service,) = (one for one in decide(settled_before, SETTINGS).objects if one["kind"] == "Service")
    assert service["spec"]["clusterIP"] == "10.96.0.7"
    words = (
        'Service "efc-demo-master" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.7"]: failed to allocate IP '
        "10.96.0.7: provided IP is already allocated"
    )
    refused = replace(
        settled_before, refused={"Service/efc-demo-master": words}, prepared=decide(settled_before, SETTINGS).prepared
    )
    (another,) = (one for one in decide(refused, SETTINGS).objects if one["kind"] == "Service")
    assert "clusterIP" not in another["spec"]
    there = with_identity({**another, "spec": {**another["spec"], "clusterIP": "10.96.0.8"}}, "service")
    assert [one.resource for one in decide(settled(service=there), SETTINGS).deletions] == ["persistentvolumeclaims"]
    used = decide(settled(service=there, users=(user(),)), SETTINGS)
    assert not used.deletions
    assert "the address of the master's Service" in said(used, "Updating")["message"]
    quota = replace(
        settled_before, refused={"Service/efc-demo-master": 'services "efc-demo-master" is forbidden: quota'}
    )
    (asked,) = (one for one in decide(quota, SETTINGS).objects if one["kind"] == "Service")
    assert asked["spec"]["clusterIP"] == "10.96.0.7"


def test_a_refused_source_is_not_the_one_that_is_looked_at() -> None:
    bound = dataset(status={"phase": "Bound", "conditions": [BOUND, {"type": "SourceReachable", "status": "True"}]})
    other = Origin(source="nfs://nas/other")
    seen = settled(dataset=bound, origin=other, probe=Probe(source=other.source, reason="no"), users=(user("app"),))
    decision = decide(seen, SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "Bound"
    assert said(decision, "SourceReachable")["status"] == "True"
    assert decision.master is not None
    assert decision.master.configuration.mounts[0].source == SOURCE


@pytest.mark.parametrize("form", [str, short_form])
def test_mounts_come_and_go_under_pods_until_all_nodes_have_been_told(form: Callable[[str], str]) -> None:
    """Masters of a release before say all of a node's sources."""
    spec = {"mounts": [{"mountPoint": "nfs://nas/x", "path": "/a"}, {"mountPoint": "nfs://nas/y", "name": "b"}]}
    bound = dataset(spec=spec, status={"phase": "Bound", "conditions": [BOUND]})
    both = several(a="nfs://nas/x", b="nfs://nas/y")
    seen = settled(made_of=of_sources(bound, both), users=(user("app"),))
    attributes = seen.volumes[0]["spec"]["csi"]["volumeAttributes"]
    assert (attributes["sources"], "source" in attributes) == (both, False)
    more = several(a="nfs://nas/x", c="nfs://nas/z")
    changed = replace(seen, origin=Origin(source=more), figures=told(form(both)))
    decision = decide(changed, SETTINGS)
    assert decision.dataset_status is not None
    assert (decision.dataset_status["phase"], decision.deletions) == ("Updating", [])
    assert decision.master is not None
    assert [mount.path for mount in decision.master.configuration.mounts] == ["/a", "/c"]
    (volume,) = (one for one in decision.objects if one["kind"] == "PersistentVolume")
    assert volume["metadata"]["annotations"]["efc.data.fluid.io/sources"] == more
    assert volume["spec"]["csi"]["volumeAttributes"]["sources"] == both
    done = decide(replace(changed, figures=told(form(more)), volumes=(with_identity(volume, "volume"),)), SETTINGS)
    assert done.dataset_status is not None
    assert done.dataset_status["phase"] == "Bound"
    # A node that is not there now, or has no daemon, is not waited for.
    gone = told(form(both))
    assert gone.latest is not None
    gone.latest.nodes[0].connected = False
    decision = decide(replace(changed, figures=gone), SETTINGS)
    assert decision.dataset_status is not None
    assert decision.dataset_status["phase"] == "Bound"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (several(a="nfs://nas/other", b="nfs://nas/y"), "the mountPoint at /a"),
        ("nfs://nas/x", "path: /a keeps a single one where it is"),
    ],
)
def test_what_is_at_a_path_does_not_change_under_pods(wanted: str, words: str) -> None:
    spec = {"mounts": [{"mountPoint": "nfs://nas/x", "path": "/a"}, {"mountPoint": "nfs://nas/y", "name": "b"}]}
    bound = dataset(spec=spec, status={"phase": "Bound", "conditions": [BOUND]})
    before = several(a="nfs://nas/x", b="nfs://nas/y")
    seen = settled(made_of=of_sources(bound, before), users=(user("app"),), figures=told(before))
    decision = decide(replace(seen, origin=Origin(source=wanted)), SETTINGS)
    assert said(decision, "Updating")["status"] == "False"
    assert words in said(decision, "Updating")["message"]
    assert decision.master is not None
    assert [mount.path for mount in decision.master.configuration.mounts] == ["/a", "/b"]
    idle = decide(replace(seen, origin=Origin(source=wanted), users=()), SETTINGS)
    assert [one.resource for one in idle.deletions] == ["persistentvolumeclaims"]


def test_options_that_one_daemon_cannot_have_twice_are_refused() -> None:
    mounts = [
        {"mountPoint": "nfs://nas/x", "path": "/a", "options": {"threads": "3"}},
        {"mountPoint": "nfs://nas/y", "path": "/b", "readOnly": True},
    ]
    source = several(a="nfs://nas/x", b="nfs://nas/y")
    decision = decide(first(dataset=dataset(spec={"mounts": mounts}), origin=Origin(source=source)), SETTINGS)
    assert "option 'threads' of the mount at /b is not that of the first one" in said(decision, "Ready")["message"]


def test_a_dataset_does_not_say_in_whose_name_all_is_read() -> None:
    options = {"ro": "true", "consistency": "bounded", "small-files": "0:0"}
    mounts = [{"mountPoint": "nfs://nas/x", "readOnly": True, "options": options}]
    decision = decide(first(dataset=dataset(spec={"mounts": mounts})), SETTINGS)
    assert "'small-files' says in whose name all is read" in said(decision, "Ready")["message"]


def test_what_stands_in_secrets_reaches_nodes_and_no_object() -> None:
    option = {"name": "read-ahead", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    mount = {"mountPoint": "nfs://nas:/data", "options": {"read-ahead": "1MiB"}, "encryptOptions": [option]}
    missing = decide(settled(dataset=dataset(spec={"mounts": [mount]})), SETTINGS)
    assert "there is no Secret 's'" in said(missing, "Ready")["message"]
    decision = decide(settled(dataset=dataset(spec={"mounts": [mount]}), options={"s": {"k": "3MiB"}}), SETTINGS)
    assert decision.master is not None
    assert decision.master.configuration.orders.options["read-ahead"] == "3MiB"
    assert "3MiB" not in str(decision.objects)
    assert "3MiB" not in str(decision.dataset_status)


def test_a_limit_of_memory_is_an_order() -> None:
    """It wins over the option, and nothing is made anew for it."""
    fuse = {"resources": {"limits": {"memory": "1Gi"}}, "properties": {"memory-max": "2GiB"}}
    decision = decide(settled(runtime=runtime(spec={"fuse": fuse})), SETTINGS)
    assert decision.master is not None
    assert decision.master.configuration.orders.options["memory-max"] == "1024MiB"
    assert said(decision, "Updating") == {}


def test_a_damaged_block_key_is_made_anew_and_keeps_nothing_from_being_deleted() -> None:
    seen = settled()
    node = seen.secrets.node
    assert node is not None
    damaged = {**node, "data": {**node["data"], "block-key": "bm90IGhleA=="}}
    decision = decide(replace(seen, secrets=replace(seen.secrets, node=damaged)), SETTINGS)
    (mended,) = (one for one in decision.objects if one["metadata"]["name"] == "efc-demo-efc-node")
    assert mended["data"]["block-key"] != damaged["data"]["block-key"]
    going = replace(seen, dataset=dataset(deletionTimestamp=CREATED), secrets=replace(seen.secrets, node=damaged))
    assert decide(going, SETTINGS).deletions


def test_a_runtime_may_have_a_controller_of_its_users() -> None:
    metadata = decide(fresh(), SETTINGS).runtime_metadata
    assert metadata is not None
    (owner,) = metadata["metadata"]["ownerReferences"]
    assert owner["uid"] == UID
    assert "controller" not in owner
