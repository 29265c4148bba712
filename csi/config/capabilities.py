"""The supported volume capabilities: any access mode, mounted, without a particular file system type."""

from collections.abc import Iterable

from csi._proto import csi_pb2
from csi.base.errors import invalid
from csi.config.mount_options import MountOptions, parse, parse_item

_Mode = csi_pb2.VolumeCapability.AccessMode
READ_ONLY_MODES = frozenset({_Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY})
_MODES = READ_ONLY_MODES | {
    _Mode.SINGLE_NODE_WRITER,
    _Mode.MULTI_NODE_SINGLE_WRITER,
    _Mode.MULTI_NODE_MULTI_WRITER,
    _Mode.SINGLE_NODE_SINGLE_WRITER,
    _Mode.SINGLE_NODE_MULTI_WRITER,
}
_FILE_SYSTEM_TYPES = ("", "efc", "nfs")


def refusal(capability: csi_pb2.VolumeCapability) -> str:
    """Why a capability is not supported, in one sentence, or "" if it is."""
    if capability.HasField("block"):
        return "block volumes are not supported: a volume is a directory (use volumeMode: Filesystem)"
    if not capability.HasField("mount"):
        return "the volume capability has no access type: expected a mount"
    if capability.access_mode.mode not in _MODES:
        return "the volume capability has no access mode that is known"
    mount = capability.mount
    if mount.fs_type not in _FILE_SYSTEM_TYPES:
        return f"file system type {mount.fs_type[:64]!r} is not supported: leave fsType empty"
    if mount.volume_mount_group:
        return "a volume mount group is not supported: set uid, gid and mode in the StorageClass"
    return ""


def check(capabilities: Iterable[csi_pb2.VolumeCapability]) -> None:
    """Raises INVALID_ARGUMENT if there is none, one is not supported, or a mount flag is not in the table."""
    count = 0
    for capability in capabilities:
        count += 1
        if reason := refusal(capability):
            raise invalid(reason)
        flags(capability)
    if count == 0:
        raise invalid("the request has no volume capability")


def flags(capability: csi_pb2.VolumeCapability) -> MountOptions:
    """The mount flags, checked. One flag is one option: a comma in it never makes two."""
    return parse([parse_item(flag) for flag in capability.mount.mount_flags], origin="the mount options")
