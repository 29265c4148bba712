"""Installing and removing the driver as documented: by Helm, and by the manifests, with pods that use volumes.

Runs on the cluster of the other tests, whose installation it replaces for its own time.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.cluster import IMAGE, SCRIPTS, SYSTEM_NAMESPACE, Cluster, Namespace, pod
from tests.cluster.conftest import install
from tests.cluster.workload import HUNG_S, verified_load
from tests.operator.objects import await_phase, dataset, runtime, source_of
from tests.support.paths import ROOT
from tests.support.processes import wait_until

CRDS = ROOT / "deploy" / "crds.yaml"
IDLE_GRACE_S = 3
#: The same image by another name, which Kubernetes knows it by too.
OTHER_NAME = f"docker.io/library/{IMAGE}"


def helm(cluster: Cluster, *arguments: str, check: bool = True) -> str:
    """What helm says. Raises AssertionError when it fails, unless `check` is off."""
    done = cluster.script("helm", "--namespace", SYSTEM_NAMESPACE, *arguments, limit_s=240, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def uninstall(cluster: Cluster, *command: str, check: bool = True) -> str:
    """What deploy/uninstall says, which ends with `command` if there is one."""
    environment = os.environ | {"EFC_CLUSTER_DIR": str(cluster.folder), "KUBECTL": str(SCRIPTS / "kubectl")}
    done = subprocess.run(
        [ROOT / "deploy" / "uninstall", *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def settings(cluster: Cluster, *, image: str) -> list[str]:
    """Options of `helm install` and `helm upgrade`."""
    repository, _, tag = image.rpartition(":")
    values = {
        "image.repository": repository, "image.tag": tag, "controller.sources": f"{{{cluster.nas_url}}}",
        "node.idleGraceSeconds": str(IDLE_GRACE_S),
    }  # fmt: skip
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def parts(cluster: Cluster) -> dict[str, str]:
    """Name of each pod of the driver that runs -> its part."""
    pods = cluster.objects("pods", namespace=SYSTEM_NAMESPACE, selector="app.kubernetes.io/name=efc-csi")
    return {
        found["metadata"]["name"]: found["metadata"]["labels"]["app.kubernetes.io/component"]
        for found in pods if found["status"]["phase"] == "Running"
    }  # fmt: skip


def require_clean_nodes(cluster: Cluster) -> None:
    """Neither processes nor folders of the driver are left on any node."""
    script = "ls -d /run/efc /var/lib/kubelet/plugins/efc.* /var/lib/kubelet/plugins_registry/efc.* 2>/dev/null || :"
    for node in cluster.nodes():
        assert cluster.on_node(node, "sh", "-c", script) == ""
        assert cluster.daemon_mounts(node) == []
        assert cluster.daemons(node) == []


@contextmanager
def installed_by_helm(cluster: Cluster, chart: str, *options: str, with_crds: bool = True) -> Iterator[str]:
    """A chart's driver instead of the one that is there, on nodes that this was removed from; what helm said.

    In the end, and if it cannot be installed, the driver is there again as the other tests have it.
    """
    try:
        uninstall(cluster)
        require_clean_nodes(cluster)
        if not with_crds:
            cluster.kubectl("delete", "-f", "-", stdin=CRDS.read_text(), limit_s=90)
        cluster.kubectl("create", "namespace", SYSTEM_NAMESPACE)
        cluster.kubectl("label", "namespace", SYSTEM_NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")
        said = helm(cluster, "install", "efc", chart, *options)
        cluster.await_driver("keeper", "node", "controller")
        yield said
    finally:
        helm(cluster, "uninstall", "efc", "--ignore-not-found", "--no-hooks")
        cluster.kubectl("delete", "namespace", SYSTEM_NAMESPACE, "--ignore-not-found", "--wait", limit_s=120)
        install(cluster)


@pytest.fixture
def by_helm(cluster: Cluster) -> Iterator[str]:
    """The driver as docs/QUICKSTART.md installs it by Helm; what helm said."""
    with installed_by_helm(cluster, "deploy/chart", *settings(cluster, image=IMAGE)) as said:
        yield said


@pytest.fixture
def without_datasets(cluster: Cluster) -> Iterator[None]:
    """The driver without operator, pod networks and CRDs, as release 0.1.0 was; in the end all of it again."""
    off = ("operator.enabled=false", "dataset.enabled=false", "network.enabled=false", "crds.install=never")
    switched = [word for value in off for word in ("--set", value)]
    options = [*settings(cluster, image=IMAGE), *switched]
    with installed_by_helm(cluster, "deploy/chart", *options, with_crds=False):
        yield


def keepers_of(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """Of each keeper's pod: its UID, and how often its container has started."""
    found = cluster.objects("pods", namespace=SYSTEM_NAMESPACE, selector="app.kubernetes.io/component=keeper")
    return {
        one["metadata"]["name"]: (one["metadata"]["uid"], one["status"]["containerStatuses"][0]["restartCount"])
        for one in found
    }


@pytest.mark.timeout(900)
def test_datasets_come_to_an_installation_in_use(
    without_datasets: None, namespace: Namespace, shared: str, figures: dict[str, object]
) -> None:
    """An upgrade brings operator and CRDs: who works on a volume notices nothing, and no keeper starts anew."""
    cluster = namespace.cluster
    keepers = keepers_of(cluster)
    assert len(keepers) == len(cluster.nodes())
    with verified_load(namespace, claim=shared, node="n1") as report:
        daemons = cluster.daemons("n1")
        helm(cluster, "upgrade", "efc", "deploy/chart", *settings(cluster, image=IMAGE))
        cluster.await_driver("node", "controller", "network", "operator")
        namespace.apply(
            dataset("demo", source_of(namespace)),
            runtime("demo"),
        )
        await_phase(namespace, "demo", "Bound")
        assert cluster.daemons("n1") == daemons
    figures["operator and CRDs come to an installation in use"] = vars(report)
    assert report.errors == 0, report
    assert report.longest_pause_s < HUNG_S, report
    assert keepers_of(cluster) == keepers


@pytest.mark.timeout(900)
def test_helm_installs_upgrades_and_removes_nothing_that_is_used(
    by_helm: str, namespace: Namespace, shared: str
) -> None:
    cluster = namespace.cluster
    assert f"Volumes can be made on: {cluster.nas_url}" in by_helm
    namespace.apply(pod("user", claims={"/data": shared}, node="n1"))
    namespace.await_pods("user")
    namespace.run("user", "echo content >/data/file")

    # An upgrade with another image names the pods that it does not replace by itself.
    kept = {name for name, part in parts(cluster).items() if part in ("keeper", "network")}
    said = helm(cluster, "upgrade", "efc", "deploy/chart", *settings(cluster, image=OTHER_NAME))
    named = re.findall(rf"delete pod (\S+) # on n\d, runs {IMAGE}$", said, re.MULTILINE)
    assert (set(named), len(named)) == (kept, 2 * len(cluster.nodes()))
    cluster.await_driver("node", "controller")
    assert kept < set(parts(cluster)), "each goes on until somebody deletes it"
    cluster.kubectl("-n", SYSTEM_NAMESPACE, "delete", "pod", *named, limit_s=90)
    cluster.await_driver("keeper", "network")
    said = helm(cluster, "upgrade", "efc", "deploy/chart", *settings(cluster, image=OTHER_NAME))
    assert "delete pod" not in said
    assert namespace.run("user", "cat /data/file") == "content"

    # While a pod uses a volume nothing is removed, and it is said which does.
    use = f"pod {namespace.name}/user on node n1 uses claim {shared}"
    before = parts(cluster)
    said = helm(cluster, "uninstall", "efc", check=False)
    assert "efc-uninstall" in said
    log = cluster.kubectl("-n", SYSTEM_NAMESPACE, "logs", "job/efc-uninstall")
    assert use in log
    assert use in uninstall(cluster, str(SCRIPTS / "helm"), "uninstall", "efc", check=False)
    assert parts(cluster).items() >= before.items()
    assert namespace.run("user", "cat /data/file") == "content"

    namespace.delete("pod", "user")
    wait_until(lambda: not cluster.published("n1"), what="the volume to be unpublished", limit_s=60)
    helm_uninstall = (str(SCRIPTS / "helm"), "--namespace", SYSTEM_NAMESPACE, "uninstall", "efc")
    said = uninstall(cluster, *helm_uninstall)
    assert 'release "efc" uninstalled' in said
    assert "not every node is clean" not in said
    wait_until(lambda: not parts(cluster), what="the driver's pods to go", limit_s=90)
    require_clean_nodes(cluster)
    assert cluster.get("csidriver", "efc.csi.data.fluid.io") is None
    assert (cluster.nas_folder / namespace.name / "file").read_text() == "content\n"
