"""One cluster for all tests, the driver installed on it as a user installs it, a namespace for each test."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Generator, Iterator

import pytest

from tests.cluster.cluster import IMAGE, SCRIPTS, SYSTEM_NAMESPACE, Cluster, Namespace, cluster_of_session
from tests.support.paths import RESULTS, ROOT
from tests.support.processes import wait_until

NODES = 3
_TEST_LIMIT_S = 180
_FAILED = pytest.StashKey[bool]()
_IDLE_GRACE_S = 3  # how long daemons outlive their last volume


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[Cluster]:
    """A cluster of its own, or the one in EFC_CLUSTER_DIR (`make cluster-up`) for those who work on the tests."""
    with cluster_of_session(nodes=NODES) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster(bare_cluster: Cluster) -> Cluster:
    """The cluster with the driver on all nodes."""
    try:
        install(bare_cluster)
    except AssertionError as error:
        folder = RESULTS / "logs" / "cluster-install"
        bare_cluster.gather(folder, namespace=SYSTEM_NAMESPACE)
        error.add_note(f"state of the cluster: {folder}")
        raise
    return bare_cluster


def install(cluster: Cluster) -> None:
    """deploy/efc-csi.yaml, with what a user changes (NAS, image, sources allowed inline), and a short idle grace.

    The CRDs of Datasets are there before. A cluster that has the driver already keeps it.
    """
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=(ROOT / "deploy" / "crds.yaml").read_text())
    if cluster.get("daemonset", "efc-node", namespace=SYSTEM_NAMESPACE) is None:
        cluster.kubectl("apply", "-f", "-", stdin=fitted(cluster, (ROOT / "deploy" / "efc-csi.yaml").read_text()))
    cluster.await_driver("keeper", "node", "network", "controller", "operator")


def fitted(cluster: Cluster, text: str) -> str:
    """What `deploy/render` prints, changed as `install` says."""
    source = '- "--source=nfs://nas.example.com/data"'
    sources = [f'- "--source={url}"' for url in (cluster.nas_url, cluster.small_url)]
    text = text.replace(source, ("\n" + " " * 12).join(sources))
    rules = [{"namespaces": ["inline-*"], "sources": [cluster.nas_url]}]
    text = text.replace('allowed-sources.json: "[]"', f"allowed-sources.json: {json.dumps(json.dumps(rules))}")
    text = text.replace("--idle-grace=30", f"--idle-grace={_IDLE_GRACE_S}")
    return re.sub(r"\bimage([:=] ?)efc-csi:\S+", rf"image\g<1>{IMAGE}", text)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """Instead of the check of the other tests, which cannot see into nodes: no volume of ours stays published."""
    yield
    for node in cluster.nodes():
        # A pod without a grace period is gone from the API before kubelet has cleaned up after it.
        for what, left in (("volumes are published", cluster.published), ("a daemon lives", cluster.daemon_mounts)):
            wait_until(
                lambda left=left, node=node: not left(node),  # type: ignore[misc]
                what=f"the time after which no longer {what} on {node}", limit_s=_IDLE_GRACE_S + 60, interval_s=0.5,
            )  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A time limit is the test's; the boot of the cluster has its own, and falls to whichever test is first."""
    for item in [item for item in items if item.path.is_relative_to(SCRIPTS)]:
        marker = item.get_closest_marker("timeout")
        limit_s = marker.args[0] if marker else _TEST_LIMIT_S
        item.add_marker(pytest.mark.timeout(limit_s, func_only=True), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A fixture's end learns here whether its test failed."""
    report = yield
    if call.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's name; everything in it goes at the end, after its state was kept if the test failed."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:50].strip("-")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    # Kubernetes's controllers take a minute to come back when a test before this one has ended the API server for long.
    wait_until(
        lambda: cluster.get("serviceaccount", "default", namespace=name), what="its service account", limit_s=120
    )
    place = Namespace(cluster=cluster, name=name)
    shutil.rmtree(cluster.nas_folder / name, ignore_errors=True)  # of an earlier run on the same cluster
    yield place
    if request.node.stash.get(_FAILED, True):
        cluster.gather(RESULTS / "logs" / f"cluster-{name}", namespace=name)
    cluster.kubectl("-n", name, "delete", "statefulsets,deployments,pods", "--all", "--timeout=60s", limit_s=70)
    # What their pods used goes with the Datasets; what was deleted of them alone would come again.
    cluster.kubectl("-n", name, "delete", "datasets,efcruntimes", "--all", "--timeout=60s", limit_s=70)
    cluster.kubectl("-n", name, "delete", "persistentvolumeclaims", "--all", "--timeout=60s", limit_s=70)
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    for kind in ("persistentvolume", "storageclass"):
        ours = [
            found["metadata"]["name"] for found in cluster.objects(kind, selector="efc=test")
            if found["metadata"]["name"].startswith(f"{name}-")
        ]  # fmt: skip
        if ours:
            cluster.kubectl("delete", kind, *ours, "--timeout=60s", limit_s=70)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Iterator[dict[str, object]]:
    """What tests measured; it ends in results/cluster.json, or results/cluster-short.json."""
    measured: dict[str, object] = {}
    yield measured
    RESULTS.mkdir(exist_ok=True)
    part = "cluster-short" if pytestconfig.getoption("markexpr") == "short" else "cluster"
    (RESULTS / f"{part}.details.json").write_text(json.dumps(measured, indent=2) + "\n")


@pytest.fixture
def shared(namespace: Namespace) -> str:
    """A claim of a new, empty directory of the NAS that any number of pods can use."""
    (namespace.cluster.nas_folder / namespace.name).mkdir(mode=0o777)
    namespace.static_volume("shared", source=namespace.cluster.nas_url, path=namespace.name)
    return "shared"
