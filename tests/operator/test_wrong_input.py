"""What is wrong is said where a user looks, in words that say how to mend it; mending that object alone is enough."""

from __future__ import annotations

import json
from typing import Any

import pytest

from csi.operator.store import FLUID_NAMESPACE
from tests.cluster.cluster import Namespace
from tests.operator.objects import (
    API_VERSION,
    await_phase,
    await_said,
    condition,
    dataset,
    get,
    runtime,
    source_of,
)
from tests.support.processes import wait_until

pytestmark = pytest.mark.timeout(300)


def _host(namespace: Namespace) -> str:
    return namespace.cluster.nas_url.removeprefix("nfs://").partition("/")[0].partition(":")[0]


def test_a_nas_that_refuses_connections(namespace: Namespace) -> None:
    namespace.apply(dataset("demo", f"nfs://{_host(namespace)}:1:/export?mountport=1"), runtime("demo"))
    found = await_said(namespace, "dataset", "demo", "SourceReachable", _host(namespace))
    assert found["status"]["phase"] == "NotBound"
    await_said(namespace, "dataset", "demo", "Ready", _host(namespace))
    assert namespace.cluster.get("persistentvolumeclaim", "demo", namespace=namespace.name) is None
    namespace.apply(dataset("demo", source_of(namespace)))
    await_phase(namespace, "demo", "Bound")


def test_a_nas_that_is_silent(namespace: Namespace) -> None:
    namespace.apply(dataset("demo", "nfs://10.77.0.250:2049/export?mountport=2049"), runtime("demo"))
    await_said(namespace, "dataset", "demo", "SourceReachable", "10.77.0.250")


def test_a_directory_that_is_not_there(namespace: Namespace) -> None:
    whole, _, query = source_of(namespace).partition("?")
    namespace.apply(dataset("demo", f"{whole}/later?{query}"), runtime("demo"))
    await_said(namespace, "dataset", "demo", "SourceReachable", "later")
    (namespace.cluster.nas_folder / namespace.name / "later").mkdir()
    await_phase(namespace, "demo", "Bound")


def test_a_missing_secret_and_a_missing_key(namespace: Namespace) -> None:
    reference = {"name": "options", "key": "read-ahead"}
    option = {"name": "read-ahead", "valueFrom": {"secretKeyRef": reference}}
    mount = {"mountPoint": source_of(namespace), "encryptOptions": [option]}
    namespace.apply(dataset("demo", "", mounts=[mount]), runtime("demo"))
    await_said(namespace, "dataset", "demo", "Ready", "'options'")
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "options"}})
    await_said(namespace, "dataset", "demo", "Ready", "no key 'read-ahead'")
    namespace.apply({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "options"}, "stringData": {"read-ahead": "1MiB"},
    })  # fmt: skip
    await_phase(namespace, "demo", "Bound")


def test_an_unknown_option(namespace: Namespace) -> None:
    mount = {"mountPoint": source_of(namespace), "options": {"read-ahed": "1MiB"}}
    namespace.apply(dataset("demo", "", mounts=[mount]), runtime("demo"))
    found = await_said(namespace, "dataset", "demo", "Ready", "read-ahed", "did you mean")
    assert found["status"]["phase"] == "NotBound"
    namespace.apply(dataset("demo", source_of(namespace)))
    await_phase(namespace, "demo", "Bound")


def test_a_claim_that_is_no_nas(namespace: Namespace) -> None:
    name = f"{namespace.name}-other"
    claim_ref = {"namespace": namespace.name, "name": "other"}
    namespace.apply(
        {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": {"efc": "test"}},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "claimRef": claim_ref, "hostPath": {"path": "/tmp"},
            },
        },
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "other"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": name,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
        dataset("demo", "pvc://other"), runtime("demo"),
        dataset("none", "pvc://nobody"), runtime("none"),
    )  # fmt: skip
    try:
        await_said(namespace, "dataset", "none", "Ready", "no claim 'nobody'")
        await_said(namespace, "dataset", "demo", "Ready", "'other' is not a directory of a NAS")
    finally:
        namespace.cluster.kubectl("delete", "persistentvolume", name, "--wait=false")


def test_a_claim_of_another_nfs_volume(namespace: Namespace) -> None:
    namespace.static_volume("shared", source=namespace.cluster.nas_url, path=namespace.name)
    namespace.bound_directory("shared")
    namespace.apply(dataset("demo", "pvc://shared"), runtime("demo"))
    await_phase(namespace, "demo", "Bound")
    namespace.cluster.kubectl("delete", "persistentvolume", f"{namespace.name}-shared", "--wait=false")


def test_a_claim_of_somebody_else(namespace: Namespace) -> None:
    theirs: dict[str, Any] = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "demo", "labels": {"mine": "yes"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }  # fmt: skip
    namespace.apply(theirs)
    before = get(namespace, "persistentvolumeclaim", "demo")
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo"))
    await_said(namespace, "dataset", "demo", "Ready", "PersistentVolumeClaim 'demo'", "somebody else's")
    after = get(namespace, "persistentvolumeclaim", "demo")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    namespace.cluster.kubectl("-n", namespace.name, "delete", "persistentvolumeclaim", "demo", "--wait")
    await_phase(namespace, "demo", "Bound")


def test_a_quota_that_refuses_the_claim(namespace: Namespace) -> None:
    quota: dict[str, Any] = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
        "spec": {"hard": {"requests.storage": "1Ti"}},
    }  # fmt: skip
    namespace.apply(quota)
    namespace.cluster.kubectl(
        "-n", namespace.name, "wait", "--for=jsonpath={.status.hard}", "resourcequota/small", "--timeout=30s"
    )
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo"))
    await_said(namespace, "dataset", "demo", "Ready", "exceeded quota")
    namespace.cluster.kubectl("-n", namespace.name, "delete", "resourcequota", "small")
    await_phase(namespace, "demo", "Bound")


def test_a_quota_that_refuses_workers(namespace: Namespace) -> None:
    namespace.apply({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}},
    })  # fmt: skip
    namespace.cluster.kubectl(
        "-n", namespace.name, "wait", "--for=jsonpath={.status.hard}", "resourcequota/small", "--timeout=30s"
    )
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo", replicas=1))
    await_said(namespace, "efc", "demo", "WorkersReady", "exceeded quota")
    await_phase(namespace, "demo", "Bound")


def test_workers_that_fit_on_no_node(namespace: Namespace) -> None:
    levels = [{"mediumtype": "MEM", "path": "/dev/shm", "quota": "900Ti"}]
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo", replicas=1, tieredstore={"levels": levels}))
    await_said(namespace, "efc", "demo", "WorkersReady", "Insufficient memory")
    await_phase(namespace, "demo", "Bound")


def test_a_source_that_changes(namespace: Namespace) -> None:
    """While a pod uses it, it stays; when none does, the claim is made anew."""
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo"))
    await_phase(namespace, "demo", "Bound")
    (namespace.cluster.nas_folder / namespace.name / "other").mkdir()
    whole, _, query = source_of(namespace).partition("?")
    namespace.apply(dataset("demo", f"{whole}/other?{query}"))

    def is_other() -> bool:
        claim = namespace.cluster.get("persistentvolumeclaim", "demo", namespace=namespace.name)
        volume = namespace.cluster.get("persistentvolume", str((claim or {}).get("spec", {}).get("volumeName")))
        return bool(volume and "other" in volume["spec"]["csi"]["volumeAttributes"]["source"])

    wait_until(is_other, what="another volume", limit_s=30, interval_s=0.3)
    found = await_phase(namespace, "demo", "Bound")
    assert condition(found, "Ready")["status"] == "True"


def test_a_runtime_of_another_kind(namespace: Namespace) -> None:
    """Fluid's other kinds are looked at where they exist."""
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "jindoruntimes.data.fluid.io"},
        "spec": {
            "group": "data.fluid.io", "scope": "Namespaced",
            "names": {"kind": "JindoRuntime", "plural": "jindoruntimes", "singular": "jindoruntime"},
            "versions": [{
                "name": "v1alpha1", "served": True, "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }],
        },
    }  # fmt: skip
    namespace.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(crd))
    try:
        namespace.cluster.kubectl("wait", "--for=condition=Established", "crd/jindoruntimes.data.fluid.io")
        namespace.apply({"apiVersion": API_VERSION, "kind": "JindoRuntime", "metadata": {"name": "demo"}})
        namespace.apply(dataset("demo", source_of(namespace)))
        found = await_said(namespace, "dataset", "demo", "Ready", "JindoRuntime")
        assert found["status"]["phase"] == "NotBound"
    finally:
        namespace.cluster.kubectl("delete", "crd", "jindoruntimes.data.fluid.io", "--timeout=30s")


def test_where_fluids_own_controller_runs(namespace: Namespace) -> None:
    labels = {"control-plane": "efcruntime-controller"}
    container = {
        "name": "manager",
        "image": "efc.test/busybox:1",
        "imagePullPolicy": "Never",
        "command": ["sleep", "9"],
    }
    cluster = namespace.cluster
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FLUID_NAMESPACE}},
        {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "efcruntime-controller", "namespace": FLUID_NAMESPACE, "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
    )  # fmt: skip
    try:
        namespace.apply(dataset("demo", source_of(namespace)), runtime("demo"))
        namespace.await_message("demo", "FluidServesIt", f"{FLUID_NAMESPACE}/efcruntime-controller")
        assert cluster.get("persistentvolumeclaim", "demo", namespace=namespace.name) is None
        assert "ownerReferences" not in get(namespace, "efc", "demo")["metadata"]
    finally:
        cluster.kubectl("delete", "namespace", FLUID_NAMESPACE, "--timeout=60s", limit_s=70)
    await_phase(namespace, "demo", "Bound")
