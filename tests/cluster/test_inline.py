"""Inline volumes: allowed by the list, refused with the way to mend it, and a list that changes while all runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import SYSTEM_NAMESPACE, Cluster, Namespace, inline_pod

_DELETE_LIMIT_S = 15.0
_REFRESH_LIMIT_S = 150.0  # kubelet looks at ConfigMaps about once a minute


def test_inline_volumes(namespace: Namespace) -> None:
    """Allowed in namespaces "inline-*": writable and read-only, and the pod's end leaves the data."""
    cluster = namespace.cluster
    folder = cluster.nas_folder / namespace.name
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    namespace.apply(
        inline_pod("writer", source=cluster.nas_url, path=namespace.name),
        inline_pod("reader", source=cluster.nas_url.replace("?", f"/{namespace.name}?"), read_only=True),
    )
    namespace.await_pods("writer", "reader")
    namespace.run("writer", "echo inline >/data/file && sync /data/file")
    assert namespace.run("reader", "cat /data/file") == "inline"
    assert "Read-only file system" in namespace.fails("reader", "echo x >/data/file")
    assert namespace.delete("pod", "writer", "reader") < _DELETE_LIMIT_S
    assert (folder / "file").read_text() == "inline\n"


def test_a_namespace_that_may_not(namespace: Namespace) -> None:
    source = namespace.cluster.nas_url
    namespace.apply(inline_pod("user", source=source))
    rule = json.dumps({"namespaces": [namespace.name], "sources": [source]})
    namespace.await_message("user", "FailedMount", namespace.name, source, rule, "inline.allowedSources")
    assert namespace.delete("pod", "user") < _DELETE_LIMIT_S


def test_inline_source_that_is_not_listed(namespace: Namespace) -> None:
    namespace.apply(inline_pod("user", source="nfs://10.77.0.200/elsewhere"))
    namespace.await_message("user", "FailedMount", "nfs://10.77.0.200/elsewhere", namespace.cluster.nas_url)
    assert namespace.delete("pod", "user") < _DELETE_LIMIT_S


@pytest.fixture
def changed_list(cluster: Cluster) -> Iterator[list[dict[str, list[str]]]]:
    """The list as it is; what a test makes of it is undone."""
    found = cluster.get("configmap", "efc-inline", namespace=SYSTEM_NAMESPACE)
    assert found is not None
    before = found["data"]["allowed-sources.json"]
    yield json.loads(before)
    _replace_list(cluster, before)


def _replace_list(cluster: Cluster, text: str) -> None:
    patch = json.dumps({"data": {"allowed-sources.json": text}})
    cluster.kubectl("-n", SYSTEM_NAMESPACE, "patch", "configmap", "efc-inline", "--type=merge", "-p", patch)


def test_allowing_a_namespace_restarts_nothing(
    namespace: Namespace, changed_list: list[dict[str, list[str]]], figures: dict[str, object]
) -> None:
    """A waiting pod starts by itself once the administrator has added what its event says."""
    cluster = namespace.cluster

    def plugins() -> dict[str, int]:
        pods = cluster.objects("pods", namespace=SYSTEM_NAMESPACE, selector="app.kubernetes.io/component=node")
        return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}

    before = plugins()
    namespace.apply(inline_pod("user", source=cluster.nas_url))
    namespace.await_message("user", "FailedMount", "inline.allowedSources")
    rule = {"namespaces": [namespace.name], "sources": [cluster.nas_url]}
    _replace_list(cluster, json.dumps([*changed_list, rule]))
    began = time.monotonic()
    namespace.await_pods("user", limit_s=_REFRESH_LIMIT_S)
    figures["inline_allowed_after_s"] = round(time.monotonic() - began, 1)
    namespace.run("user", "ls /data")
    assert plugins() == before
