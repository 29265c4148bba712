"""The CSI Controller service: volumes as directories of a NAS.

Thin: it checks requests and translates; see :mod:`csi.controller.provisioning`.
"""

from csi._proto import csi_pb2
from csi.base.errors import Code, DriverError, invalid
from csi.config import capabilities
from csi.config.parameters import VolumeParameters
from csi.config.volumes import VolumeRecord, check_volume_id, is_own_id, volume_id_of
from csi.controller.provisioning import Provisioner
from csi.rpc.redaction import redact_text

_RPC = csi_pb2.ControllerServiceCapability.RPC
CAPABILITIES = (
    _RPC.CREATE_DELETE_VOLUME,
    _RPC.GET_CAPACITY,
    _RPC.LIST_VOLUMES,
    _RPC.GET_VOLUME,
    _RPC.VOLUME_CONDITION,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)
#: 2**63 - 1, and no NAS has that.
CAPACITY_BYTES_MAX = 1 << 60


class ControllerService:
    """The Controller service. Errors are DriverErrors; csi.rpc.server makes statuses of them."""

    def __init__(self, provisioner: Provisioner) -> None:
        self._provisioner = provisioner

    async def CreateVolume(self, request: csi_pb2.CreateVolumeRequest) -> csi_pb2.CreateVolumeResponse:
        """A directory for a new volume, idempotent by name (CSI specification, CreateVolume)."""
        volume_id_of(request.name)
        capabilities.check(request.volume_capabilities)
        required_bytes, limit_bytes = _capacity(request.capacity_range)
        if request.HasField("volume_content_source"):
            raise invalid("a volume cannot be filled from a snapshot or another volume: leave dataSource empty")
        if request.mutable_parameters:
            raise invalid("a VolumeAttributesClass is not supported: put its parameters into the StorageClass")
        record = await self._provisioner.create(
            request.name,
            parameters=VolumeParameters.parse(request.parameters),
            required_bytes=required_bytes,
            limit_bytes=limit_bytes,
        )
        return csi_pb2.CreateVolumeResponse(volume=_volume(record))

    async def DeleteVolume(self, request: csi_pb2.DeleteVolumeRequest) -> csi_pb2.DeleteVolumeResponse:
        """What the volume's onDelete says; an unknown volume is success (DeleteVolume)."""
        await self._provisioner.delete(check_volume_id(request.volume_id))
        return csi_pb2.DeleteVolumeResponse()

    async def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        """Confirms capabilities, or says which is not supported (ValidateVolumeCapabilities)."""
        check_volume_id(request.volume_id)
        if not request.volume_capabilities:
            raise invalid("the request has no volume capability")
        record, _ = await self._provisioner.get(request.volume_id)
        for capability in request.volume_capabilities:
            if reason := _mismatch(capability):
                return csi_pb2.ValidateVolumeCapabilitiesResponse(message=reason)
        if request.volume_context and dict(request.volume_context) != record.context():
            return csi_pb2.ValidateVolumeCapabilitiesResponse(message="the volume context is not this volume's")
        confirmed = csi_pb2.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
        )
        return csi_pb2.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    async def ListVolumes(self, request: csi_pb2.ListVolumesRequest) -> csi_pb2.ListVolumesResponse:
        """Volumes in the order of their ids, with their conditions (ListVolumes)."""
        if request.max_entries < 0:
            raise invalid(f"max_entries is {request.max_entries}; allowed is 0 (all) or more")
        token = request.starting_token
        # A token is the id of the last volume of the page before, which may be deleted by now: ids keep their order.
        if token and not is_own_id(token):
            raise DriverError(
                Code.ABORTED, f"{token[:64]!r} is not a token of an earlier page: start again without one"
            )
        page, next_token = await self._provisioner.list(after=token, count_max=request.max_entries)
        response = csi_pb2.ListVolumesResponse(next_token=next_token)
        for record, abnormal in page:
            status = csi_pb2.ListVolumesResponse.VolumeStatus(volume_condition=_condition(abnormal))
            response.entries.add(volume=_volume(record), status=status)
        return response

    async def ControllerGetVolume(
        self, request: csi_pb2.ControllerGetVolumeRequest
    ) -> csi_pb2.ControllerGetVolumeResponse:
        """One volume and its condition (ControllerGetVolume)."""
        record, abnormal = await self._provisioner.get(check_volume_id(request.volume_id))
        status = csi_pb2.ControllerGetVolumeResponse.VolumeStatus(volume_condition=_condition(abnormal))
        return csi_pb2.ControllerGetVolumeResponse(volume=_volume(record), status=status)

    async def GetCapacity(self, request: csi_pb2.GetCapacityRequest) -> csi_pb2.GetCapacityResponse:
        """What is free on the NAS (GetCapacity)."""
        if any(capabilities.refusal(capability) for capability in request.volume_capabilities):
            return csi_pb2.GetCapacityResponse(available_capacity=0)
        source = VolumeParameters.parse(_without_metadata(dict(request.parameters))).source
        return csi_pb2.GetCapacityResponse(available_capacity=await self._provisioner.capacity(source))

    async def ControllerGetCapabilities(
        self, _request: csi_pb2.ControllerGetCapabilitiesRequest
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        """What this service offers (ControllerGetCapabilities)."""
        return csi_pb2.ControllerGetCapabilitiesResponse(
            capabilities=[csi_pb2.ControllerServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES]
        )


def _capacity(capacity_range: csi_pb2.CapacityRange) -> tuple[int, int]:
    required, limit = capacity_range.required_bytes, capacity_range.limit_bytes
    if required < 0 or limit < 0:
        raise invalid("a capacity is negative")
    if limit and limit < required:
        raise invalid(f"the capacity's limit of {limit} bytes is below the required {required}")
    if required > CAPACITY_BYTES_MAX:
        raise DriverError(Code.OUT_OF_RANGE, f"{required} bytes are more than a volume can have ({CAPACITY_BYTES_MAX})")
    return required, limit


def _volume(record: VolumeRecord) -> csi_pb2.Volume:
    return csi_pb2.Volume(volume_id=record.id, capacity_bytes=record.capacity_bytes, volume_context=record.context())


def _condition(abnormal: str) -> csi_pb2.VolumeCondition:
    message = redact_text(abnormal) or "the volume's directory is there"
    return csi_pb2.VolumeCondition(abnormal=bool(abnormal), message=message)


def _mismatch(capability: csi_pb2.VolumeCapability) -> str:
    try:
        capabilities.check([capability])
    except DriverError as error:
        return error.message
    return ""


def _without_metadata(parameters: dict[str, str]) -> dict[str, str]:
    """There is no claim yet when a capacity is asked for, so a pathPattern could not be filled in."""
    return {name: value for name, value in parameters.items() if name != "pathPattern" and name.lower() != "subdir"}
