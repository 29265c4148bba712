"""The real driver: keeper, node plugin and controller on real sockets, with a kubelet directory of their own.

What kubelet and the sidecars would send comes from `publish`, `create` and so on: requests as a real
cluster sends them. Every process can be killed and started anew between any two calls.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from csi._proto import csi_pb2, csi_pb2_grpc
from csi.node.keeper import Keeper
from tests.support.environment import clean_environment
from tests.support.mounts import Mount, mounts_below, remove_mounts
from tests.support.paths import program
from tests.support.processes import SLOWNESS, Process, end_process, processes, wait_until

CALL_LIMIT_S = 60.0 * SLOWNESS
SERVICE_START_LIMIT_S = 20.0

MULTI_WRITER = csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER
SINGLE_WRITER = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER
MULTI_READER = csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY


def capability(
    mode: csi_pb2.VolumeCapability.AccessMode.Mode = MULTI_WRITER, *, mount_flags: Sequence[str] = ()
) -> csi_pb2.VolumeCapability:
    """A file system volume with an access mode."""
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(mount_flags=mount_flags),
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode=mode),
    )


@dataclass(kw_only=True)
class Driver:
    """Runs inside a `with` block. `source` is where CreateVolume makes directories when a request names no source.

    `node_programs` is a folder of programs for the node plugin alone, as another release's image has them.
    """

    source: str
    keeper_options: Sequence[str] = ()
    node_programs: Path | None = None
    #: The node's name.
    node_id: str = "node-1"
    #: How long a daemon outlives its last volume.
    idle_grace_s: int = 2
    #: kubelet's directory is a link to where it is, as administrators make it when it shall be on another disk.
    is_kubelet_linked: bool = False
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="drv-")))
    #: Where `node` and `controller` serve metrics on 127.0.0.1.
    metrics_ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("node", "controller")}
    )
    _services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _channels: dict[str, grpc.Channel] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.run_dir.mkdir(parents=True)
        if self.is_kubelet_linked:
            (self.folder / "disk").mkdir()
            self.kubelet_root.symlink_to("disk")
        else:
            self.kubelet_root.mkdir()
        self.allow([])
        try:
            for name in ("keeper", "node", "controller"):
                self.start(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"logs of the driver:\n{self.logs()[-6000:]}")
        self.close()

    def close(self) -> None:
        """Ends everything by pid and removes all mounts and the folder."""
        for channel in self._channels.values():
            channel.close()
        for name in ("controller", "node"):
            self.stop(name)
        remove_mounts(self.folder)
        daemons = self.daemons()
        self.stop("keeper")
        for daemon in daemons:
            subprocess.run(["kill", "-KILL", str(daemon.pid)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------ processes

    @property
    def run_dir(self) -> Path:
        """RUN_DIR of all its processes."""
        return self.folder / "run"

    @property
    def kubelet_root(self) -> Path:
        """Stands for /var/lib/kubelet."""
        return self.folder / "kubelet"

    @property
    def allowed_sources(self) -> Path:
        """What may be mounted inline, which `allow` writes; at first nothing."""
        return self.folder / "allowed-sources.json"

    def allow(self, rules: Sequence[Mapping[str, Sequence[str]]]) -> None:
        """Replaces the list of allowed sources, as kubelet does it with a ConfigMap."""
        new = self.allowed_sources.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.rename(self.allowed_sources)

    def socket(self, name: str) -> Path:
        """The CSI socket of `node` or `controller`."""
        return self.folder / f"{name}.sock"

    def log(self, name: str) -> Path:
        """What `keeper` (and its daemons), `node` or `controller` wrote to stdout and stderr."""
        return self.folder / f"{name}.log"

    def logs(self) -> str:
        """All logs, one after another."""
        return "".join(
            f"--- {path.stem}\n{path.read_text(errors='replace')}" for path in sorted(self.folder.glob("*.log"))
        )

    def start(self, name: str) -> None:
        """Starts `keeper`, `node` or `controller`; returns when it can be asked."""
        with self.log(name).open("ab") as log:
            self._services[name] = service = subprocess.Popen(
                self._command(name), env=self._environment(name), cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        ready = self._keeper_listens if name == "keeper" else functools.partial(self._serves, name)
        wait_until(
            lambda: service.poll() is not None or ready(), what=f"{name} to start", limit_s=SERVICE_START_LIMIT_S
        )
        if service.poll() is not None:
            raise RuntimeError(f"{name} ended with status {service.returncode}:\n{self.log(name).read_text()[-3000:]}")

    def stop(self, name: str) -> None:
        """SIGTERM, then SIGKILL if need be; nothing happens when it does not run."""
        if service := self._services.pop(name, None):
            end_process(service)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        service = self._services.pop(name)
        service.send_signal(signal.SIGKILL)
        service.wait(10)

    def crash(self, *names: str) -> None:
        """SIGKILL and a new start of each."""
        for name in names:
            self.kill(name)
            self.start(name)

    def pid(self, name: str) -> int:
        """Process id of `keeper`, `node` or `controller`."""
        return self._services[name].pid

    def daemons(self) -> list[Process]:
        """The keeper's living daemons, those included that it has taken over: they are nobody's children."""
        keeper = self._services.get("keeper")
        if keeper is None:
            return []
        living = [process for process in processes() if process.name == "efcd" and process.state != "Z"]
        taken_over: set[int] = set()
        if any(process.parent_pid == 1 for process in living):
            taken_over = {mount.pid for mount in asyncio.run(Keeper(str(self.run_dir)).status()).mounts}
        return [process for process in living if process.parent_pid == keeper.pid or process.pid in taken_over]

    def _environment(self, name: str) -> dict[str, str]:
        own = {"EFC_BIN_DIR": str(self.node_programs)} if name == "node" and self.node_programs else {}
        return clean_environment(RUN_DIR=str(self.run_dir), **own)

    def _command(self, name: str) -> list[str]:
        if name == "keeper":
            return [str(program("efc-keeper")), "--run-dir", str(self.run_dir), *self.keeper_options]
        common = [f"--endpoint=unix://{self.socket(name)}", f"--metrics-address=127.0.0.1:{self.metrics_ports[name]}"]
        if name == "node":
            return [
                str(program("efc")), "csi", "node", *common, f"--node-id={self.node_id}",
                f"--kubelet-root={self.kubelet_root}", f"--idle-grace={self.idle_grace_s}",
                f"--allowed-sources={self.allowed_sources}",
            ]  # fmt: skip
        return [str(program("efc")), "csi", "controller", *common, f"--source={self.source}"]

    def _keeper_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            return connection.connect_ex(str(self.run_dir / "keeper.sock")) == 0

    def _serves(self, name: str) -> bool:
        # A socket may be a dead predecessor's: only an answer proves that somebody serves it.
        with grpc.insecure_channel(f"unix:{self.socket(name)}") as channel:
            try:
                csi_pb2_grpc.IdentityStub(channel).GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=SLOWNESS)
            except grpc.RpcError:
                return False
        return True

    # ------------------------------------------------------------ the services

    def channel(self, name: str) -> grpc.Channel:
        """A channel to `node` or `controller`, which connects again by itself after a restart."""
        if name not in self._channels:
            # A global pool would share connections, and the back-off after a crash, between tests.
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100),
                       ("grpc.min_reconnect_backoff_ms", 20), ("grpc.initial_reconnect_backoff_ms", 20)]  # fmt: skip
            self._channels[name] = grpc.insecure_channel(f"unix:{self.socket(name)}", options)
        return self._channels[name]

    def call(self, name: str, method: str, request: Any, *, limit_s: float = CALL_LIMIT_S) -> Any:
        """Calls `method`, for example "NodePublishVolume", at `node` or `controller`. Raises grpc.RpcError."""
        service = "Identity" if hasattr(csi_pb2_grpc.IdentityServicer, method) else name.capitalize()
        stub = getattr(csi_pb2_grpc, f"{service}Stub")(self.channel(name))
        return getattr(stub, method)(request, timeout=limit_s, wait_for_ready=True)

    def create(self, name: str, *, parameters: Mapping[str, str] | None = None, capacity_bytes: int = 0,
               **fields: Any) -> csi_pb2.Volume:  # fmt: skip
        """CreateVolume."""
        request = csi_pb2.CreateVolumeRequest(
            name=name, parameters=parameters, capacity_range=csi_pb2.CapacityRange(required_bytes=capacity_bytes),
            **{"volume_capabilities": [capability()], **fields},
        )  # fmt: skip
        volume: csi_pb2.Volume = self.call("controller", "CreateVolume", request).volume
        return volume

    def delete(self, volume_id: str, **fields: Any) -> None:
        """DeleteVolume."""
        self.call("controller", "DeleteVolume", csi_pb2.DeleteVolumeRequest(volume_id=volume_id, **fields))

    def target(self, pod: str = "", *, volume: str = "data") -> Path:
        """A target path as kubelet makes them: its parent exists, itself does not. A new pod unless one is named."""
        pod = pod or str(uuid.uuid4())
        path = self.kubelet_root / "pods" / pod / "volumes" / "kubernetes.io~csi" / volume / "mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(
        self, volume: csi_pb2.Volume, target: Path, *, mode: csi_pb2.VolumeCapability.AccessMode.Mode = MULTI_WRITER,
        mount_flags: Sequence[str] = (), limit_s: float = CALL_LIMIT_S, **fields: Any,
    ) -> None:  # fmt: skip
        """NodePublishVolume, for an inline volume with the word of kubelet on whose it is."""
        context = dict(volume.volume_context)
        if context.get("csi.storage.k8s.io/ephemeral") == "true":
            context.setdefault("csi.storage.k8s.io/pod.uid", target.parts[-5])
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume.volume_id, target_path=str(target),
            **{
                "volume_context": context,
                "volume_capability": capability(mode, mount_flags=mount_flags),
                **fields,
            },
        )  # fmt: skip
        self.call("node", "NodePublishVolume", request, limit_s=limit_s)

    def unpublish(self, volume: csi_pb2.Volume, target: Path, *, limit_s: float = CALL_LIMIT_S) -> None:
        """NodeUnpublishVolume."""
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=str(target))
        self.call("node", "NodeUnpublishVolume", request, limit_s=limit_s)

    def stats(self, volume: csi_pb2.Volume, path: Path) -> csi_pb2.NodeGetVolumeStatsResponse:
        """NodeGetVolumeStats."""
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume.volume_id, volume_path=str(path))
        answer: csi_pb2.NodeGetVolumeStatsResponse = self.call("node", "NodeGetVolumeStats", request)
        return answer

    def published(self) -> list[Mount]:
        """What is mounted below kubelet's directory."""
        return mounts_below(self.kubelet_root.resolve())


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def refused(*codes: grpc.StatusCode, limit_s: float = CALL_LIMIT_S) -> Iterator[list[str]]:
    """The block must end with an RPC error of one of `codes` within `limit_s` seconds, in one clear line.

    The line is put into the list.
    """
    message: list[str] = []
    started = time.monotonic()
    try:
        yield message
    except grpc.RpcError as error:
        text = error.details() or ""
        message.append(text)
        assert error.code() in codes, f"{error.code()} instead of {codes}: {text}"
        assert len(text) > 10, f"not a sentence: {text!r}"
        assert "\n" not in text, f"more than one line: {text!r}"
        assert "Traceback" not in text, text
        assert time.monotonic() - started < limit_s, f"it took {time.monotonic() - started:.1f} s: {text}"
    else:
        raise AssertionError(f"it succeeded, instead of failing with {codes}")


def static_volume(volume_id: str, source: str, *, path: str = "", **context: str) -> csi_pb2.Volume:
    """A volume as an administrator's PV describes it, unknown to the controller."""
    attributes = {"source": source, **({"path": path} if path else {}), **context}
    return csi_pb2.Volume(volume_id=volume_id, volume_context=attributes)


def inline_volume(source: str, *, namespace: str, path: str = "", **context: str) -> csi_pb2.Volume:
    """A volume of a pod's own specification, as kubelet hands it over."""
    volume_id = f"csi-{hashlib.sha256(uuid.uuid4().bytes).hexdigest()}"
    pod = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": namespace}
    return static_volume(volume_id, source, path=path, **context, **pod)
