"""What others define is as they publish it, field by field, and the generated code is what proto/ generates."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

#: Our file -> the Go module that has the published one, its path there, and how many definitions it has at least.
PUBLISHED = {
    "csi.proto": ("github.com/container-storage-interface/spec@v1.12.0", "csi.proto", 1000),
    "pluginregistration.proto": ("k8s.io/kubelet@v0.36.3", "pkg/apis/pluginregistration/v1/api.proto", 30),
}
PROTO = Path(__file__).resolve().parents[2] / "proto"


def module_folder(module: str) -> Path:
    """Where Go has a module; skips, saying why, when it cannot be had."""
    if shutil.which("go") is None:
        pytest.skip(f"SKIPPED: no Go here, so {module} cannot be fetched")
    environment = os.environ | {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment, cwd="/")
    if done.returncode != 0:
        pytest.skip(f"SKIPPED: {module} cannot be fetched: {done.stdout.strip()[-300:]} {done.stderr.strip()[-300:]}")
    return Path(json.loads(done.stdout)["Dir"])


def compiled(path: Path, output: Path) -> descriptor_pb2.FileDescriptorProto:
    """The descriptor of the file at ``path``."""
    tools = pytest.importorskip("grpc_tools.protoc", reason="SKIPPED: grpcio-tools is not installed")
    well_known = Path(tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{path.parent}", f"-I{well_known}", f"--descriptor_set_out={output}", path.name]
    assert tools.main(arguments) == 0
    (file,) = FileDescriptorSet.FromString(output.read_bytes()).file
    # Where generated Go code goes says nothing about the wire, nor does the file's name.
    file.options.ClearField("go_package")
    if not file.options.SerializeToString():
        file.ClearField("options")
    file.ClearField("name")
    for service in file.service:
        for method in service.method:
            # `rpc X(..) returns (..) {}` has empty options, `rpc X(..) returns (..);` has none: the same on the wire.
            if method.HasField("options") and not method.options.SerializeToString():
                method.ClearField("options")
    return file


def described(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Every definition with its full name, so that a difference names its place."""

    def walk(message: Any, name: str) -> Iterator[tuple[str, str]]:
        for field, value in message.ListFields():
            if field.message_type is None:
                yield f"{name}.{field.name}", repr(value)
            elif field.is_repeated:
                for item in value:
                    yield from walk(item, f"{name}.{getattr(item, 'name', field.name)}")
            else:
                yield from walk(value, f"{name}.{field.name}")
        # Options of ours are unknown to descriptor_pb2, so they are compared as bytes.
        yield name, message.SerializeToString(deterministic=True).hex()

    yield from walk(file, file.package)


@pytest.mark.parametrize("name", PUBLISHED)
def test_same_as_published(tmp_path: Path, name: str) -> None:
    module, path, definitions_min = PUBLISHED[name]
    published = dict(described(compiled(module_folder(module) / path, tmp_path / "published")))
    ours = dict(described(compiled(PROTO / name, tmp_path / "ours")))
    assert len(published) > definitions_min
    assert {name for name in published if ours.get(name) != published[name]} == set()
    assert set(ours) == set(published)


def test_committed_code_is_what_proto_generates() -> None:
    generate = pytest.importorskip("csi._proto.generate")
    command = [sys.executable, "-m", "csi._proto.generate", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=PROTO.parent)
    if done.returncode == 2 or "No module named 'grpc_tools'" in done.stderr:
        pytest.skip(f"SKIPPED: needs grpcio-tools {generate.GRPCIO_TOOLS}: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
