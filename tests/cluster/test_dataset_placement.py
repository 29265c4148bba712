"""Where workers of Datasets run, of whatever namespace, and, with the opt-in webhook, the pods that use Datasets."""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.cluster.cluster import SYSTEM_NAMESPACE, Cluster, Manifest, Namespace, pod
from tests.cluster.conftest import fitted
from tests.support.paths import ROOT
from tests.support.processes import wait_until

PLACED = {"fuse.serverful.fluid.io/inject": "true"}
REQUIRED = PLACED | {"fluid.io/dataset.data.sched": "required"}
_WORKERS_LIMIT_S = 60.0
#: Until the operator has made a certificate, and kubelet has brought it to the pods of the webhook.
_CERTIFICATE_LIMIT_S = 240.0


@pytest.fixture
def other(namespace: Namespace) -> Iterator[Namespace]:
    """One more namespace."""
    place = Namespace(cluster=namespace.cluster, name=f"{namespace.name}-other")
    place.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.name}})
    yield place
    place.cluster.kubectl("-n", place.name, "delete", "datasets", "--all", "--timeout=60s", limit_s=70)
    place.cluster.kubectl("delete", "namespace", place.name, "--wait=false")


def dataset(place: Namespace, name: str, *, placement: str, workers: int) -> None:
    """A Dataset of the whole NAS with so many small workers."""
    metadata = {"name": name}
    source = f"nfs://{place.cluster.nas_address}:/export"
    levels = [{"mediumtype": "MEM", "path": "/dev/shm", "quota": "64Mi"}]
    place.apply(
        {
            "apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": metadata,
            "spec": {"placement": placement, "mounts": [{"mountPoint": source}]},
        },
        {
            "apiVersion": "data.fluid.io/v1alpha1", "kind": "EFCRuntime", "metadata": metadata,
            "spec": {
                "replicas": workers, "tieredstore": {"levels": levels}, "fuse": {"cleanPolicy": "OnDemand"},
            },
        },
    )  # fmt: skip


def workers(cluster: Cluster) -> Mapping[str, list[dict[str, Any]]]:
    """Pods of workers in all namespaces, by their nodes; those of no node yet by ""."""
    found = defaultdict(list)
    for item in cluster.objects("pods", selector="role=efc-worker"):
        found[item["spec"].get("nodeName", "")].append(item)
    return found


def await_workers(cluster: Cluster, *, placed: int, waiting: int = 0) -> Mapping[str, list[dict[str, Any]]]:
    """Workers by nodes, once so many have a node, and the scheduler has refused so many."""

    def is_so() -> bool:
        found = workers(cluster)
        refused = [
            item for item in found.get("", ())
            if any(condition.get("reason") == "Unschedulable" for condition in item["status"].get("conditions", ()))
        ]  # fmt: skip
        return (sum(map(len, found.values())) - len(found.get("", ())), len(refused)) == (placed, waiting)

    wait_until(is_so, what=f"{placed} workers on nodes and {waiting} without one", limit_s=_WORKERS_LIMIT_S)
    found = dict(workers(cluster))
    found.pop("", None)
    return found


def placements(pods: list[dict[str, Any]]) -> list[str]:
    """What the pods' labels say, sorted."""
    return sorted(item["metadata"]["labels"]["fluid.io/dataset-placement"] for item in pods)


def test_exclusive_workers_are_alone_on_their_node_in_any_namespace(namespace: Namespace, other: Namespace) -> None:
    cluster = namespace.cluster
    nodes = len(cluster.nodes())
    dataset(namespace, "data", placement="Exclusive", workers=nodes - 1)
    found = await_workers(cluster, placed=nodes - 1)
    assert [len(pods) for pods in found.values()] == [1] * (nodes - 1)

    # One node is left. A Dataset that says nothing is exclusive, too, also against one of its own name elsewhere.
    dataset(other, "data", placement="", workers=2)
    found = await_workers(cluster, placed=nodes, waiting=1)
    assert [placements(pods) for pods in found.values()] == [["Exclusive"]] * nodes
    # And a shared one finds nothing.
    dataset(other, "shared", placement="Shared", workers=2)
    await_workers(cluster, placed=nodes, waiting=3)

    # Where the exclusive ones go, shared ones come, in company; no exclusive one comes to them.
    cluster.kubectl("-n", namespace.name, "delete", "dataset", "data", "--timeout=60s", limit_s=70)
    found = await_workers(cluster, placed=nodes + 1)
    kinds = sorted(placements(pods) for pods in found.values())
    assert kinds == [["Exclusive"], ["Exclusive"], ["Shared", "Shared"]]
    dataset(namespace, "late", placement="Exclusive", workers=1)
    await_workers(cluster, placed=nodes + 1, waiting=1)


def test_shared_workers_pack_also_with_those_of_other_namespaces(namespace: Namespace, other: Namespace) -> None:
    cluster = namespace.cluster
    dataset(namespace, "data", placement="Shared", workers=3)
    dataset(other, "data", placement="Shared", workers=3)
    found = await_workers(cluster, placed=6)
    assert [len(pods) for pods in found.values()] == [6]


# ------------------------------------------------------------ the webhook


@pytest.fixture(scope="module")
def with_webhook(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the chart's value `webhook.enabled`."""
    rendered = subprocess.run(
        [ROOT / "deploy" / "render", "--set", "webhook.enabled=true"], capture_output=True, text=True, check=True
    )
    cluster.kubectl("apply", "-f", "-", stdin=fitted(cluster, rendered.stdout))
    cluster.await_driver("operator", limit_s=_CERTIFICATE_LIMIT_S)
    await_webhook(cluster)
    yield cluster
    kinds = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings"
    selector = ("-l", "app.kubernetes.io/component=webhook")
    cluster.kubectl("delete", kinds, *selector)
    kinds = "deployments,services,serviceaccounts,networkpolicies,poddisruptionbudgets"
    cluster.kubectl("-n", SYSTEM_NAMESPACE, "delete", kinds, *selector)
    wait_until(
        lambda: cluster.get("secret", "efc-webhook", namespace=SYSTEM_NAMESPACE) is None,
        what="the Secret to go with the configuration", limit_s=60,
    )  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=fitted(cluster, (ROOT / "deploy" / "efc-csi.yaml").read_text()))
    cluster.await_driver("operator", limit_s=_CERTIFICATE_LIMIT_S)


def await_webhook(cluster: Cluster) -> None:
    """Returns when both pods serve, and the API server knows their certificate."""
    cluster.await_driver("webhook", limit_s=_CERTIFICATE_LIMIT_S)
    wait_until(
        lambda: "created" in tried(cluster, labelled("probe", PLACED, namespace="default")),
        what="the API server to be answered", limit_s=60,
    )  # fmt: skip


def labelled(name: str, labels: Mapping[str, str], *, namespace: str = "", **spec: Any) -> Manifest:
    """A pod with these labels that mounts the claim `data`."""
    manifest = pod(name, claims={"/data": "data"}, **spec)
    metadata: dict[str, Any] = {"name": name, "labels": {"app": name, **labels}}
    return {**manifest, "metadata": metadata | ({"namespace": namespace} if namespace else {})}


def tried(cluster: Cluster, manifest: Manifest) -> str:
    """What the API server says to a pod that is not really made."""
    done = cluster.script(
        "kubectl", "create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest), limit_s=60, check=False
    )
    return done.stdout + done.stderr


def worker_node(cluster: Cluster) -> str:
    """The node of the only worker."""
    (node,) = await_workers(cluster, placed=1)
    return node


def node_of(place: Namespace, name: str) -> str:
    """Where a pod runs."""
    place.await_pods(name)
    found = place.cluster.get("pod", name, namespace=place.name)
    assert found is not None
    return str(found["spec"]["nodeName"])


def await_unschedulable(place: Namespace, name: str, words: str) -> None:
    """Returns once the scheduler says so of a pod; its events keep the words of the first refusal."""
    path = '{.status.conditions[?(@.type=="PodScheduled")].message}'
    wait_until(
        lambda: words in place.cluster.kubectl("-n", place.name, "get", "pod", name, "-o", f"jsonpath={path}"),
        what=f"the scheduler to say {words!r} of {name}", limit_s=60,
    )  # fmt: skip


def on_node(name: str) -> Mapping[str, Any]:
    """A pod's own affinity to one node."""
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


@pytest.mark.timeout(400)
def test_labelled_pods_run_at_the_workers(with_webhook: Cluster, namespace: Namespace) -> None:
    dataset(namespace, "data", placement="Shared", workers=1)
    here = worker_node(with_webhook)
    elsewhere = next(node for node in with_webhook.nodes() if node != here)
    names = [f"near-{number}" for number in range(4)]
    namespace.apply(
        *(labelled(name, PLACED) for name in names),
        labelled("required", REQUIRED),
        labelled("own", PLACED, affinity=on_node(elsewhere)),
        labelled("own-required", REQUIRED, affinity=on_node(elsewhere)),
        labelled("left-alone", REQUIRED | {"fluid.io/enable-injection": "false"}, affinity=on_node(elsewhere)),
    )
    assert {name: node_of(namespace, name) for name in [*names, "required"]} == dict.fromkeys(
        [*names, "required"], here
    )
    # What a pod says itself holds, too: it wins over a preference, and together with a requirement nothing is left.
    assert node_of(namespace, "own") == elsewhere
    await_unschedulable(namespace, "own-required", "pod affinity")
    assert node_of(namespace, "left-alone") == elsewhere
    untouched = with_webhook.get("pod", "left-alone", namespace=namespace.name)
    assert untouched is not None
    assert untouched["spec"]["affinity"] == on_node(elsewhere)
    namespace.delete("pods", "--all", "--grace-period=0")
    namespace.delete("datasets", "data")


@pytest.mark.timeout(400)
def test_a_pod_that_requires_workers_waits_for_them(with_webhook: Cluster, namespace: Namespace) -> None:
    dataset(namespace, "data", placement="Shared", workers=0)
    namespace.apply(labelled("required", REQUIRED), labelled("preferred", PLACED))
    await_unschedulable(namespace, "required", "pod affinity")
    node_of(namespace, "preferred")
    with_webhook.kubectl("-n", namespace.name, "scale", "efc", "data", "--replicas=1")
    assert node_of(namespace, "required") == worker_node(with_webhook)
    namespace.delete("pods", "required", "preferred", "--grace-period=0")
    namespace.delete("datasets", "data")


@pytest.mark.timeout(400)
def test_refusals_say_what_to_do(with_webhook: Cluster, namespace: Namespace) -> None:
    sidecar = labelled("sidecar", {"serverless.fluid.io/inject": "true"}, namespace=namespace.name)
    said = tried(with_webhook, sidecar)
    assert "there are no sidecars here. Remove the label" in said
    missing = labelled("missing", REQUIRED, namespace=namespace.name)
    said = tried(with_webhook, missing)
    assert "no claim 'data' of a Dataset of that name. Create the Dataset before the pod" in said
    opted_out = {"serverless.fluid.io/inject": "true", "fluid.io/enable-injection": "false"}
    assert "created" in tried(with_webhook, labelled("opted-out", opted_out, namespace=namespace.name))


@pytest.mark.timeout(500)
def test_without_the_webhook_only_labelled_pods_are_refused(with_webhook: Cluster, namespace: Namespace) -> None:
    scale = ("-n", SYSTEM_NAMESPACE, "scale", "deployment", "efc-webhook")
    with_webhook.kubectl(*scale, "--replicas=0")
    selector = "app.kubernetes.io/component=webhook"
    wait_until(
        lambda: not with_webhook.objects("pods", namespace=SYSTEM_NAMESPACE, selector=selector),
        what="the end of its pods", limit_s=60,
    )  # fmt: skip
    try:
        assert "created" in tried(with_webhook, labelled("plain", {}, namespace=namespace.name))
        opted_out = PLACED | {"fluid.io/enable-injection": "false"}
        assert "created" in tried(with_webhook, labelled("opted-out", opted_out, namespace=namespace.name))
        said = tried(with_webhook, labelled("placed", PLACED, namespace=namespace.name))
        assert 'failed calling webhook "placement.efc.data.fluid.io"' in said
    finally:
        with_webhook.kubectl(*scale, "--replicas=2")
    await_webhook(with_webhook)


def certificates_seen(cluster: Cluster) -> dict[str, int]:
    """How many certificates each of the webhook's pods has had."""
    pods = cluster.objects("pods", namespace=SYSTEM_NAMESPACE, selector="app.kubernetes.io/component=webhook")
    names = [item["metadata"]["name"] for item in pods]
    logs = {name: cluster.kubectl("-n", SYSTEM_NAMESPACE, "logs", name) for name in names}
    return {name: text.count("has a new certificate") for name, text in logs.items()}


@pytest.mark.timeout(600)
def test_a_lost_authority_is_replaced_without_a_refused_pod(
    with_webhook: Cluster, namespace: Namespace, figures: dict[str, object]
) -> None:
    """The worst that can happen to the certificate: authority and key are new at once."""
    before = certificates_seen(with_webhook)
    assert len(before) == 2
    with_webhook.kubectl("-n", SYSTEM_NAMESPACE, "delete", "secret", "efc-webhook")
    began, asked = time.monotonic(), 0
    manifest = labelled("placed", PLACED, namespace=namespace.name)
    while any(certificates_seen(with_webhook)[name] == count for name, count in before.items()):
        assert time.monotonic() < began + _CERTIFICATE_LIMIT_S
        for _ in range(5):
            said = tried(with_webhook, manifest)
            assert "created" in said, said
            asked += 1
    for _ in range(20):
        said = tried(with_webhook, manifest)
        assert "created" in said, said
    figures["webhook_certificate_renewed_s"] = round(time.monotonic() - began, 1)
    assert asked > 5
