"""What of a message may be logged.

Secrets are known by the specification's own mark (the field option ``csi_secret``), by the key under which kubelet puts
service account tokens into a volume context, and by their place in a URL (user and password). Everything that the
services log goes through here; a test plants secrets in every request type and greps.
"""

import re
from collections.abc import Mapping, Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi._proto import csi_pb2

STRIPPED = "***stripped***"
#: Keys of volume contexts whose values are credentials (Kubernetes: CSIDriver tokenRequests).
SECRET_KEYS = frozenset({"csi.storage.k8s.io/serviceAccount.tokens"})
_TEXT_LENGTH_MAX = 2000
_USER_INFORMATION = re.compile(r"(\w[\w+.-]*://)[^/\s?#]*@")


def redact(message: Message) -> str:
    """One line that shows ``message`` without its secrets: ``name="a" secrets=***stripped***``."""
    return _shortened(" ".join(_fields(message)))


def redact_text(text: str) -> str:
    """``text`` on one line and without user names and passwords of URLs."""
    return _shortened(_USER_INFORMATION.sub(rf"\1{STRIPPED}@", text).replace("\r", "\\r").replace("\n", "\\n"))


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT_LENGTH_MAX else f"{text[:_TEXT_LENGTH_MAX]}... ({len(text)} characters)"


def _fields(message: Message) -> list[str]:
    return [f"{field.name}={_value(field, value)}" for field, value in message.ListFields()]


def _value(field: FieldDescriptor, value: object) -> str:
    if field.GetOptions().Extensions[csi_pb2.csi_secret]:  # type: ignore[index]
        return STRIPPED
    if isinstance(value, Mapping) and field.message_type is not None:
        shown = field.message_type.fields_by_name["value"]
        pairs = [
            f"{_text(key)}: {STRIPPED if key in SECRET_KEYS else _one(shown, item)}"
            for key, item in sorted(value.items())
        ]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, Sequence) and field.is_repeated:
        return "[" + ", ".join(_one(field, item) for item in value) + "]"
    return _one(field, value)


def _one(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, Message):
        return "{" + " ".join(_fields(value)) + "}"
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value) if isinstance(value, int) else None
        return known.name if known else str(value)
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    return '"' + redact_text(value).replace('"', "'") + '"'
