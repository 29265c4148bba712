"""No secret reaches the log: planted in every request type that CSI has, by walking the descriptors."""

import logging
import resource
import subprocess
import sys
import unicodedata

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from csi._proto import csi_pb2
from csi.rpc.redaction import SECRET_KEYS, redact, redact_text
from csi.rpc.server import PrintableFormatter, RequestIdFilter

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
            is_secret: bool = field.GetOptions().Extensions[csi_pb2.csi_secret]  # type: ignore[index]
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nfs://u:pa/ss@host/x", "nfs://***stripped***@host/x"),
        ("nfs://u:p/a/ss@ho@st/x", "nfs://***stripped***@st/x"),
        ("nfs://u:p?a#s s", "nfs://u:p?a#s s"),
        ("'nfs://u:p?a#s@host/x' failed", "'nfs://***stripped***@host/x' failed"),
        ("nfs://u:p\n\u2028q@host/x", "nfs://***stripped***@host/x"),
        ("nfs://a/x,nfs://u:p@host", "nfs://***stripped***@host"),
        ("nfs://u:12/34@host/x", "nfs://***stripped***@host/x"),
        ("nfs://nas/volume/@home", "nfs://nas/volume/@home"),
        ("nfs://nas:/volume/@home", "nfs://nas:/volume/@home"),
        ("nfs://[fd00::1]:/volume@home", "nfs://[fd00::1]:/volume@home"),
        ("nfs://nas/x mail@host", "nfs://nas/x mail@host"),
    ],
)
def test_passwords_in_urls(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize("padding", range(1960, 2010, 3))
def test_a_password_at_the_limit(padding: int) -> None:
    assert "hunt" not in redact_text("x" * padding + " nfs://user:hunter2-and-more@nas/export and so on")


def test_one_printable_line() -> None:
    hostile = "".join(map(chr, [*range(32), 0x7F, 0x85, 0x9B, 0x200E, 0x2028, 0x2029, 0x202E, 0x2066, 0xFEFF, 0xDC80]))
    shown = redact_text(f"a{hostile}b\xe9\u4e2d c")
    assert shown.isprintable()
    assert shown.startswith("a\\x00")
    assert shown.endswith("b\xe9\u4e2d c")
    assert not [character for character in shown if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs")]


def test_a_stack_trace_has_printable_lines() -> None:
    try:
        raise ValueError("nfs://u:hunter2@h \x1b[2J\u2028x")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "p", 1, "failed\x1b", (), sys.exc_info())
    RequestIdFilter().filter(record)
    shown = PrintableFormatter("%(message)s").format(record)
    assert "hunter2" not in shown
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "\\x1b[2J" in shown


def _limit_cpu() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))


def test_no_text_keeps_it_busy() -> None:
    """A guard against loops within loops: what takes milliseconds has 30 s of CPU, and took minutes and more."""
    program = (
        "from csi.rpc.redaction import redact_text, printable, _without_user\n"
        "for unit in ('a', '@', '://', 'a://', '\\x1b', ' ', ':', '[', 'a@', '://@ '):\n"
        "    text = unit * 100_000\n"
        "    assert len(redact_text(text)) < 30_000\n"
        "    for word in (printable(text), 'nfs://' + text + '@', 'nfs://[' + text + '@'):\n"
        "        _without_user(word)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, preexec_fn=_limit_cpu, timeout=120)
