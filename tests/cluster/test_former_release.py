"""An installation of release 0.1.0, built from the git history, is upgraded to this one while applications work.

Keepers stay until their pods are deleted, so for a while a keeper of 0.1.0 serves what this release's node plugin asks.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import IMAGE, SYSTEM_NAMESPACE, Cluster, Namespace, pod
from tests.cluster.machines import mounts_of
from tests.cluster.test_installation import helm, installed_by_helm, keepers_of, settings
from tests.cluster.workload import HUNG_S, verified_load
from tests.operator.objects import await_phase, dataset, runtime, source_of
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.releases import RELEASE

_NODE = "n1"
_FORMER = "0.1.0"
_FORMER_IMAGE = f"docker.io/library/efc-csi:{_FORMER}"
_ARCHIVE = ROOT / ".tools" / "releases" / _FORMER / "image.tar"
_CHART = ROOT / ".tools" / "releases" / _FORMER / "source" / "deploy" / "chart"


@pytest.fixture
def former_release(cluster: Cluster) -> Iterator[None]:
    """Release 0.1.0, installed by its own chart on nodes that the driver was removed from; in the end this one's."""
    for node in cluster.nodes():
        cluster.on_node(node, "ctr", "-n", "k8s.io", "images", "import", str(_ARCHIVE), limit_s=120)
    try:
        with installed_by_helm(cluster, str(_CHART), *settings(cluster, image=_FORMER_IMAGE), with_crds=False):
            yield
    finally:
        for node in cluster.nodes():
            cluster.on_node(node, "ctr", "-n", "k8s.io", "images", "rm", _FORMER_IMAGE, limit_s=60)


def _await_daemons_of(cluster: Cluster, version: str) -> None:
    wait_until(
        lambda: {mount["version"] for mount in mounts_of(cluster, _NODE)} == {version},
        what=f"daemons of {version}", limit_s=60, interval_s=0.5,
    )  # fmt: skip


def _use_a_dataset(namespace: Namespace, name: str) -> None:
    (namespace.cluster.nas_folder / namespace.name / name).write_text("content")
    namespace.apply(dataset(name, source_of(namespace)), runtime(name, replicas=1))
    await_phase(namespace, name, "Bound")
    namespace.apply(pod(f"reader-{name}", claims={"/data": name}, node=_NODE))
    namespace.await_pods(f"reader-{name}")
    assert namespace.run(f"reader-{name}", f"cat /data/{name}") == "content"


@pytest.mark.skipif(not _ARCHIVE.exists(), reason="the image of 0.1.0 is built by `make cluster` in a whole clone")
@pytest.mark.timeout(900)
def test_an_installation_in_use_is_upgraded(
    former_release: None, namespace: Namespace, shared: str, figures: dict[str, object]
) -> None:
    cluster = namespace.cluster
    keepers = keepers_of(cluster)
    assert len(keepers) == len(cluster.nodes())
    with verified_load(namespace, claim=shared, node=_NODE) as report:
        _await_daemons_of(cluster, _FORMER)
        helm(cluster, "upgrade", "efc", "deploy/chart", *settings(cluster, image=IMAGE))
        cluster.await_driver("node", "controller", "network", "operator")
        _await_daemons_of(cluster, RELEASE)
        assert keepers_of(cluster) == keepers, "each goes on until somebody deletes it"
        _use_a_dataset(namespace, "under-former-keepers")
        cluster.kubectl("-n", SYSTEM_NAMESPACE, "delete", "pod", *keepers, limit_s=90)
        cluster.await_driver("keeper")
        _use_a_dataset(namespace, "under-new-keepers")
    figures["an installation of 0.1.0 in use is upgraded"] = vars(report)
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report
