"""No secret reaches the log: planted in every request type that CSI has, by walking the descriptors."""

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from csi._proto import csi_pb2
from csi.redaction import SECRET_KEYS, redact, redact_text

SECRET = "hunter2-planted"
VISIBLE = "visible-value"
REQUESTS = sorted(
    (method.input_type for service in csi_pb2.DESCRIPTOR.services_by_name.values() for method in service.methods),
    key=lambda descriptor: descriptor.name,
)


def planted(descriptor: Descriptor, depth: int = 0) -> Message:
    """A message with every field set: secrets where secrets belong, VISIBLE elsewhere."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            is_secret = field.GetOptions().Extensions[csi_pb2.csi_secret]
            getattr(message, field.name)["key"] = SECRET if is_secret else VISIBLE
            for key in SECRET_KEYS:
                getattr(message, field.name)[key] = SECRET
            if not is_secret:
                getattr(message, field.name)["url"] = f"nfs://user:{SECRET}@nas/x"
        elif field.message_type is not None and depth < 4:
            value = planted(field.message_type, depth + 1)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                getattr(message, field.name).CopyFrom(value)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name).append(VISIBLE)
            else:
                setattr(message, field.name, f"{VISIBLE} nfs://{SECRET}@nas/x")
    return message


@pytest.mark.parametrize("descriptor", REQUESTS, ids=lambda descriptor: descriptor.name)
def test_planted_secrets_never_show(descriptor: Descriptor) -> None:
    message = planted(descriptor)
    text = redact(message)
    assert SECRET not in text
    assert "\n" not in text
    if SECRET in str(message):
        assert "***stripped***" in text


def test_there_are_secrets_to_hide() -> None:
    """Guards the test above against a specification whose marks it cannot see."""
    assert sum(SECRET in str(planted(descriptor)) for descriptor in REQUESTS) > 20


def test_other_values_do_show() -> None:
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="v", readonly=True, volume_context={"source": "nfs://nas/x"}, secrets={"token": SECRET}
    )
    request.volume_capability.access_mode.mode = csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY
    assert redact(request) == (
        'volume_id="v" volume_capability={access_mode={mode=MULTI_NODE_READER_ONLY}} readonly=True '
        'secrets=***stripped*** volume_context={"source": "nfs://nas/x"}'
    )


def test_text() -> None:
    assert redact_text("a nfs://u:p@h/x b\nc") == "a nfs://***stripped***@h/x b\\nc"
    assert len(redact_text("x" * 10_000)) < 2100
