"""Registration with kubelet: a node plugin on real sockets, with this test in kubelet's place."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi._proto import csi_pb2, csi_pb2_grpc
from csi._proto import pluginregistration_pb2 as wire
from csi._proto import pluginregistration_pb2_grpc as wire_grpc
from csi.base import driver
from csi.cli import main
from csi.rpc.server import Server, parse_endpoint
from tests.support.processes import end_process, wait_until

LIMIT_S = 20.0
ROOT = Path(__file__).resolve().parents[3]


def stand_in_programs(folder: Path) -> Path:
    """What a node plugin that publishes nothing looks for: the mount helper, and a daemon that tells its version."""
    folder.mkdir()
    (folder / "efc-mount-helper").touch(mode=0o755)
    (folder / "efcd").write_text("#!/bin/sh\necho 0.1.0\n")
    (folder / "efcd").chmod(0o755)
    return folder


class Plugin:
    """``efc csi node`` with a registration directory; it needs no keeper until a volume is published."""

    def __init__(self, folder: Path) -> None:
        self.csi_socket = folder / "csi.sock"
        self.registry = folder / "registry"
        self.registry.mkdir()
        self.registration_socket = self.registry / f"{driver.NAME}-reg.sock"
        programs = stand_in_programs(folder / "bin")
        arguments = ["--endpoint", f"unix://{self.csi_socket}", "--node-id", "node-1"]
        arguments += ["--registration-dir", str(self.registry), "--run-dir", str(folder / "run")]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "import csi.cli, sys; sys.exit(csi.cli.main())", "csi", "node", *arguments],
                env=os.environ | {"EFC_BIN_DIR": str(programs)}, cwd=ROOT, stderr=log,
            )  # fmt: skip
        wait_until(self._settled, what="the node plugin to register", limit_s=LIMIT_S)

    def _settled(self) -> bool:
        return self.process.poll() is not None or self.registration_socket.exists()

    def log(self) -> str:
        return self._log.read_text()

    def kubelet(self) -> tuple[grpc.Channel, wire_grpc.RegistrationStub]:
        channel = grpc.insecure_channel(f"unix:{self.registration_socket}")
        return channel, wire_grpc.RegistrationStub(channel)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: a unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="reg-") as folder:
        yield Path(folder)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    plugin = Plugin(tmp_path)
    try:
        yield plugin
    finally:
        end_process(plugin.process)


def test_kubelet_finds_the_node_service_where_it_is_told(plugin: Plugin) -> None:
    assert stat.S_IMODE(plugin.registration_socket.stat().st_mode) == 0o600
    assert [path.name for path in plugin.registry.iterdir()] == [plugin.registration_socket.name]
    channel, registration = plugin.kubelet()
    with channel:
        for _ in range(3):  # kubelet asks again after each restart
            info = registration.GetInfo(wire.InfoRequest(), timeout=LIMIT_S)
            assert (info.type, info.name, list(info.supported_versions)) == ("CSIPlugin", driver.NAME, ["1.0.0"])
            assert info.endpoint == str(plugin.csi_socket)
            registration.NotifyRegistrationStatus(wire.RegistrationStatus(plugin_registered=True), timeout=LIMIT_S)
    with grpc.insecure_channel(f"unix:{info.endpoint}") as csi:
        node = csi_pb2_grpc.NodeStub(csi).NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=LIMIT_S)
        assert node.node_id == "node-1"
        name = csi_pb2_grpc.IdentityStub(csi).GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=LIMIT_S).name
        assert name == info.name
    plugin.process.send_signal(signal.SIGTERM)
    assert plugin.process.wait(LIMIT_S) == 0
    assert not plugin.registration_socket.exists()
    assert not plugin.csi_socket.exists()
    assert f"registered with kubelet as {driver.NAME}" in plugin.log()


def test_probe(plugin: Plugin, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = f"unix://{plugin.csi_socket}"
    assert main(["csi", "probe", "--endpoint", endpoint, "--alive"]) == 0
    assert main(["csi", "probe", "--endpoint", endpoint]) == 1  # there is no keeper
    assert capsys.readouterr().err == f"efc: {endpoint} answers that it is not ready\n"
    plugin.process.send_signal(signal.SIGSTOP)
    try:
        assert main(["csi", "probe", "--endpoint", endpoint, "--alive", "--timeout", "0.5"]) == 1
    finally:
        plugin.process.send_signal(signal.SIGCONT)
    end_process(plugin.process)
    assert main(["csi", "probe", "--endpoint", endpoint, "--alive"]) == 1
    assert capsys.readouterr().err.count(f"efc: nobody answers at {endpoint}: ") == 2


def test_a_refused_registration_ends_the_process(plugin: Plugin) -> None:
    channel, registration = plugin.kubelet()
    with channel:
        refusal = wire.RegistrationStatus(plugin_registered=False, error="node name mismatch\nsecond line")
        registration.NotifyRegistrationStatus(refusal, timeout=LIMIT_S)
    assert plugin.process.wait(LIMIT_S) == 1
    last = plugin.log().splitlines()[-1]
    assert last == f"efc: kubelet refused to register {driver.NAME}: node name mismatch\\nsecond line"
    assert list(plugin.registry.iterdir()) == []
    assert not plugin.csi_socket.exists()


def test_a_successors_registration_stays(plugin: Plugin) -> None:
    plugin.registration_socket.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(plugin.registration_socket))
        plugin.process.send_signal(signal.SIGTERM)
        assert plugin.process.wait(LIMIT_S) == 0
        assert plugin.registration_socket.exists()


def test_a_registry_that_does_not_exist_is_said(tmp_path: Path) -> None:
    stand_in_programs(tmp_path / "bin")
    arguments = ["--endpoint", f"unix://{tmp_path}/csi.sock", "--node-id", "n", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", "import csi.cli, sys; sys.exit(csi.cli.main())", "csi", "node", *arguments,
         "--registration-dir", str(tmp_path / "missing")],
        env=os.environ | {"EFC_BIN_DIR": str(tmp_path / "bin")}, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "directory does not exist" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "csi.sock").exists()


async def test_methods_come_from_the_contract_that_is_given(tmp_path: Path) -> None:
    server = Server(f"unix://{tmp_path}/s")
    with pytest.raises(KeyError):
        server.add("Registration", object())
    assert server.path == parse_endpoint(f"unix://{tmp_path}/s")
