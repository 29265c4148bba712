"""Another release of the driver is rolled out and rolled back while applications work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import IMAGE, SYSTEM_NAMESPACE, Cluster, Namespace
from tests.cluster.machines import mounts_of
from tests.cluster.releases import write_next_release
from tests.cluster.workload import HUNG_S, verified_load
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.releases import NEXT_RELEASE, RELEASE

_NODE = "n1"
_NEXT_IMAGE = "docker.io/library/efc-csi:next"
_CONTAINER = "node"


@pytest.fixture
def next_release(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """The next release's image, known to all nodes; in the end this release's node plugin runs again."""
    archive = tmp_path / "next.tar"
    write_next_release(ROOT / ".tools" / "cluster" / "images" / "efc-csi.tar", archive, name=_NEXT_IMAGE)
    for node in cluster.nodes():
        cluster.on_node(node, "ctr", "-n", "k8s.io", "images", "import", str(archive), limit_s=120)
    archive.unlink()
    try:
        yield _NEXT_IMAGE
    finally:
        _roll(cluster, IMAGE)
        for node in cluster.nodes():
            cluster.on_node(node, "ctr", "-n", "k8s.io", "images", "rm", _NEXT_IMAGE, limit_s=60)


def _roll(cluster: Cluster, image: str) -> None:
    cluster.kubectl("-n", SYSTEM_NAMESPACE, "set", "image", "daemonset/efc-node", f"{_CONTAINER}={image}")
    cluster.await_driver("node")


def _await_version(cluster: Cluster, version: str) -> None:
    wait_until(
        lambda: [mount["version"] for mount in mounts_of(cluster, _NODE)] == [version],
        what=f"a daemon of {version}", limit_s=30, interval_s=0.5,
    )  # fmt: skip


@pytest.mark.timeout(400)
def test_the_next_release_and_back(
    namespace: Namespace, shared: str, figures: dict[str, object], next_release: str
) -> None:
    cluster = namespace.cluster
    with verified_load(namespace, claim=shared, node=_NODE) as report:
        _await_version(cluster, RELEASE)
        (former,) = cluster.daemons(_NODE)
        _roll(cluster, next_release)
        _await_version(cluster, NEXT_RELEASE)
        (upgraded,) = cluster.daemons(_NODE)
        assert upgraded != former
        _roll(cluster, IMAGE)
        _await_version(cluster, RELEASE)
    figures["another release and back"] = vars(report)
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report
