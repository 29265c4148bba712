"""Who reads a Dataset's files sees nothing of what happens to its parts: pods of ours go, workers are scaled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.checked_reads import READING, write_checked_files
from tests.cluster.cluster import SYSTEM_NAMESPACE, Namespace, pod
from tests.cluster.test_dataset_quickstart import kubectl, left
from tests.support.processes import wait_until

_FILES, _FILE_BYTES = 24, 1 << 20
_NAME = "demo"
_MANIFEST = """
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {{name: demo}}
spec:
  placement: Shared
  mounts: [{{mountPoint: "{source}"}}]
---
apiVersion: data.fluid.io/v1alpha1
kind: EFCRuntime
metadata: {{name: demo}}
spec:
  replicas: 3
  fuse: {{networkMode: ContainerNetwork}}
  tieredstore: {{levels: [{{mediumtype: MEM, quota: 128Mi}}]}}
"""


@pytest.fixture
def readers(namespace: Namespace) -> list[str]:
    """Pods on two nodes that read all the time."""
    folder = namespace.cluster.nas_folder / namespace.name
    folder.mkdir(mode=0o755)
    write_checked_files(folder, count=_FILES, size=_FILE_BYTES)
    source = f"nfs://{namespace.cluster.nas_address}:/export/{namespace.name}"
    kubectl(namespace, "create -f -", stdin=_MANIFEST.format(source=source))
    kubectl(namespace, f"wait --for=condition=Ready dataset/{_NAME} --timeout=60s")
    names = []
    for node in namespace.cluster.nodes()[:2]:
        manifest = pod(
            f"reader-{node}", claims={"/data": _NAME}, node=node, image="nginx", command=["bash", "-c", READING]
        )
        manifest["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
        namespace.apply(manifest)
        names.append(f"reader-{node}")
    namespace.await_pods(*names)
    return names


def state(namespace: Namespace, reader: str) -> tuple[int, int]:
    """How often all files were read, and how often something was wrong."""
    turns, errors = namespace.run(reader, "cat /tmp/state 2>/dev/null || echo 0 0").split()
    return int(turns), int(errors)


def go_on(namespace: Namespace, readers: list[str], *, after: str) -> None:
    """All readers read everything again, without an error."""
    for reader in readers:
        before, _ = state(namespace, reader)
        wait_until(
            lambda reader=reader, before=before: state(namespace, reader)[0] > before + 1,  # type: ignore[misc]
            what=f"{reader} to go on after {after}", limit_s=60, interval_s=0.5,
        )  # fmt: skip
        assert state(namespace, reader)[1] == 0, f"{reader} has seen an error after {after}"


@pytest.mark.timeout(900)
def test_nothing_breaks(namespace: Namespace, readers: list[str]) -> None:
    cluster = namespace.cluster

    def deletes(place: str, selector: str) -> Callable[[], None]:
        return lambda: _delete(namespace, place, selector)

    def scaled(replicas: int) -> Callable[[], None]:
        return lambda: _scale(namespace, replicas)

    go_on(namespace, readers, after="the beginning")
    for what, harm in {
        "the operator's end": deletes(SYSTEM_NAMESPACE, "app.kubernetes.io/component=operator"),
        "the master's end": deletes(namespace.name, "role=efc-master"),
        "the workers' end": deletes(namespace.name, "role=efc-worker"),
        "the node plugins' end": deletes(SYSTEM_NAMESPACE, "app.kubernetes.io/component=node"),
        "the keepers' end": deletes(SYSTEM_NAMESPACE, "app.kubernetes.io/component=keeper"),
        "two workers less": scaled(1),
        "two workers more": scaled(3),
    }.items():
        harm()
        go_on(namespace, readers, after=what)
        wait = f"--for=jsonpath={{.status.phase}}=Bound dataset/{_NAME} --timeout=30s"
        kubectl(namespace, f"wait {wait}")
    cluster.await_driver("keeper", "node", "operator")
    namespace.delete("pod", *readers)
    kubectl(namespace, f"delete dataset {_NAME}")
    wait_until(lambda: not left(namespace), what="everything to be gone", limit_s=60, interval_s=0.5)


def _delete(namespace: Namespace, place: str, selector: str) -> None:
    """Deletes pods at once, and waits until as many are ready again."""
    cluster = namespace.cluster
    chosen = ("-n", place, "-l", selector)
    count = len(cluster.objects("pods", namespace=place, selector=selector))
    assert count
    cluster.kubectl("delete", "pods", *chosen, "--grace-period=1", limit_s=90)
    wait_until(
        lambda: len(cluster.kubectl("get", "pods", *chosen, "-o", "name").split()) >= count,
        what=f"pods with {selector} to come again", limit_s=60,
    )  # fmt: skip
    cluster.kubectl("wait", "--for=condition=Ready", "pods", *chosen, "--timeout=90s", limit_s=100)


def _scale(namespace: Namespace, replicas: int) -> None:
    kubectl(namespace, f"scale efc {_NAME} --replicas={replicas}")
    wait_until(
        lambda: len(kubectl(namespace, "get pods -l role=efc-worker -o name").split()) == replicas,
        what=f"{replicas} workers", limit_s=60,
    )  # fmt: skip
