"""Pods on two nodes read and write a Dataset while a node is lost, a Secret is rotated, and options change.

All that is written is read back, all that is read is compared, and the Dataset's phase is looked at every second.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.checked_reads import READING, write_checked_files
from tests.cluster.cluster import Cluster, Namespace, pod
from tests.cluster.machines import Node, mounts_of
from tests.cluster.test_dataset_quickstart import kubectl, left
from tests.cluster.workload import HUNG_S, Report, verified_load
from tests.support.processes import wait_until

_NAME, _FILES, _FILE_BYTES = "demo", 16, 1 << 20
_LOST_S = 120
#: Until a change is in force on all nodes, and until the Dataset is Bound again if it was not for a moment.
_IN_FORCE_LIMIT_S, _UNBOUND_LIMIT_S = 60, 30
_MANIFEST = """
apiVersion: v1
kind: Secret
metadata: {{name: options}}
stringData: {{read-ahead: 1MiB}}
---
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {{name: demo}}
spec:
  placement: Shared
  accessModes: [ReadWriteMany]
  mounts:
    - mountPoint: "{source}"
      options: {{write-behind: 1s}}
      encryptOptions: [{{name: read-ahead, valueFrom: {{secretKeyRef: {{name: options, key: read-ahead}}}}}}]
---
apiVersion: data.fluid.io/v1alpha1
kind: EFCRuntime
metadata: {{name: demo}}
spec:
  replicas: 2
  tieredstore: {{levels: [{{mediumtype: MEM, quota: 128Mi}}]}}
"""


@dataclass
class Phases:
    """The phase of the Dataset, looked at every second until the end."""

    cluster: Cluster
    namespace: str
    seen: list[tuple[float, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Until the end; that the API server does not answer for a moment is no phase."""
        query = ("get", "dataset", _NAME, "-o", "jsonpath={.status.phase}")
        while not self._over.wait(1):
            if phase := self.cluster.kubectl("-n", self.namespace, *query, check=False):
                self.seen.append((time.monotonic(), phase))

    def end(self) -> None:
        self._over.set()

    def unbound_s(self) -> float:
        """The longest time in which it was never Bound."""
        bound = [when for when, phase in self.seen if phase == "Bound"]
        ends = [self.seen[0][0], *bound, self.seen[-1][0]]
        return max(after - before for before, after in itertools.pairwise(ends))


@dataclass
class Work:
    """What the pods did, filled in at its end."""

    nodes: Sequence[str]
    reports: list[Report]
    phases: Phases
    turns: int = 0


@pytest.fixture
def demo(namespace: Namespace) -> Iterator[Namespace]:
    """A writable Dataset that is Bound, its workers there."""
    folder = namespace.cluster.nas_folder / namespace.name
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    write_checked_files(folder, count=_FILES, size=_FILE_BYTES)
    source = f"nfs://{namespace.cluster.nas_address}:/export/{namespace.name}"
    kubectl(namespace, "create -f -", stdin=_MANIFEST.format(source=source))
    kubectl(namespace, f"wait --for=condition=Ready dataset/{_NAME} --timeout=60s")
    kubectl(namespace, f"wait --for=condition=WorkersReady efc/{_NAME} --timeout=90s", limit_s=100)
    yield namespace
    kubectl(namespace, "delete pods -l app,app!=efc --timeout=60s")
    kubectl(namespace, f"delete dataset {_NAME} --timeout=60s")
    wait_until(lambda: not _left(namespace), what="everything to be gone", limit_s=60, interval_s=0.5)


def _left(namespace: Namespace) -> list[str]:
    return [name for name in left(namespace) if name != "secret/options"]


@contextmanager
def busy(namespace: Namespace, nodes: Sequence[str]) -> Iterator[Work]:
    """A reader and a writer on each node during the block: no error, no wrong byte, and no long time without Bound."""
    readers = [f"reader-{node}" for node in nodes]
    for node, name in zip(nodes, readers, strict=True):
        command = ["bash", "-c", READING]
        manifest = pod(name, claims={"/data": _NAME}, node=node, image="nginx", command=command)
        manifest["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
        namespace.apply(manifest)
    namespace.await_pods(*readers)
    phases = Phases(namespace.cluster, namespace.name)
    with ExitStack() as loads:
        reports = [
            loads.enter_context(verified_load(namespace, claim=_NAME, node=node, name=f"load-{node}")) for node in nodes
        ]
        work = Work(nodes, reports, phases)
        looking = threading.Thread(target=phases.look)
        looking.start()
        try:
            yield work
            for reader in readers:
                before = _state(namespace, reader)[0]
                wait_until(
                    lambda reader=reader, before=before: _state(namespace, reader)[0] > before + 1,  # type: ignore[misc]
                    what=f"{reader} to go on", limit_s=120, interval_s=0.5,
                )  # fmt: skip
        finally:
            phases.end()
            looking.join()
        assert [_state(namespace, reader)[1] for reader in readers] == [0] * len(readers)
        work.turns = sum(_state(namespace, reader)[0] for reader in readers)
    namespace.delete("pod", *readers, *(f"load-{node}" for node in nodes))
    for report in reports:
        assert report.errors == 0, report
        assert report.longest_pause_s < HUNG_S, report
    assert phases.unbound_s() < _UNBOUND_LIMIT_S, phases.seen


def _state(namespace: Namespace, reader: str) -> tuple[int, int]:
    """How often all files were read, and how often something was wrong."""
    turns, errors = namespace.run(reader, "cat /tmp/state 2>/dev/null || echo 0 0").split()
    return int(turns), int(errors)


def _figures(work: Work, **others: Any) -> dict[str, Any]:
    pauses = [report.longest_pause_s for report in work.reports]
    return {
        "turns_written": sum(report.turns for report in work.reports), "turns_read": work.turns,
        "longest_pause_s": max(pauses), "unbound_s": round(work.phases.unbound_s(), 1), **others,
    }  # fmt: skip


def _node_of(namespace: Namespace, role: str) -> str:
    pods = namespace.cluster.objects("pods", namespace=namespace.name, selector=f"role={role}")
    return str(pods[0]["spec"]["nodeName"])


def _options(namespace: Namespace, node: str) -> dict[str, Any]:
    """With which options the Dataset is served on a node."""
    (mount,) = (one for one in mounts_of(namespace.cluster, node) if one["source"].endswith(f"/{namespace.name}"))
    found: dict[str, Any] = mount["options"]
    return found


def _await_options(namespace: Namespace, nodes: Sequence[str], expected: dict[str, Any]) -> float:
    """Seconds until all nodes serve with these options."""
    began = time.monotonic()

    def is_so() -> bool:
        return all(_options(namespace, node).items() >= expected.items() for node in nodes)

    wait_until(is_so, what=f"{expected} to be in force", limit_s=_IN_FORCE_LIMIT_S, interval_s=1)
    return round(time.monotonic() - began, 1)


@pytest.mark.timeout(900)
def test_a_node_of_the_dataset_is_gone_for_two_minutes(demo: Namespace, figures: dict[str, object]) -> None:
    """The one with the master, and with workers where they are packed."""
    lost = _node_of(demo, "efc-master")
    nodes = [node for node in demo.cluster.nodes() if node != lost][:2]
    with busy(demo, nodes) as work:
        with Node(cluster=demo.cluster, name=lost).cut_off():
            time.sleep(_LOST_S)
        kubectl(demo, f"wait --for=condition=WorkersReady efc/{_NAME} --timeout=120s", limit_s=130)
    figures["dataset: node lost for 120 s"] = _figures(work)


@pytest.mark.timeout(600)
def test_a_secret_is_rotated(demo: Namespace, figures: dict[str, object]) -> None:
    nodes = demo.cluster.nodes()[:2]
    with busy(demo, nodes) as work:
        assert all(_options(demo, node)["read_ahead_kib"] == 1024 for node in nodes)
        took = []
        for mib in (2, 4):
            patch = json.dumps({"stringData": {"read-ahead": f"{mib}MiB"}})
            kubectl(demo, f"patch secret options --type=merge -p {patch.replace(' ', '')}")
            took.append(_await_options(demo, nodes, {"read_ahead_kib": mib << 10}))
    figures["dataset: secret rotated"] = _figures(work, in_force_s=took)


@pytest.mark.timeout(600)
def test_options_change(demo: Namespace, figures: dict[str, object]) -> None:
    """Live ones, one that takes a new daemon, one that has to wait for pods, and back."""
    nodes = demo.cluster.nodes()[:2]
    mount = kubectl(demo, f"get dataset {_NAME} -o jsonpath={{.spec.mounts[0].mountPoint}}")
    secret = demo.cluster.get("dataset", _NAME, namespace=demo.name)
    assert secret is not None
    encrypted = secret["spec"]["mounts"][0]["encryptOptions"]

    def change(**options: str) -> None:
        given = {name.replace("_", "-"): value for name, value in options.items()}
        mounts = [{"mountPoint": mount, "options": given, "encryptOptions": encrypted}]
        patch = json.dumps({"spec": {"mounts": mounts}}, separators=(",", ":"))
        kubectl(demo, f"patch dataset {_NAME} --type=merge -p {patch}")

    with busy(demo, nodes) as work:
        change(write_behind="2s", attr_ttl="1s")
        live_s = _await_options(demo, nodes, {"write_behind_ms": 2000})
        before = {node: demo.cluster.daemons(node) for node in nodes}
        change(write_behind="2s", connections="3")
        new_daemon_s = _await_options(demo, nodes, {"connections": 3})
        assert all(demo.cluster.daemons(node) != before[node] for node in nodes)
        change(write_behind="2s", connections="3", consistency="bounded")
        refused = f'wait --for=jsonpath={{.status.conditions[?(@.type=="Updating")].reason}}=InUse dataset/{_NAME}'
        kubectl(demo, f"{refused} --timeout=30s")
        assert kubectl(demo, f"get dataset {_NAME} -o jsonpath={{.status.phase}}") == "Bound"
        change()
        back_s = _await_options(demo, nodes, {"write_behind_ms": 1000})
    figures["dataset: options changed"] = _figures(work, in_force_s=[live_s, new_daemon_s, back_s])
