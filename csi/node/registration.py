"""Registers the driver with kubelet (``pluginregistration.v1``), in place of a sidecar.

kubelet watches a directory. When a socket appears there, kubelet calls GetInfo on it, connects to the endpoint in the
answer, calls NodeGetInfo, writes the node's CSINode object, and reports the result by NotifyRegistrationStatus. After a
restart kubelet does the same with every socket that it finds, so nothing here watches kubelet. When the socket
disappears, kubelet unregisters the driver.

Hence the rules: the socket is made after Node serves; until it listens it has a name with a leading dot, which kubelet
ignores (:class:`csi.rpc.server.Server`); it is the first thing to be removed when this process ends, and only if it is
still its own. A refused registration ends the process, because kubelet does not retry by itself, and administrators
notice a pod that restarts.
"""

import asyncio
import logging

from csi._proto import pluginregistration_pb2
from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.rpc.redaction import redact_text

_LOGGER = logging.getLogger(__name__)
#: kubelet's word for plugins that are CSI drivers.
_TYPE = "CSIPlugin"
#: Versions of CSI that are served; kubelet looks at the first number only.
_VERSIONS = ("1.0.0",)


def socket_endpoint(folder: str) -> str:
    """Where in kubelet's ``plugins_registry`` our socket belongs."""
    return f"unix://{folder.rstrip('/')}/{driver.NAME}-reg.sock"


class RegistrationService:
    """kubelet's Registration service; ``plugin_path`` is the Node service's socket, as kubelet sees it."""

    def __init__(self, *, plugin_path: str) -> None:
        self._plugin_path = plugin_path
        self._refusal: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def GetInfo(self, _request: pluginregistration_pb2.InfoRequest) -> pluginregistration_pb2.PluginInfo:
        """Which driver is here, and where."""
        return pluginregistration_pb2.PluginInfo(
            type=_TYPE, name=driver.NAME, endpoint=self._plugin_path, supported_versions=_VERSIONS
        )

    async def NotifyRegistrationStatus(
        self, status: pluginregistration_pb2.RegistrationStatus
    ) -> pluginregistration_pb2.RegistrationStatusResponse:
        """Notes what kubelet made of the registration."""
        if status.plugin_registered:
            _LOGGER.info("registered with kubelet as %s", driver.NAME)
        else:
            _LOGGER.error("kubelet refused to register %s: %s", driver.NAME, status.error)
            if not self._refusal.done():
                self._refusal.set_result(status.error)
        return pluginregistration_pb2.RegistrationStatusResponse()

    async def until_refused(self) -> None:
        """Waits for kubelet to refuse the registration, and raises FAILED_PRECONDITION then; never returns."""
        reason = redact_text(await self._refusal) or "it gave no reason"
        raise DriverError(Code.FAILED_PRECONDITION, f"kubelet refused to register {driver.NAME}: {reason}")
