"""`kubectl efc`, metrics of the operator that leads, and an autoscaler, beside a real API server and operator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import SCRIPTS, Cluster, Manifest, Namespace, pod
from tests.operator.objects import await_phase, await_said, await_status, dataset, get, runtime, source_of
from tests.operator.operators import Operator
from tests.support.metrics import parsed
from tests.support.paths import ROOT
from tests.support.processes import wait_until

HPA = ROOT / "deploy" / "examples" / "hpa.yaml"
_PLUGIN = f"""#!/bin/sh
PYTHONSAFEPATH=1 PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1 exec {sys.executable} \\
    -c "import sys; from csi.cli import kubectl; sys.exit(kubectl())" "$@"
"""
_FLUID = {"Dataset": "fluid-dataset-controller-finalizer", "EFCRuntime": "efc-runtime-controller-finalizer"}


class Plugin:
    """`kubectl efc`, found by kubectl on its PATH, in a namespace."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self._namespace = namespace
        self._folder = folder

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "EFC_CLUSTER_DIR": str(self._namespace.cluster.folder), "PATH": f"{self._folder}:{os.environ['PATH']}",
        }  # fmt: skip
        command = [str(SCRIPTS / "kubectl"), "efc", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

    def rows(self, *arguments: str) -> list[list[str]]:
        """What it prints below its heading, by words."""
        done = self.run(*arguments, "-n", self._namespace.name)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()[1:]]

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.run(*arguments, "-n", self._namespace.name, "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def fails(self, *arguments: str) -> str:
        done = self.run(*arguments, "-n", self._namespace.name)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def efc(namespace: Namespace, tmp_path: Path) -> Plugin:
    plugin = tmp_path / "kubectl-efc"
    plugin.write_text(_PLUGIN)
    plugin.chmod(0o755)
    return Plugin(namespace, tmp_path)


def test_how_a_dataset_does(namespace: Namespace, efc: Plugin) -> None:
    assert "There are no Datasets" in efc.run("status", "-n", namespace.name).stdout
    namespace.apply(dataset("demo", source_of(namespace)), dataset("alone", source_of(namespace)), runtime("demo"))
    await_phase(namespace, "demo", "Bound")
    await_said(namespace, "dataset", "alone", "Ready", "EFCRuntime")
    alone, demo = efc.rows("status")
    assert demo[:2] == ["demo", "Bound"]
    assert alone[:2] == ["alone", "NotBound"]
    assert "there is no EFCRuntime 'alone'" in " ".join(alone)
    whole = efc.run("status", "demo", "-n", namespace.name).stdout
    assert f"Dataset:  {namespace.name}/demo\nPhase:    Bound\n" in whole
    assert "SourceReachable" in whole
    (view,) = efc.json("status", "demo")
    assert (view["phase"], view["ready"], view["capacity"]) == ("Bound", True, "0.00B")
    everywhere = efc.run("status", "-A").stdout
    assert everywhere.startswith("NAMESPACE")
    assert namespace.name in everywhere
    assert [row[0] for row in efc.rows("top")] == ["demo", "alone"]
    assert "there is no Dataset 'nobody'" in efc.fails("status", "nobody")


def test_where_it_is_cached_and_who_mounts_it(namespace: Namespace, efc: Plugin) -> None:
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo", replicas=2))
    await_phase(namespace, "demo", "Bound")
    wait_until(lambda: len(efc.json("where", "demo")) == 2, what="two workers", limit_s=60)
    workers = efc.json("where", "demo")
    assert [(worker["worker"], worker["capacity"]) for worker in workers] == [
        ("demo-worker-0", "64.00MiB"), ("demo-worker-1", "64.00MiB"),
    ]  # fmt: skip
    assert efc.rows("where", "demo")[0][0] == "demo-worker-0"
    assert efc.json("mounts", "demo") == []
    # Their image is nowhere: that they are there is enough.
    for name, claim in (("user", "demo"), ("other", "another")):
        namespace.apply(pod(name, claims={"/data": claim}, image="efc.test/nowhere:1"))
    (user,) = efc.json("mounts", "demo")
    assert (user["pod"], user["paths"]) == ("user", ["/data"])
    assert efc.rows("mounts", "demo")[0][0] == "user"
    (top,) = efc.json("top")
    assert top["pods"] == 1
    assert "there is no Dataset 'another'" in efc.fails("mounts", "another")
    namespace.delete("pod", "user", "other")
    namespace.apply(dataset("alone", source_of(namespace)))
    assert "has no EFCRuntime" in efc.fails("where", "alone")


@pytest.fixture
def fluid(namespace: Namespace) -> Iterator[Manifest]:
    """A Deployment that is Fluid's controller of Datasets, by its label; its image is nowhere."""
    labels = {"control-plane": "dataset-controller"}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "dataset-controller", "labels": labels},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "manager", "image": "efc.test/nowhere:1"}]},
            },
        },
    }  # fmt: skip
    namespace.apply(deployment)
    yield deployment
    namespace.cluster.kubectl("-n", namespace.name, "delete", "deployment", "dataset-controller", "--ignore-not-found")


def test_what_a_removed_fluid_left_is_taken_off(namespace: Namespace, efc: Plugin, fluid: Manifest) -> None:
    for made in (dataset("demo", source_of(namespace)), runtime("demo"), dataset("other", source_of(namespace))):
        left = {**made["metadata"], "finalizers": [_FLUID[made["kind"]], "example.com/theirs"]}
        namespace.apply({**made, "metadata": left})
    await_phase(namespace, "demo", "Bound")

    said = efc.fails("adopt", "demo")
    assert f"Fluid runs here (Deployments {namespace.name}/dataset-controller)" in said
    assert _FLUID["Dataset"] in get(namespace, "dataset", "demo")["metadata"]["finalizers"]

    namespace.cluster.kubectl("-n", namespace.name, "scale", "deployment/dataset-controller", "--replicas=0")
    wait_until(
        lambda: not get(namespace, "deployment", "dataset-controller")["status"].get("replicas"),
        what="the controller's end", limit_s=60,
    )  # fmt: skip
    assert efc.run("adopt", "-n", namespace.name).returncode == 2, "never all of them"
    done = efc.run("adopt", "demo", "-n", namespace.name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(
        f"{kind} {namespace.name}/demo: took {finalizer} off\n" for kind, finalizer in _FLUID.items()
    )
    for kind in ("dataset", "efcruntime"):
        kept = get(namespace, kind, "demo")["metadata"]["finalizers"]
        assert "example.com/theirs" in kept
        assert not set(kept) & set(_FLUID.values())
    assert _FLUID["Dataset"] in get(namespace, "dataset", "other")["metadata"]["finalizers"]
    assert "has no finalizer of Fluid's" in efc.run("adopt", "demo", "-n", namespace.name).stdout
    assert "neither a Dataset nor an EFCRuntime 'nobody'" in efc.fails("adopt", "nobody")
    done = efc.run("adopt", "nobody", "other", "-n", namespace.name)
    assert (done.returncode, "took" in done.stdout) == (1, True), "one name that is wrong keeps nothing from the others"

    for kind, name in (("dataset", "demo"), ("efcruntime", "demo"), ("dataset", "other")):
        found = get(namespace, kind, name)["metadata"]["finalizers"]
        at = found.index("example.com/theirs")
        namespace.cluster.kubectl(
            "-n", namespace.name, "patch", kind, name, "--type=json",
            "-p", json.dumps([{"op": "remove", "path": f"/metadata/finalizers/{at}"}]),
        )  # fmt: skip


def test_who_may_not_look_is_told(namespace: Namespace, efc: Plugin) -> None:
    """By a service account without rights: its kubeconfig is given."""
    cluster = namespace.cluster
    token = cluster.kubectl("-n", namespace.name, "create", "token", "default").strip()
    found = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    found["users"] = [{"name": found["users"][0]["name"], "user": {"token": token}}]
    path = cluster.folder / "nobody.kubeconfig"
    path.write_text(json.dumps(found))
    said = efc.fails("status", "--kubeconfig", str(path))
    assert "datasets.data.fluid.io is forbidden" in said
    assert "the right to list Deployments" in efc.fails("adopt", "demo", "--kubeconfig", str(path))


def _scraped(cluster: Cluster, port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples that an operator serves."""
    command = [
        str(SCRIPTS / "on-node"),
        "0",
        sys.executable,
        "-c",
        f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/metrics').read().decode(), end='')",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=os.environ | {"EFC_CLUSTER_DIR": str(cluster.folder)}
    )
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def test_the_operator_that_leads_serves_metrics(namespace: Namespace, operator: Operator) -> None:
    """And one that waits has none of Datasets."""
    cluster = namespace.cluster
    namespace.apply(
        dataset("demo", source_of(namespace)), runtime("demo", replicas=2),
        dataset("gone", "nfs://127.0.0.1:1/data"), runtime("gone"), dataset("alone", source_of(namespace)),
    )  # fmt: skip
    await_phase(namespace, "demo", "Bound")
    await_said(namespace, "dataset", "gone", "SourceReachable", "127.0.0.1")
    second = Operator(cluster=cluster, name="measured", arguments=["--metrics-address", "127.0.0.1:19823"])
    second.start()
    try:
        wait_until(lambda: "metrics at" in second.said(), what="its metrics", limit_s=60)
        waits = _scraped(cluster, 19823)
        assert waits["efc_operator_leads", ()] == 0
        assert not [name for name, _ in waits if name.startswith("efc_dataset_")]
        operator.end()
        second.await_in_step(limit_s=90)
        leads = _scraped(cluster, 19823)
        assert leads["efc_operator_leads", ()] == 1
        assert leads["efc_operator_api_requests_total", ()] > 10

        def sample(name: str, of: str, **labels: str) -> float | None:
            pairs = {"dataset_namespace": namespace.name, "dataset_name": of, **labels}
            return leads.get((f"efc_dataset_{name}", tuple(sorted(pairs.items()))))

        def is_tried() -> bool:
            nonlocal leads
            leads = _scraped(cluster, 19823)
            return sample("source_reachable", "gone") is not None

        # A leader that is new looks for itself at what could not be reached.
        wait_until(is_tried, what="the source to be tried again", limit_s=60, interval_s=1)
        for name, phase in {"demo": "Bound", "gone": "NotBound", "alone": "NotBound"}.items():
            for one in ("Bound", "NotBound", "Failed", "Updating"):
                assert sample("phase", name, phase=one) == (one == phase), (name, one)
        assert [sample("ready", name) for name in ("demo", "gone", "alone")] == [1, 0, 0]
        assert [sample("source_reachable", name) for name in ("demo", "gone", "alone")] == [1, 0, None]
        assert (sample("workers_desired", "demo"), sample("fuses_desired", "demo")) == (2, 0)
        assert (sample("cached_bytes", "demo"), sample("cached_bytes", "gone")) == (0, None)
    finally:
        second.end()
        operator.start()
        operator.await_in_step(limit_s=90)


def test_an_autoscaler_can_scale_it(namespace: Namespace) -> None:
    """The example as it is; without an adapter it has no figures, but says that it can read and write the scale."""
    namespace.apply(dataset("efc-demo", source_of(namespace)), runtime("efc-demo", replicas=2))
    await_phase(namespace, "efc-demo", "Bound")
    await_status(
        namespace, "efcruntime", "efc-demo", lambda found: found["status"].get("currentWorkerNumberScheduled") == 2,
        what="two workers",
    )  # fmt: skip
    path = f"/apis/data.fluid.io/v1alpha1/namespaces/{namespace.name}/efcruntimes/efc-demo/scale"
    scale = json.loads(namespace.cluster.kubectl("get", "--raw", path))
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
    selector = scale["status"]["selector"]
    chosen = namespace.cluster.objects("pods", namespace=namespace.name, selector=selector)
    assert sorted(found["metadata"]["name"] for found in chosen) == ["efc-demo-worker-0", "efc-demo-worker-1"]
    namespace.apply(*yaml.safe_load_all(HPA.read_text()))

    def able() -> dict[str, Any]:
        found = get(namespace, "horizontalpodautoscaler", "efc-demo")
        said = (found.get("status") or {}).get("conditions") or ()
        return {one["type"]: one for one in said}

    wait_until(lambda: "ScalingActive" in able(), what="the autoscaler to look", limit_s=90)
    assert able()["AbleToScale"]["status"] == "True", able()
    assert able()["ScalingActive"]["reason"] == "FailedGetObjectMetric", able()
    namespace.cluster.kubectl("-n", namespace.name, "delete", "hpa", "efc-demo")
    namespace.cluster.kubectl("-n", namespace.name, "scale", "efc", "efc-demo", "--replicas=1")
    await_status(
        namespace, "efcruntime", "efc-demo", lambda found: found["status"].get("desiredWorkerNumberScheduled") == 1,
        what="one worker",
    )  # fmt: skip
