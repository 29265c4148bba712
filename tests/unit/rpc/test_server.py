"""The gRPC edge on a real socket: modes, stale and live sockets, statuses, logs; and what services refuse."""

import logging
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from csi._proto import csi_pb2, csi_pb2_grpc
from csi.base.errors import Code, DriverError
from csi.config.several import SOURCES_BYTES_MAX, SOURCES_MAX, MountedSource, Sources
from csi.config.sources import Source
from csi.controller.provisioning import Provisioner
from csi.controller.service import ControllerService
from csi.node.inline import AllowedSources
from csi.node.service import NodeService
from csi.node.targets import KubeletRoots
from csi.rpc.identity import IdentityService
from csi.rpc.server import Server, configure_logging, parse_endpoint
from tests.unit.local_nas import LocalNas

SECRET = "hunter2-planted"


class Service:
    """Fails as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def NodeGetInfo(self, _: csi_pb2.NodeGetInfoRequest) -> csi_pb2.NodeGetInfoResponse:  # noqa: N802
        if self.error is not None:
            raise self.error
        return csi_pb2.NodeGetInfoResponse(node_id="n")

    async def NodePublishVolume(self, _: csi_pb2.NodePublishVolumeRequest) -> csi_pb2.NodePublishVolumeResponse:  # noqa: N802
        raise DriverError(Code.UNAVAILABLE, f"cannot reach nfs://user:{SECRET}@nas/x")


@asynccontextmanager
async def serving(path: Path, service: object, name: str = "Node") -> AsyncIterator[grpc.aio.Channel]:
    server = Server(f"unix://{path}")
    server.add(name, service)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            yield channel
    finally:
        server._unlink_own()
        await server._grpc.stop(grace=0)


async def status_of(call: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code(), caught.value.details() or ""


async def test_socket_is_private_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    async with serving(path, Service()) as channel:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [child.name for child in tmp_path.iterdir()] == ["csi.sock"]
        reply = await csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest())
        assert reply.node_id == "n"
    assert list(tmp_path.iterdir()) == []


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serving(path, Service()) as channel:
        await csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest())
        with pytest.raises(DriverError, match="another process"):
            await Server(f"unix://{path}").start()
        await csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest())


async def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    async with serving(path, Service()):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            inode = path.stat().st_ino
    assert path.stat().st_ino == inode


async def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    path.write_text("precious")
    with pytest.raises(DriverError, match="no socket"):
        await Server(f"unix://{path}").start()
    assert path.read_text() == "precious"
    with pytest.raises(DriverError, match="directory does not exist"):
        await Server(f"unix://{tmp_path}/missing/csi.sock").start()


@pytest.mark.parametrize("endpoint", ["", "tcp://x:1", "/csi.sock", "unix://csi.sock", "unix:///" + "x" * 107])
def test_endpoints_refused(endpoint: str) -> None:
    with pytest.raises(DriverError):
        parse_endpoint(endpoint)


def test_endpoints() -> None:
    assert parse_endpoint("unix:///csi/csi.sock") == parse_endpoint("unix:/csi/csi.sock") == "/csi/csi.sock"


@pytest.mark.parametrize("code", list(Code))
async def test_every_code_has_its_status(tmp_path: Path, code: Code) -> None:
    async with serving(tmp_path / "s", Service(DriverError(code, "a sentence"))) as channel:
        status = await status_of(csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest()))
    assert status == (grpc.StatusCode[code.name], "a sentence")


async def test_a_bug_is_internal_and_keeps_its_details_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "s", Service(ValueError("details"))) as channel:
        code, message = await status_of(csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest()))
    assert code is grpc.StatusCode.INTERNAL
    assert "details" not in message
    assert "ValueError: details" in caplog.text


async def test_methods_that_are_not_offered(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Service()) as channel:
        node, controller = csi_pb2_grpc.NodeStub(channel), csi_pb2_grpc.ControllerStub(channel)
        for call in (
            node.NodeStageVolume(csi_pb2.NodeStageVolumeRequest()),
            controller.CreateVolume(csi_pb2.CreateVolumeRequest()),
        ):
            assert (await status_of(call))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_secrets_stay_out_of_logs_and_statuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("debug")
    try:
        async with serving(tmp_path / "s", Service()) as channel:
            request = csi_pb2.NodePublishVolumeRequest(
                volume_id="shown",
                secrets={"password": SECRET},
                volume_context={
                    "csi.storage.k8s.io/serviceAccount.tokens": SECRET,
                    "source": f"nfs://u:{SECRET}@nas/x",
                },
            )
            _, message = await status_of(csi_pb2_grpc.NodeStub(channel).NodePublishVolume(request))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    log = capfd.readouterr().err
    assert "shown" in log
    assert SECRET not in log
    assert SECRET not in message


LETTERS = "a" * 40_000
Context = dict[str, object]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"volume_context": {"source": LETTERS}}, "volume_context"),
        ({"volume_context": {LETTERS: ""}}, "volume_context"),
        ({"volume_context": {str(number): "x" * 100 for number in range(100)}}, "volume_context"),
        ({"publish_context": {"a": "\u4e2d" * 2000}}, "publish_context"),
        ({"volume_id": LETTERS}, "volume_id"),
        ({"target_path": "/" + LETTERS}, "target_path"),
        ({"volume_capability": {"mount": {"fs_type": "x" * 129}}}, "fs_type"),
        ({"volume_capability": {"mount": {"mount_flags": ["x" * 100] * 50}}}, "mount_flags"),
        ({"volume_capability": {"mount": {"mount_flags": [LETTERS]}}}, "mount_flags"),
    ],
)
async def test_fields_that_are_too_long_are_named_and_not_looked_at(tmp_path: Path, fields: Context, name: str) -> None:
    request = ParseDict(fields, csi_pb2.NodePublishVolumeRequest())
    async with serving(tmp_path / "s", Service()) as channel:
        code, message = await status_of(csi_pb2_grpc.NodeStub(channel).NodePublishVolume(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert repr(name) in message
    assert len(message) < 200


async def test_as_many_sources_as_a_dataset_may_have_are_taken(tmp_path: Path) -> None:
    """The operator makes a volume of them whose attributes nobody can change any more."""
    mounted = [
        MountedSource(path=f"/models-{number}", source=Source.parse(f"nfs://nas.example.com/exports/models-{number}"))
        for number in range(SOURCES_MAX)
    ]
    sources = Sources.of(mounted).canonical()
    assert len(sources) > 4096
    request = csi_pb2.NodePublishVolumeRequest(volume_id="v", volume_context={"sources": sources, "a": "b" * 4000})
    async with serving(tmp_path / "s", Service()) as channel:
        code, _ = await status_of(csi_pb2_grpc.NodeStub(channel).NodePublishVolume(request))
        assert code is grpc.StatusCode.UNAVAILABLE, "the service was asked"
        request.volume_context["sources"] = " " * (SOURCES_BYTES_MAX + 1)
        code, message = await status_of(csi_pb2_grpc.NodeStub(channel).NodePublishVolume(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "volume_context" in message


async def test_what_kubernetes_adds_does_not_count(tmp_path: Path) -> None:
    added = {"csi.storage.k8s.io/serviceAccount.tokens": "t" * 20_000, "storage.kubernetes.io/identity": "x"}
    request = csi_pb2.NodePublishVolumeRequest(volume_id="v", volume_context=added | {"a": "b" * 4000})
    async with serving(tmp_path / "s", Service()) as channel:
        code, _ = await status_of(csi_pb2_grpc.NodeStub(channel).NodePublishVolume(request))
        assert code is grpc.StatusCode.UNAVAILABLE, "the service was asked"
        request.secrets["large"] = "x" * 300_000
        code, _ = await status_of(csi_pb2_grpc.NodeStub(channel).NodePublishVolume(request))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def capability(mode: int = 1, **changes: object) -> csi_pb2.VolumeCapability:
    fields: dict[str, object] = {
        "mount": csi_pb2.VolumeCapability.MountVolume(),
        "access_mode": csi_pb2.VolumeCapability.AccessMode(mode=mode),  # type: ignore[arg-type]
    }
    return csi_pb2.VolumeCapability(**(fields | changes))  # type: ignore[arg-type]


class NoPublisher:
    """Must not be reached."""


NODE = NodeService(
    node_id="n",
    publisher=NoPublisher(),  # type: ignore[arg-type]
    kubelet_roots=KubeletRoots(["/var/lib/kubelet"]),
    allowed_sources=AllowedSources(None),
    datasets=NoPublisher(),  # type: ignore[arg-type]
)
TARGET = "/var/lib/kubelet/pods/1/mount"
CONTEXT = {"source": "nfs://nas/data"}
Mount = csi_pb2.VolumeCapability.MountVolume


@pytest.mark.parametrize(
    "request_fields",
    [
        {"volume_id": ""},
        {"target_path": ""},
        {"target_path": "/etc/x"},
        {"target_path": "/var/lib/kubelet/../../x"},
        {"volume_capability": None},
        {"volume_capability": csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume())},
        {"volume_capability": capability(0)},
        {"volume_capability": capability(mount=Mount(fs_type="ext4"))},
        {"volume_capability": capability(mount=Mount(volume_mount_group="7"))},
        {"volume_capability": capability(mount=Mount(mount_flags=["suid"]))},
        {"volume_capability": capability(mount=Mount(mount_flags=["ro,connections=2"]))},
        {"volume_context": {}},
        {"volume_context": CONTEXT | {"path": "../x"}},
    ],
)
async def test_publish_requests_refused_before_anything_is_done(request_fields: dict[str, object]) -> None:
    fields = {"volume_id": "v", "target_path": TARGET, "volume_capability": capability(), "volume_context": CONTEXT}
    request = csi_pb2.NodePublishVolumeRequest(**(fields | request_fields))  # type: ignore[arg-type]
    with pytest.raises(DriverError) as caught:
        await NODE.NodePublishVolume(request)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "request_fields",
    [
        {"name": ""},
        {"name": "x" * 129},
        {"volume_capabilities": []},
        {"volume_capabilities": [csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume())]},
        {"capacity_range": csi_pb2.CapacityRange(required_bytes=2, limit_bytes=1)},
        {"capacity_range": csi_pb2.CapacityRange(required_bytes=-1)},
        {"parameters": {"onDelet": "x"}},
        {"mutable_parameters": {"x": "y"}},
        {"volume_content_source": csi_pb2.VolumeContentSource()},
    ],
)
async def test_create_requests_refused_before_anything_is_done(
    tmp_path: Path, request_fields: dict[str, object]
) -> None:
    nas = LocalNas(tmp_path)
    fields = {"name": "v", "volume_capabilities": [capability()]}
    request = csi_pb2.CreateVolumeRequest(**(fields | request_fields))  # type: ignore[arg-type]
    with pytest.raises(DriverError) as caught:
        await ControllerService(Provisioner([nas])).CreateVolume(request)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert nas.commands == []


async def test_controller_answers(tmp_path: Path) -> None:
    controller = ControllerService(Provisioner([LocalNas(tmp_path)]))
    created = await controller.CreateVolume(csi_pb2.CreateVolumeRequest(name="v", volume_capabilities=[capability()]))
    volume = created.volume
    listed = await controller.ListVolumes(csi_pb2.ListVolumesRequest(max_entries=5))
    assert [entry.volume for entry in listed.entries] == [volume]
    assert not listed.entries[0].status.volume_condition.abnormal
    got = await controller.ControllerGetVolume(csi_pb2.ControllerGetVolumeRequest(volume_id=volume.volume_id))
    assert got.volume == volume
    validate = csi_pb2.ValidateVolumeCapabilitiesRequest(volume_id=volume.volume_id, volume_capabilities=[capability()])
    assert (await controller.ValidateVolumeCapabilities(validate)).HasField("confirmed")
    validate.volume_capabilities.append(capability(mount=Mount(fs_type="xfs")))
    refusal = await controller.ValidateVolumeCapabilities(validate)
    assert not refusal.HasField("confirmed")
    assert "xfs" in refusal.message
    with pytest.raises(DriverError) as caught:
        await controller.ListVolumes(csi_pb2.ListVolumesRequest(starting_token="nonsense"))
    assert caught.value.code is Code.ABORTED
    with pytest.raises(DriverError) as caught:
        await controller.CreateVolume(
            csi_pb2.CreateVolumeRequest(
                name="w",
                volume_capabilities=[capability()],
                capacity_range=csi_pb2.CapacityRange(required_bytes=1 << 62),
            )
        )
    assert caught.value.code is Code.OUT_OF_RANGE
    await controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=volume.volume_id))
    assert (await controller.ListVolumes(csi_pb2.ListVolumesRequest())).entries == []
    capacity = csi_pb2.GetCapacityRequest(parameters={"pathPattern": "${pvc.name}"})
    assert (await controller.GetCapacity(capacity)).available_capacity == 1000


async def test_probe_tells_the_truth() -> None:
    answers = iter([True, False])

    async def is_ready() -> bool:
        return next(answers)

    identity = IdentityService(is_ready)
    assert (await identity.Probe(csi_pb2.ProbeRequest())).ready.value
    assert not (await identity.Probe(csi_pb2.ProbeRequest())).ready.value
