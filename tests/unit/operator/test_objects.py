"""The objects of a Dataset: what is wanted of each, from what its Dataset and its runtime say."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.api.quantities import bytes_of
from csi.base.errors import DriverError
from csi.base.workers import process_memory_mib
from csi.cli.parsing import parser
from csi.config.mount_options import parse
from csi.config.volumes import NodeVolume
from csi.operator.names import APPLIED_ANNOTATION, LINE_ANNOTATION, Names
from csi.operator.objects.pods import port_of
from csi.operator.objects.settings import Settings
from csi.operator.objects.wanted import Wanted, applied_hash, wanted_objects
from tests.unit.operator.samples import (
    MEMORY,
    RUNTIME_UID,
    SERVICE,
    SETTINGS,
    UID,
    dataset,
    known,
    pseudo_random,
    runtime,
    unhurried,
)
from tests.unit.operator.test_names import DATASETS, LABELS, UIDS

_MIB = 1 << 20
#: What the level `restricted` of Pod Security allows a pod's volumes to be.
_RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def _wanted(
    of_dataset: dict[str, Any] | None = None,
    *,
    settings: Settings = SETTINGS,
    before: Wanted | None = None,
    **spec: Any,
) -> Wanted:
    """Of the quick start, but for what is said of the Dataset and the runtime."""
    return wanted_objects(dataset(**of_dataset or {}), runtime(**spec), settings, known=known(before))


def _pod(stateful_set: dict[str, Any]) -> dict[str, Any]:
    return stateful_set["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def _container(stateful_set: dict[str, Any]) -> dict[str, Any]:
    (container,) = _pod(stateful_set)["containers"]
    return container  # type: ignore[no-any-return]


def _attributes(wanted: Wanted) -> dict[str, str]:
    assert wanted.volume
    return wanted.volume["spec"]["csi"]["volumeAttributes"]  # type: ignore[no-any-return]


def _levels(*levels: dict[str, Any]) -> dict[str, Any]:
    return {"tieredstore": {"levels": list(levels)}}


def _refusal(of_dataset: dict[str, Any] | None = None, **spec: Any) -> str:
    with pytest.raises(DriverError) as refused:
        _wanted(of_dataset, **spec)
    return refused.value.message


def _breaches_of_restricted(pod: dict[str, Any]) -> list[str]:
    """What Pod Security's level `restricted` has against a pod (kubernetes.io: Pod Security Standards)."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    context = pod["securityContext"]
    if not context.get("runAsNonRoot") or context.get("runAsUser") == 0:
        found.append("root")
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("seccompProfile")
    found += [kind for volume in pod["volumes"] for kind in volume if kind not in _RESTRICTED_VOLUMES | {"name"}]
    for container in pod["containers"]:
        own = container["securityContext"]
        if own["allowPrivilegeEscalation"] or own["capabilities"] != {"drop": ["ALL"]} or own.get("privileged"):
            found.append("privileges")
        found += ["hostPort" for port in container["ports"] if port.get("hostPort")]
    return found


def test_the_quick_start() -> None:
    wanted = _wanted()
    assert [one["kind"] for one in wanted.objects()] == [
        "Secret", "Secret", "Secret", "Secret", "Service", "PersistentVolume", "PersistentVolumeClaim", "StatefulSet",
        "StatefulSet",
    ]  # fmt: skip
    assert wanted.master["metadata"]["name"] == "efc-demo-master"
    assert wanted.workers["metadata"]["name"] == "efc-demo-worker"
    assert wanted.workers["spec"]["replicas"] == 3
    assert wanted.workers["spec"]["podManagementPolicy"] == "Parallel"
    assert wanted.cache.quota_bytes == 15 << 30
    assert wanted.claim["metadata"]["name"] == "efc-demo"
    assert wanted.claim["spec"] == {
        "accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "100Pi"}}, "storageClassName": "fluid",
        "volumeMode": "Filesystem", "volumeName": f"efc-dataset-{UID}",
    }  # fmt: skip
    assert wanted.volume
    assert wanted.volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert wanted.volume["spec"]["claimRef"].items() >= {("namespace", "default"), ("name", "efc-demo")}
    assert _attributes(wanted) == {
        "source": "nfs://nas/data", "dataset": "default/efc-demo", "master": "10.96.0.7:9810", "network": "pod",
        "clean-policy": "OnRuntimeDeleted", "consistency": "bounded", "ro": "true", "attr-ttl": "3s",
    }  # fmt: skip
    assert not wanted.needs_new_volume


def test_everything_but_the_volume_belongs_to_the_runtime_and_nothing_is_fluids() -> None:
    for one in _wanted().objects():
        owners = [owner["uid"] for owner in one["metadata"].get("ownerReferences", ())]
        assert owners == ([] if one["kind"] == "PersistentVolume" else [RUNTIME_UID]), (
            "what owns it is of its namespace"
        )
        assert "CreatedBy" not in one["metadata"]["annotations"]
        bare = json.loads(json.dumps(one))
        mark = bare["metadata"].pop("annotations")[APPLIED_ANNOTATION]
        assert mark == applied_hash(bare)


def test_what_is_wanted_does_not_change_by_being_there() -> None:
    before = _wanted()
    assert _wanted(before=before) == before


def test_it_depends_on_nothing_but_its_arguments() -> None:
    one, other = (
        wanted_objects(dataset(), runtime(), SETTINGS, known=known(random=pseudo_random(1))) for _ in range(2)
    )
    assert [part for part in one.objects() if part["kind"] != "Secret"] == [
        part for part in other.objects() if part["kind"] != "Secret"
    ]
    assert one.node_secret["data"]["tls.key"] == other.node_secret["data"]["tls.key"]


@unhurried
@given(DATASETS, LABELS, UIDS, st.integers(0, 9))
def test_whatever_a_dataset_is_called(name: str, namespace: str, uid: str, replicas: int) -> None:
    of_dataset = dataset(name=name, namespace=namespace, uid=uid)
    of_runtime = runtime(name=name, namespace=namespace, replicas=replicas)
    wanted = wanted_objects(of_dataset, of_runtime, SETTINGS, known=known())
    for stateful_set in (wanted.master, wanted.workers):
        template = stateful_set["spec"]["template"]
        assert stateful_set["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert stateful_set["spec"]["serviceName"] == wanted.service["metadata"]["name"]
    own = wanted.master["spec"]["template"]["metadata"]["labels"]
    leader = {"data.fluid.io/efc-leader": "true"}
    assert wanted.service["spec"]["selector"].items() <= {**own, **leader}.items()
    workers = wanted.workers["spec"]["template"]["metadata"]["labels"]
    assert not wanted.master["spec"]["selector"]["matchLabels"].items() <= workers.items()
    secrets = {one["metadata"]["name"] for one in wanted.objects() if one["kind"] == "Secret"}
    for stateful_set in (wanted.master, wanted.workers):
        (tls,) = [volume for volume in _pod(stateful_set)["volumes"] if "secret" in volume]
        assert tls["secret"]["secretName"] in secrets
    assert wanted.volume
    assert wanted.volume["spec"]["csi"]["nodePublishSecretRef"]["name"] in secrets
    assert wanted.volume["metadata"]["name"] == wanted.claim["spec"]["volumeName"]


def test_labels_of_users_stand_but_for_ours() -> None:
    labels = {"team": "a", "role": "mine", "app": "mine"}
    annotations = {"prometheus.io/scrape": "true"}
    everybody = {"labels": {"team": "all", "tier": "cache"}, "annotations": {}}
    wanted = _wanted(podMetadata=everybody, worker={"podMetadata": {"labels": labels, "annotations": annotations}})
    metadata = wanted.workers["spec"]["template"]["metadata"]
    assert metadata["labels"].items() >= {("team", "a"), ("tier", "cache"), ("role", "efc-worker"), ("app", "efc")}
    assert metadata["annotations"].items() >= annotations.items()
    assert wanted.master["spec"]["template"]["metadata"]["labels"]["team"] == "all"


def test_pods_pass_restricted_and_can_write_nowhere() -> None:
    wanted = _wanted(**_levels(MEMORY, {"mediumtype": "SSD", "volumeType": "emptyDir", "path": "/c", "quota": "64Gi"}))
    for stateful_set in (wanted.master, wanted.workers):
        assert _breaches_of_restricted(_pod(stateful_set)) == []
        assert _container(stateful_set)["securityContext"]["readOnlyRootFilesystem"]
        assert _pod(stateful_set)["automountServiceAccountToken"] is False
        assert {"readinessProbe", "livenessProbe"} <= _container(stateful_set).keys()


@pytest.mark.parametrize("limit", ["64Mi", "1Ti", "2Ti", "1Ei", "8Ei", "1e18"])
def test_any_limit_of_memory_is_one_that_nodes_take(limit: str) -> None:
    fuse = {"resources": {"limits": {"memory": limit}}}
    volume = wanted_objects(dataset(), runtime(fuse=fuse), SETTINGS, known=known()).volume
    assert volume is not None
    csi = volume["spec"]["csi"]
    published = NodeVolume.from_context(csi["volumeHandle"], csi["volumeAttributes"], mount_flags=[])
    assert published.dataset is not None
    parse([("memory-max", f"{published.dataset.memory_max >> 20}MiB")], origin="orders")


def test_a_worker_is_ready_when_its_memory_is_set_aside_and_holds_nothing() -> None:
    container = _container(_wanted().workers)
    probe = container["readinessProbe"]
    assert "tcpSocket" not in probe
    assert f"--ready-file={probe['exec']['command'][-1]}" in container["args"]
    assert any(probe["exec"]["command"][-1].startswith(f"{mount['mountPath']}/") for mount in container["volumeMounts"])


def test_who_needs_more_than_restricted() -> None:
    disks = _wanted(**_levels({"mediumtype": "HDD", "path": "/data", "quota": "64Gi"}))
    assert _breaches_of_restricted(_pod(disks.workers)) == ["root", "hostPath"]
    assert _breaches_of_restricted(_pod(disks.master)) == []
    node = {"networkMode": "HostNetwork"}
    both = _wanted(master=node, worker=node)
    assert [_breaches_of_restricted(_pod(one)) for one in (both.master, both.workers)] == [["hostNetwork"]] * 2


def test_the_command_lines_are_those_that_the_command_has() -> None:
    levels = _levels(MEMORY, {"mediumtype": "SSD", "path": "/ssd/a,/ssd/b", "quotaList": "100Gi,200Gi"})
    arguments = _container(_wanted(**levels).workers)["args"]
    parsed = parser().parse_args([text.replace("$(POD_ADDRESS)", "fd00::7") for text in arguments])
    assert parsed.memory == 15 * 1024
    assert [size for _, size in parsed.disk] == [100 * 1024, 200 * 1024]
    assert parsed.listen == "[fd00::7]:11211"
    assert str(parsed.tls_ca) == "/etc/efc/tls/ca.crt"
    mounted = {mount["mountPath"] for mount in _container(_wanted(**levels).workers)["volumeMounts"]}
    written = {str(directory) for directory, _ in parsed.disk} | {str(parsed.ready_file.parent)}
    assert written | {"/etc/efc/tls"} == mounted


@unhurried
@given(st.integers(64, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_worker_has_the_memory_that_it_needs(memory: int, disk: int, own: int) -> None:
    levels = [{"mediumtype": "MEM", "quota": f"{memory}Mi"}]
    if disk >= 64:
        levels.append({"mediumtype": "SSD", "volumeType": "emptyDir", "quota": f"{disk}Mi"})
    resources = {"requests": {"cpu": "2", "memory": "1Mi"}, "limits": {"memory": f"{own}Mi"}} if own else {}
    wanted = _wanted(worker={"resources": resources}, **_levels(*levels))
    found = _container(wanted.workers)["resources"]
    assert found["requests"]["memory"] == found["limits"]["memory"]
    size = bytes_of(found["limits"]["memory"])
    assert size == (process_memory_mib(memory, disk if disk >= 64 else 0) + own) * _MIB
    assert size > wanted.cache.memory_mib * _MIB
    assert found["requests"].get("cpu") == ("2" if own else None)
    assert bytes_of(found["requests"].get("ephemeral-storage", 0)) == wanted.cache.disk_mib * _MIB


@pytest.mark.parametrize(
    ("levels", "quota", "disks"),
    [
        ([], "1Gi", []),
        ([{"mediumtype": "MEM", "path": "/a,/b", "quota": "4Gi"}], "4Gi", []),
        ([{"mediumtype": "MEM", "volumeType": "emptyDir", "path": "/a,/b", "quotaList": "1Gi,2Gi"}], "3Gi", []),
        ([MEMORY, {"mediumtype": "HDD", "path": "/h/", "quota": 1 << 40}], f"{15 + 1024}Gi", ["/h"]),
        ([{"mediumtype": "SSD", "path": "/a,/b", "quota": "10Gi"}], "10Gi", ["/a", "/b"]),
        ([{"mediumtype": "SSD", "volumeType": "emptyDir", "path": "/a", "quota": "10Gi"}], "10Gi", [""]),
    ],
)  # fmt: skip
def test_levels(levels: list[dict[str, Any]], quota: str, disks: list[str]) -> None:
    wanted = _wanted(**_levels(*levels))
    assert wanted.cache.quota_bytes == bytes_of(quota)
    assert [disk.directory for disk in wanted.cache.disks] == disks
    volumes = [volume.get("hostPath", {}).get("path", "") for volume in _pod(wanted.workers)["volumes"][2:]]
    assert volumes == disks


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ({"quota": "63Mi"}, "spec.tieredstore.levels[0]: the quota is 63Mi: 64Mi or more"),
        ({"path": "/a,/b", "quota": "100Mi"}, "is 50Mi: 64Mi or more is needed for each path"),
        ({"quota": ""}, "spec.tieredstore.levels[0].quota is missing: say how much, for example 15Gi"),
        ({"quota": "15GB"}, "spec.tieredstore.levels[0].quota: '15GB' is not a quantity"),
        ({"path": "/a", "quotaList": "1Gi,2Gi"}, "levels[0].quotaList has 2 quotas, and path 1 paths"),
        ({"mediumtype": "SSD", "path": "cache"}, "spec.tieredstore.levels[0].path 'cache' is not the absolute path"),
        ({"mediumtype": "SSD", "path": ""}, "is not the absolute path"),
        ({"mediumtype": "SSD", "path": "/"}, "is not the absolute path"),
        ({"mediumtype": "SSD", "path": "/a/../etc"}, "contains '..'"),
    ],
)
def test_levels_that_cannot_be_are_refused(level: dict[str, Any], words: str) -> None:
    assert words in _refusal(**_levels({**MEMORY, **level}))


@pytest.mark.parametrize(
    ("spec", "masters", "workers"),
    [
        ({}, 1, 3),
        ({"replicas": 0}, 1, 0),
        ({"worker": {"disabled": True}}, 1, 0),
        ({"replicas": 2, "worker": {"replicas": 7}}, 1, 2),
        ({"master": {"replicas": 3}}, 3, 3),
        ({"master": {"replicas": 9}}, 3, 3),
    ],
)
def test_replicas(spec: dict[str, Any], masters: int, workers: int) -> None:
    wanted = _wanted(**spec)
    assert (wanted.master["spec"]["replicas"], wanted.workers["spec"]["replicas"]) == (masters, workers)


def _selects(term: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether an affinity's term is about pods with these labels."""
    assert term["namespaceSelector"] == {}, "in all namespaces"
    assert term["topologyKey"] == "kubernetes.io/hostname"
    for rule in term["labelSelector"]["matchExpressions"]:
        if rule["operator"] == "Exists" and rule["key"] not in labels:
            return False
        if rule["operator"] == "In" and labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def _keeps_apart(stateful_set: dict[str, Any], other: dict[str, Any]) -> bool:
    terms = _pod(stateful_set)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return any(_selects(term, other["spec"]["template"]["metadata"]["labels"]) for term in terms)


@pytest.mark.parametrize("namespace", ["default", "other"])
@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [("Shared", "Shared", False), ("Shared", "Exclusive", True), ("Exclusive", "Shared", True), ("", "", True)],
)
def test_no_node_has_two_workers_of_which_one_is_exclusive(
    one: str, other: str, namespace: str, *, apart: bool
) -> None:
    ours = _wanted({"placement": one})
    theirs = wanted_objects(
        dataset(name="theirs", namespace=namespace, uid="u-2", placement=other),
        runtime(name="theirs", namespace=namespace, uid="r-2"),
        SETTINGS,
        known=known(),
    )
    assert _keeps_apart(ours.workers, theirs.workers) is apart
    assert not _keeps_apart(ours.workers, theirs.master)
    assert _keeps_apart(ours.workers, ours.workers) is (one != "Shared")


def test_where_pods_may_be() -> None:
    selector = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}
    toleration = {"key": "gpu", "operator": "Exists"}
    spec = {"nodeAffinity": {"required": selector}, "tolerations": [toleration]}
    wanted = _wanted(spec, worker={"nodeSelector": {"disk": "fast"}})
    affinity = _pod(wanted.workers)["affinity"]
    assert affinity["nodeAffinity"] == {"requiredDuringSchedulingIgnoredDuringExecution": selector}
    assert _pod(wanted.workers)["tolerations"] == _pod(wanted.master)["tolerations"] == [toleration]
    assert _pod(wanted.workers)["nodeSelector"] == {"kubernetes.io/os": "linux", "disk": "fast"}
    assert "affinity" not in _pod(wanted.master)
    (preferred,) = affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert _selects(preferred["podAffinityTerm"], wanted.workers["spec"]["template"]["metadata"]["labels"])
    assert "podAffinity" not in _pod(_wanted({"placement": "Exclusive"}).workers)["affinity"]


def test_in_the_network_of_nodes_each_dataset_has_ports_of_its_own() -> None:
    node = {"networkMode": "HostNetwork"}
    spec = runtime(master=node, worker=node)
    wanted = wanted_objects(dataset(), spec, SETTINGS, known=known())
    names = Names.of(dataset().metadata)
    port = names.host_port("efc-worker")
    assert port_of(spec.spec.worker, "efc-worker", names) == port
    assert _container(wanted.workers)["ports"][0]["containerPort"] == port
    assert any(argument.endswith(f":{port}") for argument in _container(wanted.workers)["args"])
    assert wanted.service["spec"]["ports"][0]["targetPort"] == names.host_port("efc-master")
    assert wanted.service["spec"]["ports"][0]["port"] == 9810, "volumes know it"


def test_until_the_service_has_an_address_there_is_no_volume() -> None:
    services: list[dict[str, Any] | None] = [None, {"spec": {}}]
    for service in services:
        wanted = wanted_objects(dataset(), runtime(), SETTINGS, known=known(service=service))
        assert wanted.volume is None
        assert "PersistentVolume" not in [one["kind"] for one in wanted.objects()]


def test_a_service_that_was_deleted_gets_its_address_again() -> None:
    before = _wanted()
    wanted = wanted_objects(dataset(), runtime(), SETTINGS, known=known(before, service=None))
    assert wanted.service["spec"]["clusterIP"] == "10.96.0.7"
    assert wanted.volume == before.volume
    assert "clusterIP" not in before.service["spec"]


def test_addresses_of_ipv6_are_written_with_brackets() -> None:
    service = {"spec": {"clusterIP": "fd00::7"}}
    wanted = wanted_objects(dataset(), runtime(), SETTINGS, known=known(service=service))
    assert _attributes(wanted)["master"] == "[fd00::7]:9810"
    again = wanted_objects(dataset(), runtime(), SETTINGS, known=known(wanted, service=None))
    assert again.service["spec"]["clusterIP"] == "fd00::7"


_CHANGES: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({"sharedOptions": {"read-ahead": "1MiB"}}, {}, ()),
    ({"sharedOptions": {"threads": "4"}}, {}, ()),
    ({"sharedOptions": {"consistency": "sealed"}}, {}, ("option consistency",)),
    ({"accessModes": ["ReadWriteMany"]}, {}, ("spec.accessModes", "option consistency", "option ro")),
    (
        {"annotations": {"pvc.fluid.io/resources.requests.storage": "1Gi"}},
        {},
        ("annotation pvc.fluid.io/resources.requests.storage",),
    ),
    ({}, {"fuse": {"networkMode": "HostNetwork"}}, ("option network",)),
    ({}, {"fuse": {"networkMode": "ContainerNetwork", "nodeSelector": {"a": "b"}}}, ("spec.fuse.nodeSelector",)),
    ({}, {"fuse": {"networkMode": "ContainerNetwork", "cleanPolicy": "OnDemand"}}, ()),
    (
        {},
        {"fuse": {"networkMode": "ContainerNetwork", "resources": {"limits": {"memory": "1Gi"}}}},
        (),
    ),
]


@pytest.mark.parametrize(("of_dataset", "of_runtime", "needs_new"), _CHANGES)
def test_a_volume_that_is_there_never_changes(
    of_dataset: dict[str, Any], of_runtime: dict[str, Any], needs_new: tuple[str, ...]
) -> None:
    before = _wanted()
    wanted = _wanted(of_dataset, before=before, **of_runtime)
    assert wanted.volume == before.volume
    assert wanted.claim == before.claim
    assert wanted.needs_new_volume == needs_new


def test_another_source_needs_a_new_volume() -> None:
    before = _wanted()
    wanted = wanted_objects(dataset(), runtime(), SETTINGS, known=known(before, source="nfs://nas/other"))
    assert wanted.volume == before.volume
    assert wanted.needs_new_volume == ("spec.mounts[0].mountPoint",)


def test_the_same_source_opened_from_another_directory_needs_a_new_volume() -> None:
    before = wanted_objects(dataset(), runtime(), SETTINGS, known=known(source="nfs://nas/data", path="a"))
    assert _attributes(before)["path"] == "a"
    wanted = wanted_objects(dataset(), runtime(), SETTINGS, known=known(before, path="b"))
    assert wanted.needs_new_volume == ("spec.mounts[0].mountPoint",)


def test_what_the_api_server_adds_to_a_volume_is_not_ours_to_apply() -> None:
    before = _wanted()
    present = json.loads(json.dumps(before.volume))
    present["spec"]["claimRef"] |= {"uid": "c-1", "resourceVersion": "7"}
    present["spec"]["csi"]["readOnly"] = False
    present["spec"]["capacity"]["storage"] = "102400Ti"
    present["status"] = {"phase": "Bound"}
    claim = json.loads(json.dumps(before.claim))
    claim["status"] = {"phase": "Bound"}
    after = wanted_objects(dataset(), runtime(), SETTINGS, known=known(before, volume=present, claim=claim))
    assert after.volume == before.volume
    assert after.claim == before.claim


@unhurried
@given(
    st.dictionaries(st.sampled_from(["attr-ttl", "entry-ttl"]), st.sampled_from(["1s", "5s"])),
    st.dictionaries(st.sampled_from(["ro", "rw", "soft", "vers", "nconnect"]), st.sampled_from(["", "true", "3"])),
    st.sampled_from([[], ["ReadOnlyMany"], ["ReadWriteMany"], ["ReadOnlyMany", "ReadWriteOnce"]]),
)
def test_nodes_take_every_volume_and_nobody_writes_to_a_read_only_one(
    options: dict[str, str], others: dict[str, str], modes: list[str]
) -> None:
    try:
        wanted = _wanted({"sharedOptions": options | others, "accessModes": modes})
    except DriverError as refused:
        assert "sharedOptions" in refused.message or "option 'rw' cannot be used" in refused.message
        return
    own = ("dataset", "master", "clean-policy", "fuse-memory-max", "live-sources")
    attributes = {name: value for name, value in _attributes(wanted).items() if name not in own}
    volume = NodeVolume.from_context("dataset-1", attributes, mount_flags=[])
    if set(modes) <= {"ReadOnlyMany"}:
        assert volume.options.read_only
        assert volume.options.consistency == "bounded"
    else:
        assert volume.options.read_only is ("ro" in others)
    if "attr-ttl" in options:
        assert volume.options.attr_ttl_ms == int(options["attr-ttl"][0]) * 1000


def test_of_the_same_option_the_nearest_wins() -> None:
    mount = {"mountPoint": "nfs://nas:/data", "options": {"threads": "4"}}
    shared = {"threads": "3", "read-ahead": "2MiB", "consistency": "sealed"}
    properties = {"threads": "2", "read-ahead": "1MiB", "connections": "8", "network": "host", "g_tier_Enable": "true"}
    fuse = {"networkMode": "ContainerNetwork", "properties": properties}
    wanted = _wanted({"mounts": [mount], "sharedOptions": shared}, fuse=fuse)
    assert _attributes(wanted).items() >= {
        ("threads", "4"), ("read-ahead", "2MiB"), ("connections", "8"), ("consistency", "sealed"), ("network", "host"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("of_dataset", "spec", "words"),
    [
        ({"sharedOptions": {"read-ahed": "1MiB"}}, {}, r"'read-ahed' in sharedOptions.*read-ahead"),
        ({}, {"fuse": {"properties": {"threads": "0"}}}, r"'threads' in fuse.properties"),
        (
            {"sharedOptions": {"workers-key": "/a"}},
            {},
            r"'workers-key' in sharedOptions is set by the driver",
        ),
        ({"mounts": []}, {}, r"nothing to mount"),
        (
            {"annotations": {"pvc.fluid.io/resources.requests.storage": "many"}},
            {},
            r"annotations\[.*\]: 'many' is not a quantity",
        ),
        ({"annotations": {"pvc.fluid.io/resources.requests.storage": "0"}}, {}, r"more than 0"),
        ({}, {"fuse": {"resources": {"limits": {"memory": "63Mi"}}}}, r"a daemon needs 64Mi or more"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(of_dataset: dict[str, Any], spec: dict[str, Any], words: str) -> None:
    assert re.search(words, _refusal(of_dataset, **spec))


def test_where_no_node_has_a_pod_network_the_nodes_is_taken() -> None:
    wanted = _wanted(settings=Settings(image="efc-csi:1.0", has_pod_network=False))
    assert "network" not in _attributes(wanted)


def test_what_a_writable_dataset_is_mounted_with() -> None:
    wanted = _wanted({"accessModes": ["ReadWriteMany"]})
    assert _attributes(wanted)["consistency"] == "cto"
    assert "ro" not in _attributes(wanted)
    assert wanted.claim["spec"]["accessModes"] == ["ReadWriteMany"]
    mount = {"mountPoint": "nfs://nas:/data", "readOnly": True}
    assert _attributes(_wanted({"accessModes": ["ReadWriteMany"], "mounts": [mount]}))["ro"] == "true"


def test_what_the_runtime_says_of_daemons() -> None:
    fuse = {"nodeSelector": {"b": "2", "a": "1"}, "cleanPolicy": "OnDemand", "resources": {"limits": {"memory": "1Gi"}}}
    wanted = _wanted({"annotations": {"pvc.fluid.io/resources.requests.storage": "10Gi"}}, fuse=fuse)
    assert wanted.volume
    assert wanted.volume["spec"]["capacity"] == wanted.claim["spec"]["resources"]["requests"] == {"storage": "10Gi"}
    (term,) = wanted.volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": key, "operator": "In", "values": [value]} for key, value in ("a1", "b2")
    ]
    assert _attributes(wanted).items() >= {("clean-policy", "OnDemand"), ("fuse-memory-max", str(1 << 30))}


def test_settings_are_in_the_pods() -> None:
    settings = Settings(
        image="r/efc-csi:2", image_pull_policy="Always", image_pull_secrets=("pull",), driver="other.efc"
    )
    wanted = _wanted(settings=settings)
    for stateful_set in (wanted.master, wanted.workers):
        assert _container(stateful_set)["image"] == "r/efc-csi:2"
        assert _container(stateful_set)["imagePullPolicy"] == "Always"
        assert _pod(stateful_set)["imagePullSecrets"] == [{"name": "pull"}]
    assert wanted.volume
    assert wanted.volume["spec"]["csi"]["driver"] == "other.efc"


def test_keys_are_in_their_secrets_and_nowhere_else() -> None:
    wanted = _wanted()
    secrets = [one for one in wanted.objects() if one["kind"] == "Secret"]
    others = json.dumps([one for one in wanted.objects() if one["kind"] != "Secret"])
    keys = [
        secret["data"][name]
        for secret in secrets
        for name in ("ca.key", "tls.key", "block-key")
        if name in secret["data"]
    ]
    assert len(set(keys)) == 5
    for key in keys:
        assert key not in others
        assert base64.b64decode(key).decode() not in others
    assert ["ca.key" in secret["data"] for secret in secrets] == [True, False, False, False]
    assert SERVICE["spec"]["clusterIP"] in others


def test_pods_start_anew_with_an_authority_that_they_do_not_know() -> None:
    def line(wanted: Wanted) -> set[str]:
        sets = (wanted.master, wanted.workers)
        return {one["spec"]["template"]["metadata"]["annotations"][LINE_ANNOTATION] for one in sets}

    before = _wanted()
    others = {"authority": None}, {"worker_secret": None}
    lost, renewed = (wanted_objects(dataset(), runtime(), SETTINGS, known=known(before, **other)) for other in others)
    assert line(renewed) == line(before) != line(lost)
    assert renewed.worker_secret != before.worker_secret
    assert renewed.workers == before.workers
