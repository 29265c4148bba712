"""A thousand Datasets: `make scale`. Requests, writes and memory are compared with what is promised, times are told.

A real API server, its controllers and a real NAS; the operator as a process; nodes and pods are played
(`played_nodes.py`). The tests go on from each other. SCALE_DATASETS and SCALE_PER_SECOND say how many, and how fast.
"""

from __future__ import annotations

import collections
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import SCRIPTS, Cluster
from tests.operator.conftest import CRDS
from tests.operator.operators import Operator, account, requests
from tests.support.paths import RESULTS, ROOT
from tests.support.processes import wait_until

DATASETS = int(os.environ.get("SCALE_DATASETS") or 1000)
PER_SECOND = float(os.environ.get("SCALE_PER_SECOND") or 20)
_NODES = 4
_NAMESPACE = "scale"
_IDLE_S = 60.0
#: What is aimed at for a thousand. It has been 333 (docs/BENCHMARKS.md), so this fails until that is less.
_MEMORY_MIB_MAX = 300
#: Of the operator, from a Dataset's creation to its last status, and for its deletion. Reads are told and not gated:
#: Secrets are read again all the time, and everything by an operator that has lost its Lease for want of a processor.
_WRITES_MAX = {"making": 22, "deleting": 8}
_WRITES = {"create", "update", "patch", "delete", "deletecollection"}
pytestmark = pytest.mark.timeout(1800)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(kw_only=True)
class Site:
    """The cluster with the operator and the nodes that are played, and the figures so far."""

    cluster: Cluster
    operator: Operator
    figures: dict[str, Any] = field(default_factory=dict)

    def run(self, *arguments: str, limit_s: float = 1800) -> dict[str, Any]:
        """What :mod:`tests.scale.making` prints."""
        done = subprocess.run(
            self.command("tests.scale.making", *arguments), capture_output=True, text=True, timeout=limit_s,
            env=os.environ | {"EFC_CLUSTER_DIR": str(self.cluster.folder)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout))

    def command(self, module: str, *arguments: str) -> list[str | Path]:
        """A program of ours beside the API server."""
        environment = ("env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1")
        return [SCRIPTS / "on-node", "0", *environment, sys.executable, "-m", module, *arguments]

    def usage(self) -> tuple[float, float]:
        """Seconds of CPU time that the operator has used, and its memory in MiB."""
        folder = f"/proc/{self.operator.pid}"
        text = self.cluster.on_node("n0", "cat", f"{folder}/stat", f"{folder}/status")
        times = text.rpartition(")")[2].split() if text.count(")") == 1 else text.split(") ", 1)[1].split()
        resident = next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:"))
        return (int(times[11]) + int(times[12])) / _TICKS, int(resident) / 1024

    def asked(self, since: str) -> collections.Counter[tuple[str, str]]:
        """Requests of the operator by verb and resource; its Lease and its watches are left out."""
        counted: collections.Counter[tuple[str, str]] = collections.Counter()
        for event in requests(self.cluster, since=since):
            about = event.get("objectRef") or {}
            if about.get("resource") != "leases" and event["verb"] != "watch":
                counted[event["verb"], about.get("resource") or event["requestURI"]] += 1
        return counted

    def note(self, name: str, **figures: Any) -> None:
        """Figures of a step, with the load of the machine."""
        self.figures[name] = {**figures, "load": round(os.getloadavg()[0], 1)}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "scale.details.json").write_text(json.dumps(self.figures, indent=2))
        print(f"\n{name}: {json.dumps(self.figures[name])}")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _writes(asked: collections.Counter[tuple[str, str]]) -> dict[str, int]:
    return {" ".join(what): count for what, count in asked.items() if what[0] in _WRITES}


def _served(cluster: Cluster) -> int:
    """Datasets whose master has told their size, and whose workers are ready."""
    sized = {one["metadata"]["name"] for one in cluster.objects("datasets") if one["status"].get("ufsTotal")}
    return sum(
        one["status"].get("workerPhase") == "Ready" and one["metadata"]["name"] in sized
        for one in cluster.objects("efcruntimes")
    )


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    """All of it, without a Dataset."""
    cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
    account(cluster)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}})
    operator = Operator(cluster=cluster, name="scale")
    site = Site(cluster=cluster, operator=operator)
    log = cluster.folder / "log" / "played-nodes.log"
    with log.open("ab") as output:
        nodes = subprocess.Popen(
            site.command("tests.scale.played_nodes", str(_NODES)), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, env=os.environ | {"EFC_CLUSTER_DIR": str(cluster.folder)},
        )  # fmt: skip
    operator.start()
    try:
        operator.await_in_step()
        wait_until(lambda: len(cluster.nodes()) == _NODES, what="the nodes that are played", limit_s=60)
        yield site
    finally:
        operator.end()
        nodes.terminate()
        nodes.wait(30)
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


def _await_rest(site: Site, *, limit_s: float = 600) -> None:
    """Returns when the operator has asked for no change for ten seconds."""
    deadline = time.monotonic() + limit_s
    while True:
        since = _now()
        time.sleep(10)
        if not _writes(site.asked(since)):
            return
        assert time.monotonic() < deadline, _writes(site.asked(since))


def test_all_are_bound(site: Site) -> None:
    """Each within so many requests."""
    since, (cpu_s, _) = _now(), site.usage()
    said = site.run("make", _NAMESPACE, str(DATASETS), str(PER_SECOND), site.cluster.nas_url)
    wait_until(lambda: _served(site.cluster) == DATASETS, what="masters and workers", limit_s=600, interval_s=5)
    _await_rest(site)
    asked, (cpu_after_s, memory_mib) = site.asked(since), site.usage()
    times = sorted(said["bound_s"])
    per_dataset = sum(asked.values()) / DATASETS
    site.note(
        "making", datasets=DATASETS, bound_p50_s=statistics.median(times), bound_p99_s=times[int(len(times) * 0.99)],
        bound_max_s=times[-1], making_s=said["making_s"], late_s=said["late_s"],
        requests_per_dataset=round(per_dataset, 2), cpu_ms_per_dataset=round(1e3 * (cpu_after_s - cpu_s) / DATASETS, 1),
        memory_mib=round(memory_mib),
        requests={" ".join(what): round(count / DATASETS, 2) for what, count in asked.most_common()},
    )  # fmt: skip
    assert sum(_writes(asked).values()) <= _WRITES_MAX["making"] * DATASETS
    assert memory_mib < _MEMORY_MIB_MAX


def test_idle(site: Site) -> None:
    """Nothing is written but the Lease."""
    since, (cpu_s, _) = _now(), site.usage()
    time.sleep(_IDLE_S)
    asked, (cpu_after_s, memory_mib) = site.asked(since), site.usage()
    site.note(
        "idle", cpu_percent=round(100 * (cpu_after_s - cpu_s) / _IDLE_S, 2), memory_mib=round(memory_mib),
        requests_per_s=round(sum(asked.values()) / _IDLE_S, 2),
    )  # fmt: skip
    assert _writes(asked) == {}
    assert memory_mib < _MEMORY_MIB_MAX


def test_a_restart_writes_nothing(site: Site) -> None:
    """What the next operator finds is as it wants it."""
    site.operator.end()
    since, began = _now(), time.monotonic()
    site.operator.start()
    site.operator.await_in_step(limit_s=120)
    in_step_s = time.monotonic() - began
    secrets = 4 * DATASETS
    wait_until(
        lambda: site.asked(since)["get", "secrets"] >= secrets, what="each Dataset to be looked at", limit_s=300,
        interval_s=0.5,
    )  # fmt: skip
    looked_at_s = time.monotonic() - began
    _await_rest(site)
    asked, (cpu_s, memory_mib) = site.asked(since), site.usage()
    site.note(
        "restart", in_step_s=round(in_step_s, 1), looked_at_s=round(looked_at_s, 1), cpu_s=round(cpu_s, 1),
        memory_mib=round(memory_mib), requests={" ".join(what): count for what, count in asked.most_common(6)},
    )  # fmt: skip
    assert _writes(asked) == {}


def test_all_are_deleted(site: Site) -> None:
    """Nothing of them is left."""
    since = _now()
    said = site.run("delete", _NAMESPACE)
    asked = site.asked(since)
    per_dataset = sum(asked.values()) / DATASETS
    site.note(
        "deleting", **said, requests_per_dataset=round(per_dataset, 2), memory_mib=round(site.usage()[1]),
        requests={" ".join(what): round(count / DATASETS, 2) for what, count in asked.most_common()},
    )  # fmt: skip
    assert said["deleted"] == DATASETS
    assert sum(_writes(asked).values()) <= _WRITES_MAX["deleting"] * DATASETS
