"""Redacts messages for the log.

Secrets are recognised by the specification's own mark (the field option ``csi_secret``), by the key under which kubelet
puts service account tokens into a volume context, and by their place in a URL (user and password). Everything that the
services log goes through here; a test plants secrets in every request type and greps. A line of the log stays one line
of printable characters, whatever a NAS or a pod has put into a name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi._proto import csi_pb2
from csi.base.text import printable

STRIPPED = "***stripped***"
#: Keys of volume contexts whose values are credentials (Kubernetes: CSIDriver tokenRequests).
SECRET_KEYS = frozenset({"csi.storage.k8s.io/serviceAccount.tokens"})
#: Longest text in characters; nothing behind it is looked at.
_TEXT_LENGTH_MAX = 2000
#: What stands between "://" and an "@" of a path: a host, at most with an empty port, and directories. With a number
#: for a port it might as well be a user and the beginning of a password.
_HOST_AND_PATH = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:/@\[\]]*):?/[^:]*")


def redact(message: Message) -> str:
    """One line that shows ``message`` without its secrets: ``name="a" secrets=***stripped***``."""
    return _shortened(" ".join(_fields(message)))


def redact_text(text: str) -> str:
    """``text``, shortened, as one printable line without user names and passwords of URLs.

    Takes a time that grows with the limit, never with the text.
    """
    shown = text[:_TEXT_LENGTH_MAX]
    if len(text) > _TEXT_LENGTH_MAX:
        # The "@" that would tell a password may be in what is cut off.
        *words, last = shown.split(" ")
        head, mark, _ = last.partition("://")
        shown = " ".join([*words, f"{head}{mark}{STRIPPED}" if mark else last])
    words = [_without_user(word) for word in printable(shown).split(" ")]
    return _shortened(" ".join(words), length=len(text))


def _without_user(word: str) -> str:
    head, mark, rest = word.partition("://")
    user, at, host = rest.rpartition("@")
    if not mark or not at or _HOST_AND_PATH.fullmatch(user):
        return word
    return f"{head}://{STRIPPED}@{host}"


def _shortened(text: str, *, length: int = 0) -> str:
    length = max(length, len(text))
    return text if length <= _TEXT_LENGTH_MAX else f"{text[:_TEXT_LENGTH_MAX]}... ({length} characters)"


def _fields(message: Message) -> list[str]:
    return [f"{field.name}={_value(field, value)}" for field, value in message.ListFields()]


def _value(field: FieldDescriptor, value: object) -> str:
    if field.GetOptions().Extensions[csi_pb2.csi_secret]:  # type: ignore[index]
        return STRIPPED
    if isinstance(value, Mapping) and field.message_type is not None:
        shown = field.message_type.fields_by_name["value"]
        pairs = (
            f"{_text(key)}: {STRIPPED if key in SECRET_KEYS else _one(shown, item)}"
            for key, item in sorted(value.items())
        )
        return "{" + ", ".join(_enough(pairs)) + "}"
    if isinstance(value, Sequence) and field.is_repeated:
        return "[" + ", ".join(_enough(_one(field, item) for item in value)) + "]"
    return _one(field, value)


def _enough(texts: Iterable[str]) -> Iterator[str]:
    """As many of ``texts`` as are shown at all."""
    length = 0
    for text in texts:
        yield text
        length += len(text)
        if length > _TEXT_LENGTH_MAX:
            return


def _one(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, Message):
        return "{" + " ".join(_fields(value)) + "}"
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value) if isinstance(value, int) else None
        return known.name if known else str(value)
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    return '"' + redact_text(value).replace('"', "'") + '"'
