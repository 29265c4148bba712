"""The API server takes deploy/crds.yaml, refuses wrong Datasets and runtimes in our words, and prints the columns."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from csi.api import crds
from csi.api.checks import Problem, problems
from csi.api.dataset import MOUNTS_MAX, Dataset
from csi.api.efcruntime import LEVELS_MAX, EFCRuntime
from csi.api.status import CacheStates, DatasetCondition, DatasetStatus, PartPhase, RuntimeStatus
from tests.cluster.cluster import Cluster
from tests.support.dataset_objects import RIGHT, WRONG, Object, dataset, level
from tests.support.paths import ROOT
from tests.support.processes import wait_until

pytestmark = pytest.mark.short
_KINDS: Mapping[str, type[Dataset | EFCRuntime]] = {"Dataset": Dataset, "EFCRuntime": EFCRuntime}


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """No volume is published here: neither driver nor pod is needed."""


@pytest.fixture(scope="module")
def served(bare_cluster: Cluster) -> Cluster:
    """The cluster with both CRDs."""
    # Another test may have installed them by Helm.
    written = (ROOT / "deploy" / "crds.yaml").read_text()
    bare_cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=written)
    for name in ("datasets", "efcruntimes"):
        bare_cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}.data.fluid.io", "--timeout=30s")
    return bare_cluster


def _tried(cluster: Cluster, objects: Mapping[str, Object]) -> dict[str, str]:
    """What the API server says to creating each object, without creating any; of those that it takes, nothing."""
    items = [{**written, "metadata": {"name": name, "namespace": "default"}} for name, written in objects.items()]
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    done = cluster.script(
        "kubectl", "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=stdin, limit_s=60, check=False
    )
    said = re.split(r'[A-Za-z.]+ "([a-z0-9-]+)" is invalid: ', done.stderr)
    refused = dict(zip(said[1::2], said[2::2], strict=True))
    taken = set(re.findall(r"/([a-z0-9-]+) created", done.stdout))
    assert taken | set(refused) == set(objects), done.stderr
    return refused


def test_wrong_input_is_refused_in_the_words_of_the_operator(served: Cluster) -> None:
    said = _tried(served, {wrong.case: wrong.object for wrong in WRONG})
    for wrong in WRONG:
        problem, *_ = problems(_KINDS[wrong.object["kind"]].model_validate(wrong.object))
        assert f"{problem.field}: " in said[wrong.case]
        assert problem.message in said[wrong.case]


def test_right_input_is_taken(served: Cluster) -> None:
    assert _tried(served, RIGHT) == {}


def test_the_longest_lists_and_texts_are_taken(served: Cluster) -> None:
    """The rules cost the API server no more than it allows, whatever is written."""
    mounts = [{"mountPoint": "nfs://nas" + "/d" * 1019, "path": f"/{n:02}d" + "/d" * 510} for n in range(MOUNTS_MAX)]
    levels = [
        {"mediumtype": "SSD", "path": ",".join(f"/{n}" for n in range(100)), "quotaList": ",".join(["64Mi"] * 100)}
    ] * LEVELS_MAX
    whole = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "spec": {"mounts": mounts}}
    runtime = {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "EFCRuntime",
        "spec": {"tieredstore": {"levels": levels}},
    }
    assert _tried(served, {"mounts": whole, "levels": runtime}) == {}


def _at_random(story: random.Random) -> Object:
    """A Dataset or a runtime, likely wrong."""
    parts = [
        "nfs://",
        "cpfs://",
        "pvc://",
        "nas",
        "[::1]",
        ":",
        "2049",
        "/",
        "..",
        "a",
        "-",
        ".",
        "?",
        "\\",
        "@",
        "\n",
        "é",
    ]

    def text(*, longest: int) -> str:
        return "".join(story.choices(parts, k=story.randint(1, longest)))

    def mount() -> dict[str, str]:
        places = {
            name: story.choice(["", "/", "a", "/a", "/a/", "/a/b", "a/b", "/ab", "//a"]) for name in ("path", "name")
        }
        kept = {name: place for name, place in places.items() if story.random() < 0.7}
        return {"mountPoint": story.choice(["nfs://nas/a", text(longest=6).ljust(5, "x")])} | kept

    if story.random() < 0.6:
        return dataset(*(mount() for _ in range(story.choice([1, 2, 3]))))
    quotas = ["64Mi", "63Mi", "67108864", "6.4e7", "7e7", "0.0625Gi", "0.06Gi", "68M", "67M", "1m", "0", "1Ei"]
    fields = {
        "quota": story.choice(quotas),
        "quotaList": ",".join(story.choices(["1Gi", "64Mi", "1Mi", "70M"], k=story.choice([2, 3]))),
        "path": story.choice(["/a", "/a,/b", "/a,/b,/c"]),
        "high": story.choice(["", "0.9", "1", "1.", ".5", "x", "0.70"]),
        "low": story.choice(["", "0.7", "2", "y"]),
    }
    return level(**{name: value for name, value in fields.items() if story.random() < 0.6})


def test_the_api_server_and_the_operator_agree(served: Cluster) -> None:
    """What CEL refuses is what Python finds, but for what only parsing tells."""
    story = random.Random(1)
    tried = {f"story-{number}": _at_random(story) for number in range(200)}
    said = _tried(served, tried)
    for name, written in tried.items():
        wrong = [
            problem for problem in problems(_KINDS[written["kind"]].model_validate(written)) if _is_of_a_rule(problem)
        ]
        assert (name in said) == bool(wrong), (written, said.get(name), wrong)
        for problem in wrong:
            assert problem.message in said[name], (written, said[name])


def _is_of_a_rule(problem: Problem) -> bool:
    return not problem.message.startswith(("source ", "the directory ")) and "for now" not in problem.message


@pytest.fixture
def bound(served: Cluster) -> Iterator[Cluster]:
    """A Dataset and its runtime with a status as the operator writes it."""
    conditions = (DatasetCondition(type="Ready", status="True", reason="DatasetReady"),)
    cache = CacheStates(cached="0.00B", cache_capacity="45.00GiB", cached_percentage="0.0%", cache_hit_ratio="0.0%")
    data = DatasetStatus(
        observed_generation=1, phase="Bound", conditions=conditions,
        ufs_total="10.00GiB", file_num="1", cache_states=cache,
    )  # fmt: skip
    served.kubectl("create", "-f", "-", stdin=_list([RIGHT["quick-start"], RIGHT["quick-start-runtime"]]))
    try:
        _write_status(served, "Dataset", data.written())
        ready = RuntimeStatus(
            master_phase=PartPhase.READY, worker_phase=PartPhase.PARTIAL_READY, fuse_phase=PartPhase.READY,
            desired_worker_number_scheduled=3, current_worker_number_scheduled=3, worker_number_ready=2,
            selector="app=efc,release=tried,role=efc-worker",
        )  # fmt: skip
        _write_status(served, "EFCRuntime", ready.written())
        yield served
    finally:
        served.kubectl("delete", "dataset,efc", "tried")


def _list(items: Iterable[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)})


def _write_status(cluster: Cluster, kind: str, status: Mapping[str, Any]) -> None:
    written = {"apiVersion": "data.fluid.io/v1alpha1", "kind": kind, "metadata": {"name": "tried"}, "status": status}
    options = ("--server-side", "--subresource=status", "--field-manager=efc-operator")
    cluster.kubectl("apply", *options, "-f", "-", stdin=json.dumps(written))


def _rows(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_columns(bound: Cluster) -> None:
    header, row = _rows(bound.kubectl("get", "dataset", "tried"))
    assert header == [
        "NAME", "UFS TOTAL SIZE", "CACHED", "CACHE CAPACITY", "CACHED PERCENTAGE", "PHASE", "AGE",
    ]  # fmt: skip
    assert row[:-1] == ["tried", "10.00GiB", "0.00B", "45.00GiB", "0.0%", "Bound"]
    header, row = _rows(bound.kubectl("get", "efc", "tried"))
    assert header == ["NAME", "MASTER PHASE", "WORKER PHASE", "FUSE PHASE", "AGE"]
    assert row[:-1] == ["tried", "Ready", "PartialReady", "Ready"]
    wide = bound.kubectl("get", "efc", "tried", "-o", "wide").splitlines()[0]
    assert "READY WORKERS   DESIRED WORKERS   WORKER PHASE" in wide
    assert "TOTAL FILES   CACHE HIT RATIO" in bound.kubectl("get", "dataset", "tried", "-o", "wide").splitlines()[0]
    category = bound.kubectl("get", "fluid", "-o", "name").split()
    assert {"dataset.data.fluid.io/tried", "efcruntime.data.fluid.io/tried"} <= set(category)
    assert "condition met" in bound.kubectl("wait", "--for=condition=Ready", "dataset/tried", "--timeout=5s")


def test_scale(bound: Cluster) -> None:
    bound.kubectl("scale", "efc", "tried", "--replicas=1")
    path = "/apis/data.fluid.io/v1alpha1/namespaces/default/efcruntimes/tried/scale"
    scale = json.loads(bound.kubectl("get", "--raw", path))
    assert scale["spec"]["replicas"] == 1
    assert scale["status"] == {"replicas": 3, "selector": "app=efc,release=tried,role=efc-worker"}


def _without_rules(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _without_rules(inner) for name, inner in schema.items() if name != "x-kubernetes-validations"}
    return [_without_rules(inner) for inner in schema] if isinstance(schema, list) else schema


def test_crds_of_somebody_else_are_not_replaced_by_mistake_and_old_objects_stay(served: Cluster) -> None:
    """Under CRDs without rules a Dataset is made that ours refuse: it can still be changed, and deleted."""
    apply = ("apply", "--server-side", "-f", "-")
    theirs = json.dumps({"apiVersion": "v1", "kind": "List", "items": _without_rules(crds.crds())})
    served.kubectl(*apply, "--field-manager=somebody", "--force-conflicts", stdin=theirs)
    refused = {**dataset("s3://bucket/data"), "metadata": {"name": "older", "namespace": "default"}}

    def is_made() -> bool:
        served.kubectl("create", "-f", "-", stdin=json.dumps(refused), check=False)
        return served.get("dataset", "older") is not None

    wait_until(is_made, what="CRDs without rules in force", limit_s=30, interval_s=0.5)
    done = served.script("kubectl", *apply, stdin=crds.text(), limit_s=60, check=False)
    assert 'conflict with "somebody"' in done.stderr
    served.kubectl(*apply, "--force-conflicts", stdin=crds.text())
    wait_until(lambda: "web" in _tried(served, {"web": WRONG[0].object}), what="rules in force", limit_s=30)
    served.kubectl("label", "dataset", "older", "changed=yes")
    served.kubectl("delete", "dataset", "older", "--timeout=30s")


def test_who_may_edit_a_namespace_may_edit_its_datasets(served: Cluster) -> None:
    options = ("--show-only", "templates/datasets.yaml")
    done = subprocess.run([ROOT / "deploy" / "render", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    served.kubectl("apply", "-f", "-", stdin=done.stdout)

    def rules(role: str) -> dict[str, set[str]]:
        found = served.get("clusterrole", role) or {"rules": []}
        ours = [rule for rule in found["rules"] if rule.get("apiGroups") == ["data.fluid.io"]]
        verbs: dict[str, set[str]] = {}
        for rule in ours:
            for resource in rule["resources"]:
                verbs.setdefault(resource, set()).update(rule["verbs"])
        return verbs

    wait_until(lambda: bool(rules("view") and rules("admin")), what="the roles' aggregation", limit_s=30)
    assert rules("view")["datasets"] == {"get", "list", "watch"}
    for role in ("edit", "admin"):
        assert rules(role)["datasets"] >= {"get", "create", "patch", "delete"}
        assert rules(role)["efcruntimes/scale"] >= {"get", "patch"}
        assert rules(role)["datasets/status"] == {"get", "list", "watch"}


def test_explained(served: Cluster) -> None:
    assert "nfs://HOST" in served.kubectl("explain", "dataset.spec.mounts.mountPoint")
