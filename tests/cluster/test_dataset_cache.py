"""What the first pod reads lies in the workers, all of it and soon; the second pod, on another node, reads it there."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.cluster import Cluster, Namespace, pod
from tests.cluster.machines import mounts_of
from tests.cluster.test_dataset_quickstart import await_rest, await_row, kubectl, old, row
from tests.support.processes import TimeLimitError, wait_until

FILE_MIB, PIECE_MIB = 1024, 64
#: After the last byte, until the column says that all of it is there.
CACHED_LIMIT_S = 5.0
#: Of the NAS's link for the second comparison: 10**6 bit per second.
_RATE_MBIT = 800
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
  tieredstore: {{levels: [{{mediumtype: MEM, quota: 512Mi}}]}}
"""


@pytest.fixture
def demo(namespace: Namespace) -> Namespace:
    """A Dataset of one file that its workers have room for, and a pod on each of two nodes."""
    cluster = namespace.cluster
    folder = cluster.nas_folder / namespace.name
    folder.mkdir(mode=0o755)
    with (folder / "file").open("wb") as file:
        for _ in range(FILE_MIB // PIECE_MIB):
            file.write(os.urandom(PIECE_MIB << 20))
    old(folder / "file")
    source = f"nfs://{cluster.nas_address}:/export/{namespace.name}"
    kubectl(namespace, "create -f -", stdin=_MANIFEST.format(source=source))
    kubectl(namespace, f"wait --for=condition=Ready dataset/{_NAME} --timeout=60s")
    kubectl(namespace, f"wait --for=condition=WorkersReady efc/{_NAME} --timeout=90s", limit_s=100)
    for number, node in enumerate(cluster.nodes()[:2]):
        namespace.apply(pod(f"reader-{number}", claims={"/data": _NAME}, node=node))
    namespace.await_pods("reader-0", "reader-1")
    columns = (_NAME, r"1\.00GiB", r"0\.00B", r"1\.50GiB", r"0\.0%", "Bound")
    await_row(namespace, f"get dataset {_NAME}", *columns, limit_s=30)
    for number in range(2):
        await_rest(namespace, f"reader-{number}", "/data/file")
    return namespace


@contextmanager
def limited(cluster: Cluster, rate_mbit: int) -> Iterator[None]:
    """What the NAS sends, and the API server, passes at this rate; nodes reach each other as before."""
    limit = ("rate", f"{rate_mbit}mbit", "burst", "256kb", "latency", "20ms")
    cluster.on_node("n0", "tc", "qdisc", "replace", "dev", "cluster0", "root", "tbf", *limit)
    try:
        yield
    finally:
        cluster.on_node("n0", "tc", "qdisc", "delete", "dev", "cluster0", "root")


def read_s(namespace: Namespace, pod: str) -> float:
    """Seconds that a pod takes to read the file, by its own clock."""
    script = """
        clock() { read -r now _ </proc/uptime; echo ${now%.*}${now#*.}; }
        began=$(clock) && cat /data/file >/dev/null && echo $(($(clock) - began))"""
    return int(namespace.run(pod, script, limit_s=300)) / 100


def counts(namespace: Namespace) -> dict[str, dict[str, int]]:
    """What came of filling, by node: for whoever wants to know why something is missing."""
    found = {}
    for node in namespace.cluster.nodes()[:2]:
        for mount in mounts_of(namespace.cluster, node):
            if mount["source"].endswith(f"/{namespace.name}"):
                found[node] = mount["cache"]
    return found


@pytest.mark.timeout(900)
def test_a_first_read_fills_the_cache(demo: Namespace, figures: dict[str, object]) -> None:
    first_s = read_s(demo, "reader-0")
    began = time.monotonic()
    try:
        wait_until(
            lambda: row(demo, f"get dataset {_NAME}")[4] == "100.0%",
            what="all of it to be cached", limit_s=CACHED_LIMIT_S, interval_s=0.2,
        )  # fmt: skip
    except TimeLimitError as error:
        raise AssertionError(f"{error}: {row(demo, f'get dataset {_NAME}')}\n{json.dumps(counts(demo))}") from None
    figures["dataset: first read"] = {"first_s": first_s, "cached_after_s": round(time.monotonic() - began, 1)}


@pytest.mark.timeout(900)
def test_a_second_read_does_not_wait_for_the_nas(demo: Namespace, figures: dict[str, object]) -> None:
    with limited(demo.cluster, _RATE_MBIT):
        first_s = read_s(demo, "reader-0")
        second_s = read_s(demo, "reader-1")
    ratio = second_s / first_s
    figures[f"dataset: second read, NAS at {_RATE_MBIT} Mbit/s"] = {
        "first_s": first_s, "second_s": second_s, "ratio": round(ratio, 2),
    }  # fmt: skip
    second = counts(demo)[demo.cluster.nodes()[1]]
    assert re.search("workers", json.dumps(second)), second
