"""A running cluster, as tests use it: objects applied, pods awaited, commands run in pods and on nodes.

All of it goes through kubectl and the scripts of this folder, so that a person can do the same by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.leaks import require_sandbox
from tests.support.paths import ROOT
from tests.support.processes import TimeLimitError, wait_until

DRIVER = "efc.csi.data.fluid.io"
SYSTEM_NAMESPACE = "efc-system"
IMAGE = "efc-csi:dev"
BUSYBOX = "efc.test/busybox:1"
POD_LIMIT_S = 90.0
SCRIPTS = ROOT / "tests" / "cluster"

Manifest = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster whose files are in `folder`."""

    folder: Path

    def boot(self, *, nodes: int) -> None:
        """Starts it. Raises CalledProcessError with the reason."""
        self.script("up", str(nodes), limit_s=240)

    def end(self) -> None:
        """Ends it and removes all that it was."""
        self.script("down", limit_s=180)  # most of it goes into removing the files of images

    @property
    def nas_url(self) -> str:
        """The NFS server's export, as pods and nodes reach it."""
        return (self.folder / "nas-url").read_text().strip()

    @property
    def nas_address(self) -> str:
        """The NFS server's address, where also a port mapper answers."""
        host = urlsplit(self.nas_url).hostname
        assert host is not None
        return host

    @property
    def small_url(self) -> str:
        """An export on a small file system of its own, to be filled."""
        return self.nas_url.replace("/export", "/small")

    @property
    def nas_folder(self) -> Path:
        """The server's side of the export."""
        return self.folder / "nas" / "exports" / "export"

    def nodes(self) -> list[str]:
        """Names of all nodes: n1, n2, ..."""
        return sorted(item["metadata"]["name"] for item in self.objects("nodes"))

    def script(
        self, name: str, *arguments: str, stdin: str = "", limit_s: float, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of this folder's scripts for this cluster."""
        return subprocess.run(
            [SCRIPTS / name, *arguments], input=stdin, capture_output=True, text=True, timeout=limit_s, check=check,
            env=os.environ | {"EFC_CLUSTER_DIR": str(self.folder), "PYTHON": sys.executable},
        )  # fmt: skip

    # ------------------------------------------------------------ objects

    def kubectl(self, *arguments: str, stdin: str = "", limit_s: float = 60, check: bool = True) -> str:
        """Standard output. Raises AssertionError with standard error when it fails, unless `check` is off."""
        done = self.script("kubectl", *arguments, stdin=stdin, limit_s=limit_s, check=False)
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-2000:]}"
        return done.stdout

    def apply(self, *manifests: Manifest) -> None:
        """Creates or changes objects."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))

    def objects(self, kind: str, *, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """Objects of a kind."""
        place = ("-n", namespace) if namespace else ("-A",)
        chosen = ("-l", selector) if selector else ()
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *place, *chosen, "-o", "json"))["items"]
        return items

    def get(self, kind: str, name: str, *, namespace: str = "default") -> dict[str, Any] | None:
        """One object, or None when there is none."""
        text = self.kubectl("-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def messages(self, name: str, *, namespace: str) -> str:
        """Reasons and messages of all events of one object."""
        events = self.objects("events", namespace=namespace)
        mine = (event for event in events if event["involvedObject"]["name"] == name)
        return "\n".join(f"{event.get('reason')}: {event.get('message')}" for event in mine)

    def await_message(self, name: str, *parts: str, namespace: str, limit_s: float = 60) -> str:
        """All messages of an object's events, once each of `parts` is in one of them."""
        found = ""

        def said() -> bool:
            nonlocal found
            found = self.messages(name, namespace=namespace)
            return any(all(part in line for part in parts) for line in found.splitlines())

        try:
            wait_until(said, what=f"an event of {name} with {parts}", limit_s=limit_s, interval_s=0.5)
        except TimeLimitError as error:
            raise AssertionError(f"{error}; its events are:\n{found}") from None
        return found

    # ------------------------------------------------------------ pods

    def await_pods(self, *names: str, namespace: str, limit_s: float = POD_LIMIT_S) -> None:
        """Returns when all named pods are Ready."""
        self.kubectl(
            "-n", namespace, "wait", "--for=condition=Ready", f"--timeout={limit_s:.0f}s",
            *(f"pod/{name}" for name in names), limit_s=limit_s + 10,
        )  # fmt: skip

    def await_phase(self, pod: str, phase: str, *, namespace: str, limit_s: float = POD_LIMIT_S) -> None:
        """Returns when a pod is in a phase, for example Succeeded."""
        self.kubectl(
            "-n", namespace, "wait", f"--for=jsonpath={{.status.phase}}={phase}", f"--timeout={limit_s:.0f}s",
            f"pod/{pod}", limit_s=limit_s + 10,
        )  # fmt: skip

    def run(self, pod: str, script: str, *, namespace: str, limit_s: float = 60) -> str:
        """Standard output of a shell script in a pod. Raises AssertionError with what it said when it fails."""
        done = self._exec(pod, script, namespace=namespace, limit_s=limit_s)
        assert done.returncode == 0, f"in {pod}: {script!r} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def fails(self, pod: str, script: str, *, namespace: str) -> str:
        """What a script in a pod says when it fails, which it must."""
        done = self._exec(pod, script, namespace=namespace, limit_s=60)
        assert done.returncode != 0, f"in {pod}: {script!r} succeeded: {done.stdout}"
        return done.stdout + done.stderr

    def delete(self, kind: str, *names: str, namespace: str, limit_s: float = 60) -> float:
        """Deletes objects of a namespace, waits until they are gone, and says how many seconds that took."""
        began = time.monotonic()
        self.kubectl(
            "-n", namespace, "delete", kind, *names, f"--timeout={limit_s:.0f}s", limit_s=limit_s + 10,
        )  # fmt: skip
        return time.monotonic() - began

    # ------------------------------------------------------------ the driver

    def await_driver(self, *components: str, limit_s: float = 120) -> None:
        """Returns when these parts of the driver (`node`, `controller`, ...) are Ready in their newest form."""
        for component in components:
            wait_until(
                lambda component=component: self._is_ready(component),  # type: ignore[misc]
                what=f"{component} to be ready", limit_s=limit_s, interval_s=0.3,
            )  # fmt: skip

    def restart(self, *components: str, node: str) -> None:
        """Deletes the pods of `node` and `keeper` on one node, at once, and waits for their successors."""
        label = f"app.kubernetes.io/component in ({','.join(components)})"
        chosen = ("-n", SYSTEM_NAMESPACE, f"--field-selector=spec.nodeName={node}", "-l", label)
        self.kubectl("delete", "pods", *chosen, limit_s=90)
        wait_until(
            lambda: len(self.kubectl("get", "pods", *chosen, "-o", "name").split()) == len(components),
            what=f"a new {' and '.join(components)}", limit_s=30,
        )  # fmt: skip
        self.kubectl("wait", "--for=condition=Ready", "pods", *chosen, "--timeout=90s", limit_s=100)

    def _is_ready(self, component: str) -> bool:
        kind = "deployment" if component in {"controller", "operator", "webhook"} else "daemonset"
        found = self.get(kind, f"efc-{component}", namespace=SYSTEM_NAMESPACE)
        assert found is not None, f"there is no {kind} efc-{component}"
        status = found["status"]
        wanted = found["spec"].get("replicas", status.get("desiredNumberScheduled", 0))
        new = status.get("updatedReplicas", status.get("updatedNumberScheduled", 0))
        ready = status.get("readyReplicas", status.get("numberReady", 0))
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        return bool(current and wanted and new == ready == wanted)

    # ------------------------------------------------------------ nodes

    def on_node(self, node: str, *command: str, limit_s: float = 30) -> str:
        """Standard output of a command in a node's namespaces. Raises CalledProcessError."""
        return self.script("on-node", node.removeprefix("n"), *command, limit_s=limit_s).stdout

    def published(self, node: str) -> list[str]:
        """Targets of the driver's mounts below kubelet's folder."""
        return [mount for mount in self.daemon_mounts(node) if mount.startswith("/var/lib/kubelet/pods/")]

    def daemon_mounts(self, node: str) -> list[str]:
        """Where a daemon's file system is mounted on a node."""
        lines = self.on_node(node, "cat", "/proc/self/mountinfo").splitlines()
        return [line.split()[4] for line in lines if " - fuse.efc " in line]

    def daemons(self, node: str) -> list[int]:
        """Process ids (in the cluster) of a node's daemons: those that use its network."""
        script = """
            for pid in $(pgrep -x efcd); do
                [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] || echo $pid
            done"""
        return [int(pid) for pid in self.on_node(node, "sh", "-c", script).split()]

    # ------------------------------------------------------------ when something failed

    def gather(self, folder: Path, *, namespace: str) -> None:
        """Writes what explains a failure into `folder`: objects, events, logs of the driver, kubelets and the NAS."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, arguments in {
            "objects.txt": ("get", "pods,persistentvolumeclaims,persistentvolumes,daemonsets", "-A", "-o", "wide"),
            "events.txt": ("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"),
            "pods.txt": ("describe", "pods", "-n", namespace),
            "system-pods.txt": ("describe", "pods", "-n", SYSTEM_NAMESPACE),
        }.items():
            (folder / name).write_text(self.kubectl(*arguments, check=False))
        for pod in self.objects("pods", namespace=SYSTEM_NAMESPACE):
            name = pod["metadata"]["name"]
            text = self.kubectl(
                "-n", SYSTEM_NAMESPACE, "logs", name, "--all-containers", "--prefix", "--tail=500", check=False
            )
            (folder / f"{name}.log").write_text(text)
        for log in [*self.folder.glob("log/*.log"), *self.folder.glob("nas/ganesha.log")]:
            shutil.copy(log, folder / log.name)
        for node in self.nodes():
            state = self.on_node(node, "sh", "-c", "grep efc /proc/self/mountinfo; ps -eo pid,ppid,stat,etime,args")
            (folder / f"{node}.txt").write_text(state)

    # ------------------------------------------------------------ inside

    def _exec(self, pod: str, script: str, *, namespace: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        arguments = ("-n", namespace, "exec", pod, "--", "sh", "-c", script)
        return self.script("kubectl", *arguments, limit_s=limit_s, check=False)


@contextmanager
def cluster_of_session(*, nodes: int, within: AbstractContextManager[None] | None = None) -> Iterator[Cluster]:
    """A cluster for all tests of a session, which lives `within` that; or the one in EFC_CLUSTER_DIR, which stays."""
    if running := os.environ.get("EFC_CLUSTER_DIR"):
        yield Cluster(folder=Path(running))
        return
    require_sandbox()
    with within or nullcontext():
        cluster = Cluster(folder=Path(tempfile.mkdtemp(prefix="cluster-")))
        cluster.boot(nodes=nodes)
        try:
            yield cluster
        finally:
            cluster.end()
            shutil.rmtree(cluster.folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A test's own namespace, and the objects that are made in it again and again."""

    cluster: Cluster
    name: str

    def apply(self, *manifests: Manifest) -> None:
        """Applies manifests, which need not say the namespace."""
        placed = []
        for manifest in manifests:
            metadata = manifest["metadata"]
            clusterwide = manifest["kind"] in {"PersistentVolume", "StorageClass"}
            placed.append({**manifest, "metadata": metadata if clusterwide else {"namespace": self.name, **metadata}})
        self.cluster.apply(*placed)

    def run(self, pod: str, script: str, *, limit_s: float = 60) -> str:
        """`Cluster.run` in this namespace."""
        return self.cluster.run(pod, script, namespace=self.name, limit_s=limit_s)

    def fails(self, pod: str, script: str) -> str:
        """`Cluster.fails` in this namespace."""
        return self.cluster.fails(pod, script, namespace=self.name)

    def await_pods(self, *names: str, limit_s: float = POD_LIMIT_S) -> None:
        """`Cluster.await_pods` in this namespace."""
        self.cluster.await_pods(*names, namespace=self.name, limit_s=limit_s)

    def delete(self, kind: str, *names: str, limit_s: float = 60) -> float:
        """`Cluster.delete` in this namespace."""
        return self.cluster.delete(kind, *names, namespace=self.name, limit_s=limit_s)

    def await_message(self, name: str, *parts: str, limit_s: float = 60) -> str:
        """`Cluster.await_message` in this namespace."""
        return self.cluster.await_message(name, *parts, namespace=self.name, limit_s=limit_s)

    def await_abnormal(self, pod: str, *parts: str, limit_s: float = 60) -> str:
        """What kubelet says of an abnormal volume of a pod, once `parts` are in it (feature gate CSIVolumeHealth)."""
        parts = ("VolumeConditionAbnormal", *parts)
        found = self.await_message(pod, *parts, limit_s=limit_s)
        return next(line for line in found.splitlines() if all(part in line for part in parts))

    def logs(self, *what: str) -> str:
        """Standard output of a pod's container, or of a Deployment's (`kubectl logs`)."""
        return self.cluster.kubectl("-n", self.name, "logs", *what)

    def bound_directory(self, claim: str) -> str:
        """`path` of the volume that a claim is bound to, once it is: a directory below the storage class's source."""
        cluster = self.cluster
        wait_for = "--for=jsonpath={.status.phase}=Bound"
        cluster.kubectl("-n", self.name, "wait", wait_for, "--timeout=60s", f"persistentvolumeclaim/{claim}")
        found = cluster.get("persistentvolumeclaim", claim, namespace=self.name)
        assert found is not None
        volume = cluster.get("persistentvolume", found["spec"]["volumeName"])
        assert volume is not None
        return str(volume["spec"]["csi"]["volumeAttributes"]["path"])

    def static_volume(
        self, name: str, *, source: str, path: str = "", mode: str = "ReadWriteMany",
        options: Sequence[str] = (), csi: Manifest | None = None,
    ) -> None:  # fmt: skip
        """A PersistentVolume, and a claim of the same name bound to it; `csi` is added to the volume's part for us."""
        volume = f"{self.name}-{name}"
        self.apply(
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume, "labels": {"efc": "test"}},
                "spec": {
                    "capacity": {"storage": "1Gi"}, "accessModes": [mode], "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "", "claimRef": {"namespace": self.name, "name": name},
                    "mountOptions": list(options),
                    "csi": {
                        "driver": DRIVER, "volumeHandle": volume,
                        "volumeAttributes": {"source": source, **({"path": path} if path else {})}, **(csi or {}),
                    },
                },
            },
            claim(name, storage_class="", mode=mode, volume=volume),
        )  # fmt: skip

    def storage_class(self, name: str, **parameters: str) -> str:
        """A StorageClass of the driver; its full name."""
        full = f"{self.name}-{name}"
        self.apply({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": full, "labels": {"efc": "test"}}, "provisioner": DRIVER, "parameters": parameters,
        })  # fmt: skip
        return full


def claim(name: str, *, storage_class: str, mode: str = "ReadWriteMany", volume: str = "") -> Manifest:
    """A PersistentVolumeClaim."""
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {
            "accessModes": [mode], "storageClassName": storage_class, "resources": {"requests": {"storage": "1Gi"}},
            **({"volumeName": volume} if volume else {}),
        },
    }  # fmt: skip


def pod(
    name: str, *, claims: Mapping[str, str], node: str = "", command: Sequence[str] = ("sleep", "infinity"),
    image: str = BUSYBOX, mount: Manifest | None = None, volume: Manifest | None = None, **spec: Any,
) -> Manifest:  # fmt: skip
    """A pod with `claims` (mount path -> claim). `mount` and `volume` are added to each of its volumes' entries."""
    names = {path: f"volume-{number}" for number, path in enumerate(claims)}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "enableServiceLinks": False,
            **({"nodeName": node} if node else {}),
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "Never", "command": list(command),
                "volumeMounts": [{"name": names[path], "mountPath": path, **(mount or {})} for path in claims],
            }],
            "volumes": [
                {"name": names[path], "persistentVolumeClaim": {"claimName": claimed, **(volume or {})}}
                for path, claimed in claims.items()
            ],
            **spec,
        },
    }  # fmt: skip


def inline_pod(name: str, *, read_only: bool = False, **attributes: str) -> Manifest:
    """A pod whose own specification says what is mounted at /data."""
    manifest = pod(name, claims={"/data": "unused"})
    source = {"driver": DRIVER, "readOnly": read_only, "volumeAttributes": attributes}
    return {**manifest, "spec": {**manifest["spec"], "volumes": [{"name": "volume-0", "csi": source}]}}


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began
