"""One API server with its controllers, a node and a NAS; the operator beside it, a namespace for each test."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, Namespace, cluster_of_session
from tests.operator.operators import Operator, account
from tests.support.leaks import no_leaks
from tests.support.paths import ROOT
from tests.support.processes import wait_until

CRDS = ROOT / "deploy" / "crds.yaml"


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """Instead of the check of each module: the operator that they share may become another process in one of them."""


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[Cluster]:
    """A cluster without CRDs, or the one in EFC_CLUSTER_DIR for those who work on the tests."""
    with cluster_of_session(nodes=1, within=no_leaks()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def operator(bare_cluster: Cluster) -> Iterator[Operator]:
    """The operator, which was there before the CRDs: it waits for them."""
    account(bare_cluster)
    running = Operator(cluster=bare_cluster, name="main")
    running.start()
    try:
        running.await_in_step()
        bare_cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
        yield running
    finally:
        running.end()


@pytest.fixture
def cluster(operator: Operator) -> Cluster:
    """The cluster, with the operator."""
    return operator.cluster


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's name, with a directory of that name on the NAS; everything in it goes at the end."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:50].strip("-")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    wait_until(lambda: cluster.get("serviceaccount", "default", namespace=name), what="its service account", limit_s=60)
    folder = cluster.nas_folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "file").write_bytes(b"x" * 1000)
    yield Namespace(cluster=cluster, name=name)
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=60s", limit_s=70)
    assert not [
        volume for volume in cluster.objects("persistentvolumes")
        if (volume["spec"].get("claimRef") or {}).get("namespace") == name
        and volume["metadata"]["name"].startswith("efc-dataset-")
    ]  # fmt: skip
