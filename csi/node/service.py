"""The CSI Node service: volumes as paths of this node.

Thin: it checks requests and translates; see :mod:`csi.node.publishing`.

No STAGE_UNSTAGE_VOLUME on purpose: the daemon's own mount already is what volumes of a node share, and kubelet would
serialise staging. No VOLUME_MOUNT_GROUP: two pods' fsGroups cannot share one daemon.
"""

from csi._proto import csi_pb2
from csi.base.errors import invalid
from csi.config import capabilities
from csi.config.volumes import NodeVolume, check_volume_id
from csi.node.datasets import Datasets
from csi.node.inline import AllowedSources
from csi.node.publishing import Publisher
from csi.node.targets import KubeletRoots
from csi.rpc.redaction import redact_text

_RPC = csi_pb2.NodeServiceCapability.RPC
CAPABILITIES = (_RPC.GET_VOLUME_STATS, _RPC.VOLUME_CONDITION, _RPC.SINGLE_NODE_MULTI_WRITER)


class NodeService:
    """The Node service of one node. Errors are DriverErrors; csi.rpc.server makes statuses of them."""

    def __init__(
        self,
        *,
        node_id: str,
        publisher: Publisher,
        kubelet_roots: KubeletRoots,
        allowed_sources: AllowedSources,
        datasets: Datasets,
    ) -> None:
        self._node_id = node_id
        self._publisher = publisher
        self._kubelet_roots = kubelet_roots
        self._allowed_sources = allowed_sources
        self._datasets = datasets

    async def NodePublishVolume(self, request: csi_pb2.NodePublishVolumeRequest) -> csi_pb2.NodePublishVolumeResponse:
        """Makes the volume visible at the target path (CSI specification, NodePublishVolume)."""
        check_volume_id(request.volume_id)
        if not request.target_path:
            raise invalid("the request has no target path")
        if not request.HasField("volume_capability"):
            raise invalid("the request has no volume capability")
        capability = request.volume_capability
        capabilities.check([capability])
        target = self._kubelet_roots.check_target(request.target_path)
        volume = NodeVolume.from_context(
            request.volume_id,
            request.volume_context,
            mount_flags=list(capability.mount.mount_flags),
            target=target,
        )
        if volume.inline_in is not None:
            volume = self._publisher.as_published(volume, target=target) or self._allowed_sources.admit(volume)
        mode = capability.access_mode.mode
        read_only = request.readonly or volume.options.read_only or mode in capabilities.READ_ONLY_MODES
        preparing = self._datasets.prepared(volume, request.secrets)
        await self._publisher.publish(preparing, target=target, read_only=read_only, access_mode=mode)
        return csi_pb2.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Removes the volume from the target path; a target that is not there is success (NodeUnpublishVolume)."""
        check_volume_id(request.volume_id)
        if not request.target_path:
            raise invalid("the request has no target path")
        target = self._kubelet_roots.check_target(request.target_path)
        await self._publisher.unpublish(request.volume_id, target=target)
        self._datasets.look(request.volume_id)
        return csi_pb2.NodeUnpublishVolumeResponse()

    async def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """Sizes and condition of a published volume; NOT_FOUND for any other path (NodeGetVolumeStats)."""
        check_volume_id(request.volume_id)
        if not request.volume_path:
            raise invalid("the request has no volume path")
        target = self._kubelet_roots.translated(request.volume_path)
        status = await self._publisher.status(request.volume_id, target=target)
        message = "; ".join(part for part in (status.abnormal or "the volume is served", status.note) if part)
        condition = csi_pb2.VolumeCondition(abnormal=bool(status.abnormal), message=redact_text(message))
        response = csi_pb2.NodeGetVolumeStatsResponse(volume_condition=condition)
        if (sizes := status.sizes) is not None:
            response.usage.add(
                unit=csi_pb2.VolumeUsage.BYTES,
                total=sizes.bytes_total,
                available=sizes.bytes_available,
                used=max(0, sizes.bytes_total - sizes.bytes_free),
            )
            response.usage.add(
                unit=csi_pb2.VolumeUsage.INODES,
                total=sizes.files_total,
                available=sizes.files_free,
                used=max(0, sizes.files_total - sizes.files_free),
            )
        return response

    async def NodeGetCapabilities(
        self, _request: csi_pb2.NodeGetCapabilitiesRequest
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """What this service offers (NodeGetCapabilities)."""
        return csi_pb2.NodeGetCapabilitiesResponse(
            capabilities=[csi_pb2.NodeServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES]
        )

    async def NodeGetInfo(self, _request: csi_pb2.NodeGetInfoRequest) -> csi_pb2.NodeGetInfoResponse:
        """The node's name; volumes are reachable from every node (NodeGetInfo)."""
        return csi_pb2.NodeGetInfoResponse(node_id=self._node_id)
