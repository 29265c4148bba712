"""Names of daemons on a node: one key for each dataset and way to serve it.

A key is a hash of the source and of the options that were *given*, so that a release with one more option, or with
another default, finds the daemons that run. In place of what was not given stand the defaults of the first release,
which hashed all of its options: its keys are these keys, upwards and downwards.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi._proto import efc_pb2
from csi.config.mount_options import MountOptions
from csi.config.several import Sources
from csi.config.sources import Source

#: Release 0.1.0's options with their defaults, whatever they are today. Never changed.
_FIRST_DEFAULTS: dict[str, bool | int | str] = {
    "connections": 4,
    "soft": False,
    "timeout_ms": 30_000,
    "attr_ttl_ms": 1000,
    "entry_ttl_ms": 1000,
    "read_ahead_kib": 8192,
    "uncommitted_mib": 64,
    "threads": 2,
    "hang_limit_ms": 10_000,
    "unprivileged_port": False,
    "idmap": False,
    "log_level": "info",
    "network": "host",
    "fuse_features": "running",
}
#: Fields of DaemonConfig that release 0.1.0 had.
_FIRST_FIELDS = frozenset({
    "source", "connections", "soft", "timeout_ms", "attr_ttl_ms", "entry_ttl_ms", "read_ahead_kib", "uncommitted_mib",
    "threads", "unprivileged_port", "log_level", "idmap", "network", "hang_limit_ms", "fuse_features",
})  # fmt: skip
#: Options that are no part of what a daemon is: `read_only` is each bind mount's own, and ports are the source's.
_ELSEWHERE = ("read_only", "port", "mount_port")


def daemon_key(source: Source | Sources, options: MountOptions) -> str:
    """The key, 16 hexadecimal digits: equal exactly if source and all given options that change a daemon are equal."""
    given = {name: value for name, value in options.given().items() if name not in _ELSEWHERE}
    known = {name: given.get(name, default) for name, default in _FIRST_DEFAULTS.items()}
    config = replace(options, **known).daemon_config(source)  # type: ignore[arg-type]  # names of its fields
    lines = [f"{field.full_name}={value!r}" for field, value in _leaves(config)]
    if isinstance(source, Sources):
        lines.append(f"sources={source.identity or source.canonical()!r}")
    # Options that the first release did not know, or that were given with its default.
    lines += [f"{name}={value!r}" for name, value in sorted(given.items()) if _FIRST_DEFAULTS.get(name, value) == value]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def session_config(source: Source | Sources, options: MountOptions) -> efc_pb2.DaemonConfig:
    """How a session is mounted that volumes share.

    Each bind mount is read-only or not by itself, so that both kinds share one daemon; `small-files` is for one kind.
    """
    config = options.daemon_config(source)
    config.read_only = bool(options.small_files)
    return config


def _leaves(config: efc_pb2.DaemonConfig) -> Iterator[tuple[FieldDescriptor, object]]:
    for field, value in sorted(config.ListFields(), key=lambda pair: pair[0].number):
        if field.name not in _FIRST_FIELDS:
            continue
        if isinstance(value, Message):
            yield from sorted(value.ListFields(), key=lambda pair: pair[0].number)
        else:
            yield field, value
