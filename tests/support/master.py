"""A Dataset's master as a process, its authority, and what the operator would say to it.

with Authority.made() as authority, DatasetMaster(authority) as master:
    master.configure(mounts=[...], workers=[...])
    driver.publish(master.volume(source), target, secrets=master.secrets())
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from csi._proto import csi_pb2, dataset_pb2, dataset_pb2_grpc
from csi.operator import pki
from tests.support.driver import free_port, static_volume
from tests.support.environment import clean_environment
from tests.support.paths import program
from tests.support.processes import SLOWNESS, end_process, wait_until
from tests.support.workers import Worker

_FILES = ("ca.crt", "tls.crt", "tls.key")


@dataclass(frozen=True, kw_only=True)
class Authority:
    """The authority of one Dataset, and a folder for each certificate that it has signed, as the operator does."""

    folder: Path
    files: pki.Files

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Self]:
        """For the time of the block."""
        made = pki.identities(pki.nobody(), now=datetime.now(UTC), random=os.urandom).authority
        with tempfile.TemporaryDirectory(prefix="efc-authority-") as folder:
            Path(folder).chmod(0o755)
            (Path(folder) / "ca.crt").write_bytes(made[pki.AUTHORITY])
            yield cls(folder=Path(folder), files=made)

    def signed(self, name: str, *, folder: str = "") -> Path:
        """A folder with ca.crt, and a new tls.crt and tls.key of the operator, the master, workers or nodes."""
        now = datetime.now(UTC)
        if name == pki.OPERATOR:
            files = pki.operator_identity(self.files, {}, now=now, random=os.urandom)
        else:
            present = replace(pki.nobody(), authority=self.files)
            files = getattr(pki.identities(present, now=now, random=os.urandom), name)
        path = self.folder / (folder or name)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
        for file in _FILES:
            (path / "new").write_bytes(files[file])
            (path / "new").chmod(0o644)  # memcached is another user
            (path / "new").rename(path / file)
        return path


def channel_to(port: int, folder: Path) -> grpc.Channel:
    """A channel to a master with the certificate in this folder."""
    authority, certificate, key = ((folder / name).read_bytes() for name in _FILES)
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    options = [("grpc.ssl_target_name_override", "master.efc"), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)


def _described(worker: Worker | dataset_pb2.Worker) -> dataset_pb2.Worker:
    if isinstance(worker, dataset_pb2.Worker):
        return worker
    return dataset_pb2.Worker(name=f"worker-{worker.port}", address=worker.endpoint, capacity_bytes=256 << 20)


def _stub(channel: grpc.Channel) -> Any:
    return dataset_pb2_grpc.MasterStub(channel)  # type: ignore[no-untyped-call]


@dataclass(kw_only=True)
class DatasetMaster:
    """`efc master` inside a `with` block, and the operator's side of it."""

    authority: Authority
    environment: Mapping[str, str] = field(default_factory=dict)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    port: int = field(default_factory=free_port)
    key: str = field(default_factory=lambda: secrets.token_hex(32))
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="efc-master-")))
    _process: subprocess.Popen[bytes] | None = None
    _revision: int = 0
    _fields: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        for name in ("master", "operator", "node", "worker"):
            self.authority.signed(name)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"end of the master's log:\n{self.log.read_text(errors='replace')[-3000:]}")
        self.stop()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.folder.rmdir()

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it; returns when it can be called."""
        command = [str(program("efc")), "master", f"--listen=127.0.0.1:{self.port}",
                   f"--tls={self.authority.folder}/master", f"--state={self.folder}/state"]  # fmt: skip
        environment = clean_environment() | dict(self.environment)
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: process.poll() is not None or self._answers(), what="the master", limit_s=20)
        assert process.poll() is None, self.log.read_text()

    def await_saved_reads(self) -> None:
        """Returns when it has written down what nodes have read, as it does every few seconds."""
        state = self.folder / "state" / "master.json"

        def is_saved() -> bool:
            return state.exists() and bool(json.loads(state.read_text())["window"]["buckets"])

        wait_until(is_saved, what="the master's state", limit_s=20, interval_s=0.2)

    def kill(self) -> None:
        """SIGKILL; `start` makes the next one, which has to be configured again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def stop(self) -> None:
        """SIGTERM, if it runs."""
        if self._process is not None:
            end_process(self._process)
            self._process = None

    def configure(
        self,
        *,
        orders: dataset_pb2.Orders | None = None,
        workers: Sequence[Worker | dataset_pb2.Worker] | None = None,
        **fields: Any,
    ) -> None:
        """What the operator says from now on: what is not given stays as it was."""
        if workers is not None:
            self._fields["workers"] = [_described(worker) for worker in workers]
        if orders is not None:
            self._fields["orders"] = orders
        self._fields |= fields
        self._revision += 1
        configuration = dataset_pb2.Configuration(
            revision=self._revision, dataset=self.name, uid=self.uid, **self._fields
        )  # fmt: skip
        with channel_to(self.port, self.authority.folder / "operator") as channel:
            _stub(channel).Configure(configuration, timeout=60)

    def figures(self) -> dataset_pb2.Figures:
        """Figures as they are now."""
        with channel_to(self.port, self.authority.folder / "operator") as channel:
            for figures in _stub(channel).WatchFigures(dataset_pb2.WatchFiguresRequest(), timeout=60):
                return figures  # type: ignore[no-any-return]
        raise AssertionError("no figures")

    def await_figures(
        self, wanted: Callable[[dataset_pb2.Figures], bool], *, what: str, limit_s: float = 30
    ) -> dataset_pb2.Figures:
        """The first figures that are as wanted."""
        last: list[dataset_pb2.Figures] = [dataset_pb2.Figures()]
        until = time.monotonic() + limit_s * SLOWNESS
        while time.monotonic() < until:
            last[0] = self.figures()
            if wanted(last[0]):
                return last[0]
            time.sleep(0.3)
        raise AssertionError(f"no {what}: {last[0]}")

    @property
    def name(self) -> str:
        """The Dataset's."""
        return "default/demo"

    def volume(self, source: str, **attributes: str) -> csi_pb2.Volume:
        """The Dataset's volume, as the operator describes it."""
        own = {"dataset": self.name, "master": f"127.0.0.1:{self.port}", "clean-policy": "OnDemand"} | attributes
        return static_volume(f"dataset-{self.uid}", source, **own)

    def secrets(self) -> dict[str, str]:
        """The Secret of the volume."""
        files = {name: (self.authority.folder / "node" / name).read_text() for name in _FILES}
        return {"block-key": self.key, **files}

    def worker(self) -> Worker:
        """A worker of this Dataset, to be started by a `with` block."""
        return Worker(tls=self.authority.folder / "worker", is_ours=True, tls_name="worker.efc")

    def _answers(self) -> bool:
        with channel_to(self.port, self.authority.folder / "operator") as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=1)
            except grpc.FutureTimeoutError:
                return False
        return True
