"""Which options of a mounted dataset can be adjusted while it is mounted, and which cannot."""

from collections.abc import Iterator
from typing import cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi._proto import efc_pb2
from csi.config.options import OPTIONS, Change, change_of

#: What the session has, and not by a wish: where the data is, and read-only is each bind mount's own.
_OTHERS = ("source", "sources", "read_only", "network")


def adjusted(current: efc_pb2.DaemonConfig, wanted: efc_pb2.DaemonConfig) -> tuple[efc_pb2.DaemonConfig, list[str]]:
    """``current`` with all of ``wanted`` that can change while it is mounted, and names of options that cannot."""
    result = efc_pb2.DaemonConfig()
    result.CopyFrom(current)
    fixed = list(_adjust(result, wanted))
    return result, fixed


def _adjust(result: Message, wanted: Message) -> Iterator[str]:
    for field in cast("list[FieldDescriptor]", wanted.DESCRIPTOR.fields):
        if field.name in _OTHERS:
            continue
        if field.message_type is not None:
            if wanted.HasField(field.name) or result.HasField(field.name):
                yield from _adjust(getattr(result, field.name), getattr(wanted, field.name))
            continue
        value = getattr(wanted, field.name)
        if getattr(result, field.name) == value:
            continue
        if change_of(field.name) is Change.NEW_MOUNT:
            yield next((option.name for option in OPTIONS.values() if option.field == field.name), field.name)
        else:
            setattr(result, field.name, value)
