"""Size limits of the fields of a CSI request, checked before anything else reads them.

The CSI specification (section "Size Limits") allows a string 128 bytes and a map 4 KiB. The table below has the fields
that override this, and those in which Kubernetes is known to send more. Entries that Kubernetes adds to a map, and
secrets, of which this driver uses none, count only towards the size of the whole request.
"""

from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi._proto import csi_pb2
from csi.base.errors import invalid
from csi.config.several import SOURCES_BYTES_MAX
from csi.config.volumes import KUBERNETES_PREFIXES

#: Largest request in bytes, as gRPC receives it: room for tokens of service accounts beside all that is checked here.
REQUEST_BYTES_MAX = 256 * 1024
_STRING_BYTES_MAX = 128
_MAP_BYTES_MAX = 4096
_LIST_BYTES_MAX = 4096
#: Fields that may be longer: paths, as Linux takes them; ids in PVs of other drivers; a mount flag with its value.
_BYTES_MAX = {
    "target_path": 4096,
    "staging_target_path": 4096,
    "volume_path": 4096,
    "volume_id": 4096,
    "node_id": 256,
    "mount_flags": _LIST_BYTES_MAX,
}
#: Values of maps that may be longer than a whole map, and do not count for it.
_VALUE_BYTES_MAX = {"sources": SOURCES_BYTES_MAX}


def check(message: Message) -> None:
    """Raises INVALID_ARGUMENT that names the first field which is too long, and does not repeat it.

    Messages of other services than CSI's are let alone.
    """
    if message.DESCRIPTOR.file.package != csi_pb2.DESCRIPTOR.package:
        return
    for field, value in message.ListFields():
        _check_field(field, value)


def _check_field(field: FieldDescriptor, value: object) -> None:
    if field.GetOptions().Extensions[csi_pb2.csi_secret]:  # type: ignore[index]
        return
    if isinstance(value, Message):
        check(value)
    elif isinstance(value, Mapping):
        pairs = [(key, text) for key, text in value.items() if not str(key).startswith(KUBERNETES_PREFIXES)]
        for key, text in pairs:
            _require(field, _length([text]), _VALUE_BYTES_MAX.get(key, _MAP_BYTES_MAX))
        texts = (text for pair in pairs if pair[0] not in _VALUE_BYTES_MAX for text in pair)
        _require(field, _length(texts), _MAP_BYTES_MAX)
    elif isinstance(value, str):
        _require(field, _length([value]), _BYTES_MAX.get(field.name, _STRING_BYTES_MAX))
    elif isinstance(value, Sequence):
        for item in value:
            if isinstance(item, Message):
                check(item)
            elif isinstance(item, str):
                _require(field, _length([item]), _BYTES_MAX.get(field.name, _STRING_BYTES_MAX))
        _require(field, _length(value), _LIST_BYTES_MAX)


def _length(values: Iterable[object]) -> int:
    """The bytes of those ``values`` that are strings."""
    return sum(len(value.encode(errors="replace")) for value in values if isinstance(value, str))


def _require(field: FieldDescriptor, length: int, length_max: int) -> None:
    if length > length_max:
        raise invalid(f"field {field.name!r} has {length} bytes; allowed are {length_max}")
