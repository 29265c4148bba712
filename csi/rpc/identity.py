"""The CSI Identity service, on both sockets."""

from collections.abc import Awaitable, Callable

from google.protobuf.wrappers_pb2 import BoolValue

from csi._proto import csi_pb2
from csi.base import driver

_Service = csi_pb2.PluginCapability.Service


class IdentityService:
    """The service; ``is_ready`` must answer within about a second whatever hangs: liveness probes depend on it."""

    def __init__(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        self._is_ready = is_ready
        self._version = driver.version()

    async def GetPluginInfo(self, _request: csi_pb2.GetPluginInfoRequest) -> csi_pb2.GetPluginInfoResponse:
        """Name and release (GetPluginInfo)."""
        return csi_pb2.GetPluginInfoResponse(name=driver.NAME, vendor_version=self._version)

    async def GetPluginCapabilities(
        self, _request: csi_pb2.GetPluginCapabilitiesRequest
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """There is a Controller service; every node reaches every volume (GetPluginCapabilities)."""
        controller = csi_pb2.PluginCapability(service=_Service(type=_Service.CONTROLLER_SERVICE))
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=[controller])

    async def Probe(self, _request: csi_pb2.ProbeRequest) -> csi_pb2.ProbeResponse:
        """Whether the process can do its work now (Probe)."""
        return csi_pb2.ProbeResponse(ready=BoolValue(value=await self._is_ready()))
