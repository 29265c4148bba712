"""What belongs to a Dataset is taken away when nobody expects it: it comes again, or it is said what to do."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Namespace
from tests.operator.objects import await_phase, await_said, await_status, condition, dataset, get, runtime, source_of
from tests.operator.operators import Operator
from tests.support.processes import wait_until

pytestmark = pytest.mark.timeout(300)


def _delete(namespace: Namespace, *what: str) -> None:
    namespace.cluster.kubectl("-n", namespace.name, "delete", *what, "--wait=false")


def _bound(namespace: Namespace, *, replicas: int = 0) -> None:
    namespace.apply(dataset("demo", source_of(namespace)), runtime("demo", replicas=replicas))
    await_phase(namespace, "demo", "Bound")


def _await_bound_anew(namespace: Namespace, *, former: str) -> None:
    """The claim is another one than the former, and Kubernetes has bound it."""

    def is_bound() -> bool:
        found = namespace.cluster.get("persistentvolumeclaim", "demo", namespace=namespace.name)
        return bool(found and found["metadata"]["uid"] != former and found["status"].get("phase") == "Bound")

    wait_until(is_bound, what="another claim that is bound", limit_s=60, interval_s=0.3)
    await_phase(namespace, "demo", "Bound", limit_s=30)


def test_the_claim_is_deleted(namespace: Namespace) -> None:
    _bound(namespace)
    former = get(namespace, "persistentvolumeclaim", "demo")["metadata"]["uid"]
    _delete(namespace, "persistentvolumeclaim", "demo")
    _await_bound_anew(namespace, former=former)


def test_the_volume_is_torn_away_from_its_claim(namespace: Namespace) -> None:
    """By force, past what protects it: Kubernetes never binds such a claim again."""
    _bound(namespace)
    claim = get(namespace, "persistentvolumeclaim", "demo")
    volume = claim["spec"]["volumeName"]
    namespace.cluster.kubectl("delete", "persistentvolume", volume, "--wait=false")
    patch = json.dumps({"metadata": {"finalizers": None}})
    namespace.cluster.kubectl("patch", "persistentvolume", volume, "--type=merge", "-p", patch)
    _await_bound_anew(namespace, former=claim["metadata"]["uid"])


@pytest.mark.parametrize("kind", ["service", "statefulset", "secret"])
def test_what_the_dataset_is_made_of_is_deleted(namespace: Namespace, kind: str) -> None:
    _bound(namespace, replicas=1)
    names = {
        "service": ["demo-master"], "statefulset": ["demo-master", "demo-worker"],
        "secret": ["demo-efc-authority", "demo-efc-node", "demo-efc-master", "demo-efc-worker"],
    }[kind]  # fmt: skip
    before = {name: get(namespace, kind, name) for name in names}
    _delete(namespace, kind, *names)

    def is_there() -> bool:
        found = [namespace.cluster.get(kind, name, namespace=namespace.name) for name in names]
        uids = [one["metadata"]["uid"] for one in found if one is not None]
        return len(uids) == len(names) and not {*uids} & {one["metadata"]["uid"] for one in before.values()}

    wait_until(is_there, what=f"{names} to come again", limit_s=90, interval_s=0.3)
    await_status(
        namespace, "dataset", "demo", lambda found: condition(found, "Ready")["status"] == "True", what="Ready",
        limit_s=60,
    )  # fmt: skip
    if kind == "service":
        address = before["demo-master"]["spec"]["clusterIP"]
        assert get(namespace, kind, "demo-master")["spec"]["clusterIP"] == address, "nodes know no other"


def test_a_runtime_leaves_orphans(namespace: Namespace) -> None:
    _bound(namespace, replicas=1)
    _delete(namespace, "efc", "demo", "--cascade=orphan")
    await_said(namespace, "dataset", "demo", "Ready", "create one")
    namespace.apply(runtime("demo", replicas=1))
    found = await_said(namespace, "dataset", "demo", "Ready", "--cascade=orphan", "statefulset/demo-worker")
    assert condition(found, "Ready")["reason"] == "Orphaned"
    command = condition(found, "Ready")["message"].rpartition(": ")[2]
    program, *arguments = shlex.split(command)
    assert program == "kubectl"
    namespace.cluster.kubectl(*arguments, "--timeout=60s", limit_s=70)
    await_phase(namespace, "demo", "Bound", limit_s=60)


def test_the_runtime_goes_before_its_dataset_and_another_comes(namespace: Namespace) -> None:
    _bound(namespace, replicas=1)
    _delete(namespace, "efc", "demo")
    namespace.cluster.kubectl("-n", namespace.name, "wait", "--for=delete", "efc/demo", "--timeout=60s", limit_s=70)
    namespace.apply(runtime("demo", replicas=2))
    await_phase(namespace, "demo", "Bound")
    wait_until(
        lambda: get(namespace, "statefulset", "demo-worker")["spec"]["replicas"] == 2, what="two workers", limit_s=30
    )


@pytest.fixture
def killed(operator: Operator) -> Iterator[Operator]:
    """An operator that tests may kill; it runs again afterwards."""
    yield operator
    operator.end()
    operator.start()
    operator.await_in_step()


def test_the_operator_is_killed_while_it_makes_and_deletes(namespace: Namespace, killed: Operator) -> None:
    """At each of several moments; what there is in the end is what there would have been."""
    for number, delay_s in enumerate(itertools.chain([0.0, 0.1, 0.3], [0.6, 1.0, 2.0])):
        name = f"demo-{number}"
        namespace.apply(dataset(name, source_of(namespace)), runtime(name, replicas=1))
        time.sleep(delay_s)
        killed.end(signal.SIGKILL)
        killed.start()
    killed.await_in_step(limit_s=120)
    for number in range(6):
        await_phase(namespace, f"demo-{number}", "Bound")
    names = [f"demo-{number}" for number in range(6)]
    namespace.cluster.kubectl("-n", namespace.name, "delete", "datasets", *names, "--wait=false")
    time.sleep(0.2)
    killed.end(signal.SIGKILL)
    killed.start()
    wait_until(
        lambda: not namespace.cluster.objects("datasets,efcruntimes,statefulsets", namespace=namespace.name),
        what="all of it to go", limit_s=120, interval_s=0.5,
    )  # fmt: skip


@pytest.fixture
def allowed(operator: Operator, namespace: Namespace) -> Iterator[Path]:
    """The list of an operator that has one; the operator is the former afterwards."""
    file = operator.cluster.folder / "allowed-sources.json"
    file.write_text("[]")
    former = operator.arguments
    operator.end()
    operator.arguments = [*former, "--allowed-sources", str(file)]
    operator.start()
    operator.await_in_step()
    yield file
    operator.end()
    operator.arguments = former
    operator.start()
    operator.await_in_step()


def test_sources_that_are_allowed(namespace: Namespace, allowed: Path) -> None:
    """Of a list that changes: what it does not name is refused, and a link that a tenant makes leads nowhere."""
    folder = namespace.cluster.nas_folder / namespace.name
    (folder / "team" / "data").mkdir(parents=True)
    (folder / "secret").mkdir()
    (folder / "team" / "link").symlink_to("../secret")
    whole, _, query = source_of(namespace).partition("?")
    for name, path in (("demo", "team/data"), ("link", "team/link"), ("other", "secret")):
        namespace.apply(dataset(name, f"{whole}/{path}?{query}"), runtime(name))
    found = await_said(namespace, "dataset", "demo", "Ready", "dataset.allowedSources", namespace.name)
    assert condition(found, "Ready")["reason"] == "SourceNotAllowed"

    allowed.write_text(json.dumps([{"namespaces": [namespace.name], "sources": [f"{whole}/team?{query}"]}]))
    await_phase(namespace, "demo", "Bound")
    volume = get(namespace, "persistentvolumeclaim", "demo")["spec"]["volumeName"]
    attributes = get(namespace, "persistentvolume", volume)["spec"]["csi"]["volumeAttributes"]
    assert attributes["source"].partition("?")[0].endswith("/team")
    assert attributes["path"] == "data"
    await_said(namespace, "dataset", "link", "SourceReachable", "link")
    found = await_said(namespace, "dataset", "other", "Ready", "name what lies at or beneath")
    assert found["status"]["phase"] == "NotBound"

    allowed.write_text("[{")
    found = await_said(namespace, "dataset", "demo", "Ready", "list of allowed sources")
    assert found["status"]["phase"] == "Failed"
    assert get(namespace, "persistentvolumeclaim", "demo")["status"]["phase"] == "Bound"
    allowed.write_text(json.dumps([{"namespaces": ["*"], "sources": [f"{whole}/team?{query}"]}]))
    await_phase(namespace, "demo", "Bound")


def test_of_several_mounts_each_is_allowed_by_itself(namespace: Namespace, allowed: Path) -> None:
    """What lies beneath a listed source may be a link, and of several each is opened as the NAS finds it."""
    folder = namespace.cluster.nas_folder / namespace.name
    (folder / "team" / "data").mkdir(parents=True)
    (folder / "secret").mkdir()
    (folder / "team" / "link").symlink_to("../secret")
    whole, _, query = source_of(namespace).partition("?")

    def of(*names: str) -> None:
        mounts = [{"mountPoint": f"{whole}/{name}?{query}", "path": f"/{number}"} for number, name in enumerate(names)]
        namespace.apply(dataset("demo", "", mounts=mounts), runtime("demo"))

    def listed(*names: str) -> None:
        sources = [f"{whole}/{name}?{query}" for name in names]
        allowed.write_text(json.dumps([{"namespaces": [namespace.name], "sources": sources}]))

    listed("team")
    of("team", "team/link")
    found = await_said(namespace, "dataset", "demo", "Ready", "one of several mounts", "team/link")
    assert condition(found, "Ready")["reason"] == "SourceNotAllowed"
    of("team/data")
    await_said(namespace, "dataset", "demo", "Ready", "or one with a path", "team/data")
    listed("team", "team/data")
    await_phase(namespace, "demo", "Bound")
    volume = get(namespace, "persistentvolumeclaim", "demo")["spec"]["volumeName"]
    attributes = get(namespace, "persistentvolume", volume)["spec"]["csi"]["volumeAttributes"]
    assert "live-sources" not in attributes, "the master's word is none"
    of("team/data", "team")
    await_said(namespace, "dataset", "demo", "Ready", status="True")

    def are_in_force() -> bool:
        claim = namespace.cluster.get("persistentvolumeclaim", "demo", namespace=namespace.name)
        found = claim and namespace.cluster.get("persistentvolume", claim["spec"]["volumeName"])
        return found is not None and len(json.loads(found["spec"]["csi"]["volumeAttributes"]["sources"])) == 2

    wait_until(are_in_force, what="a volume with both mounts", limit_s=60, interval_s=0.5)
