"""What happens to machines: services restarted, a node shut down, its plug pulled, its cable cut; a NAS that goes away.

A node is a namespace here, so a reboot ends all its processes, and with them its mounts and its /run, and leaves its
disk. What cannot be had: the kernel's boot_id is the same before and after, and runc lets nothing be mounted below a
container's /proc, so the driver cannot be shown another. That records of an earlier boot are void, even if they are
there, is tested where the driver runs outside containers (tests/csi/test_crashes.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.cluster.cluster import SCRIPTS, SYSTEM_NAMESPACE, Cluster
from tests.support.processes import wait_until

BOOT_LIMIT_S = 240.0
#: Of kube-controller-manager: a node that says nothing for so long is lost.
NODE_LOST_S = 50.0
_SERVICE_LIMIT_S = 60.0
#: Longer than the grace of each of the driver's pods.
_END_LIMIT_S = 45.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of a running cluster, as someone sees it who stands before the machine."""

    cluster: Cluster
    name: str

    def run(self, *command: str, limit_s: float = 30) -> str:
        """Standard output of a command on it. Raises CalledProcessError."""
        return self.cluster.on_node(self.name, *command, limit_s=limit_s)

    # ------------------------------------------------------------ services

    def restart_service(self, service: str) -> float:
        """Ends `kubelet` or `containerd`, which comes again by itself; seconds until it answers."""
        before, began = self._service_pid(service), time.monotonic()
        self.run("kill", "-TERM", str(before))
        wait_until(
            lambda: self._service_pid(service) != before and self._answers(service),
            what=f"a new {service} on {self.name}", limit_s=_SERVICE_LIMIT_S, interval_s=0.1,
        )  # fmt: skip
        return time.monotonic() - began

    def _stop_service(self, service: str) -> None:
        """Ends it; it stays away until the node boots again."""
        (self._folder / f"{service}.off").touch()
        self.run("kill", "-TERM", str(self._service_pid(service)))
        wait_until(lambda: not self._answers(service), what=f"the end of {service}", limit_s=_SERVICE_LIMIT_S)

    def _answers(self, service: str) -> bool:
        if service == "containerd":
            return bool(self.run("sh", "-c", "ctr version 2>/dev/null || true"))
        path = f"/api/v1/nodes/{self.name}/proxy/healthz"
        return self.cluster.kubectl("get", "--raw", path, check=False).strip() == "ok"

    def _service_pid(self, service: str) -> int:
        return int((self._folder / f"{service}.pid").read_text())

    @property
    def _folder(self) -> Any:
        return self.cluster.folder / self.name

    # ------------------------------------------------------------ power

    def pull_plug(self) -> None:
        """Kills every process of it at once; its disk stays, its /run does not."""
        self.cluster.script("stop-node", self.name.removeprefix("n"), limit_s=60)

    def boot(self) -> float:
        """Starts it again; seconds until it is Ready and the driver runs on it anew."""
        began_at, began = time.time(), time.monotonic()
        self.cluster.script("on-node", "0", str(SCRIPTS / "start-node"), self.name.removeprefix("n"), limit_s=60)
        wait_until(
            lambda: self._is_ready() and self._driver_runs_since(began_at),
            what=f"{self.name} to be ready with its driver", limit_s=BOOT_LIMIT_S, interval_s=0.5,
        )  # fmt: skip
        return time.monotonic() - began

    def shut_down(self) -> dict[str, float]:
        """As kubelet and systemd do it, up to the moment when the power goes; how many seconds each step took.

        Cordoned; pods end with their grace, those of the driver last; SIGTERM for the driver's containers, and nobody
        starts them again. Call `pull_plug` afterwards.
        """
        self.cluster.kubectl("cordon", self.name)
        began = time.monotonic()
        drain = ("drain", self.name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s")
        self.cluster.kubectl(*drain, limit_s=100)
        drained = time.monotonic()
        self._stop_service("kubelet")
        stopped = time.monotonic()
        for container in self._driver_containers():
            self.run("ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGTERM", container)
        wait_until(
            lambda: not self._driver_containers(), what=f"the driver on {self.name} to end", limit_s=_END_LIMIT_S
        )
        return {"drained_s": round(drained - began, 1), "driver_ended_s": round(time.monotonic() - stopped, 1)}

    def uncordon(self) -> None:
        """Pods may come again."""
        self.cluster.kubectl("uncordon", self.name)

    def _driver_containers(self) -> list[str]:
        """Ids of the driver's running containers."""
        running = {
            line.split()[0] for line in self.run("ctr", "-n", "k8s.io", "tasks", "ls").splitlines()[1:]
            if line.split()[2] == "RUNNING"
        }  # fmt: skip
        found: set[str] = set()
        for name in ("node", "keeper"):
            chosen = f'labels."io.kubernetes.container.name"=={name}'
            found |= set(self.run("ctr", "-n", "k8s.io", "containers", "ls", "-q", chosen).split())
        return sorted(found & running)

    def _is_ready(self) -> bool:
        node = self.cluster.get("node", self.name)
        assert node is not None
        return any(item["type"] == "Ready" and item["status"] == "True" for item in node["status"]["conditions"])

    def _driver_runs_since(self, began_at: float) -> bool:
        """Whether all the driver's pods of this node have started since a time, in seconds of the epoch."""
        pods = [
            found for found in self.cluster.objects("pods", namespace=SYSTEM_NAMESPACE)
            if found["spec"].get("nodeName") == self.name
            and found["metadata"]["labels"]["app.kubernetes.io/component"] in {"node", "keeper"}
        ]  # fmt: skip
        return len(pods) == 2 and all(_is_new(found, began_at) for found in pods)

    # ------------------------------------------------------------ network

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Without network during the block, as with a cable that is out; Ready again after it."""
        self.cluster.on_node("n0", "ip", "link", "set", self.name, "down")
        try:
            yield
        finally:
            self.cluster.on_node("n0", "ip", "link", "set", self.name, "up")
            # Routes go with the link.
            number = self.name.removeprefix("n")
            route = ("ip", "route", "replace", f"10.244.{number}.0/24", "via", f"10.77.0.{10 + int(number)}")
            self.cluster.on_node("n0", *route)
            wait_until(self._is_ready, what=f"{self.name} to be Ready again", limit_s=120, interval_s=0.5)


def _is_new(pod: dict[str, Any], began_at: float) -> bool:
    statuses = pod["status"].get("containerStatuses", [])
    started = [status.get("state", {}).get("running", {}).get("startedAt") for status in statuses]
    return bool(statuses) and all(status["ready"] for status in statuses) and all(
        # Kubernetes says whole seconds.
        at is not None and datetime.fromisoformat(at).timestamp() >= int(began_at) for at in started
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NasServer:
    """The cluster's NFS server (tests/cluster/nas.py)."""

    cluster: Cluster

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP during the block: connections stay open, and nothing is answered."""
        pid = (self.cluster.folder / "nas" / "ganesha.pid").read_text().strip()
        self.cluster.on_node("n0", "kill", "-STOP", pid)
        try:
            yield
        finally:
            self.cluster.on_node("n0", "kill", "-CONT", pid)

    @contextmanager
    def crashed(self) -> Iterator[None]:
        """Killed, and started again after the block: what it had not committed is lost."""
        url_file = self.cluster.folder / "nas-url"
        keeper = (self.cluster.folder / "nas.pid").read_text().strip()
        self.cluster.on_node("n0", "kill", "-USR1", keeper)
        wait_until(lambda: not url_file.exists(), what="the NFS server's end", limit_s=10)
        try:
            yield
        finally:
            self.cluster.on_node("n0", "kill", "-USR2", keeper)
            wait_until(url_file.exists, what="the NFS server to answer again", limit_s=40)


def mounts_of(cluster: Cluster, node: str) -> list[dict[str, Any]]:
    """What `efc status` says in the keeper's pod of a node."""
    pods = cluster.objects("pods", namespace=SYSTEM_NAMESPACE, selector="app.kubernetes.io/component=keeper")
    (name,) = [found["metadata"]["name"] for found in pods if found["spec"]["nodeName"] == node]
    text = cluster.kubectl("-n", SYSTEM_NAMESPACE, "exec", name, "--", "efc", "status", "--json")
    mounts: list[dict[str, Any]] = json.loads(text)
    return mounts
