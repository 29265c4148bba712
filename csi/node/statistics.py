"""Statistics that daemons report, by subsystem, from the messages of any release (DaemonStats of proto/efc.proto).

Release 0.1.0 has one flat message. Its names stay keys of ``efc status --json``, beside an object for each subsystem.
"""

from collections.abc import Iterable, Mapping
from typing import cast

from google.protobuf.message import Message

from csi._proto import efc_pb2
from csi.config.several import Sources, origin_of_wire

#: Field of the flat form -> subsystem, and field there. Nothing is ever added: what is new has no flat form.
FLAT: Mapping[str, tuple[str, str]] = {
    "fuse_requests": ("fuse", "requests"),
    "nfs_calls": ("nfs", "calls"),
    "nfs_retransmits": ("nfs", "retransmits"),
    "nfs_reconnects": ("nfs", "reconnects"),
    "bytes_read": ("nfs", "bytes_read"),
    "bytes_written": ("nfs", "bytes_written"),
    "nodes": ("state", "nodes"),
    "open_files": ("state", "open_files"),
    "uncommitted_bytes": ("state", "uncommitted_bytes"),
    "nas_responding": ("nfs", "responding"),
    "oldest_call_ms": ("nfs", "oldest_call_ms"),
    "bytes_spliced": ("nfs", "bytes_spliced"),
    "pipe_misfits": ("nfs", "pipe_misfits"),
    "nodes_max": ("state", "nodes_max"),
}
#: Where blocks come from, nearest first -> field of CacheStats that counts their bytes. A level that is added is shown
#: by metrics (a label), `efc top` and `efc warmup`.
CACHE_LEVELS: Mapping[str, str] = {
    "memory": "memory_bytes",
    "store": "store_bytes",
    "workers": "workers_bytes",
    "nas": "nas_bytes",
}
#: Names of the subsystems.
SUBSYSTEMS = tuple(
    field.name
    for field in efc_pb2.DaemonStats.DESCRIPTOR.fields
    if field.message_type is not None and not field.is_repeated
)


def sort_by_subsystem(stats: efc_pb2.DaemonStats) -> None:
    """Makes a report that has only the flat form, as keepers of 0.1.0 send it, one by subsystem."""
    if not any(stats.HasField(name) for name in SUBSYSTEMS):
        for flat, (subsystem, name) in FLAT.items():
            setattr(getattr(stats, subsystem), name, getattr(stats, flat))


def described(stats: efc_pb2.DaemonStats) -> dict[str, object]:
    """All of a report by subsystem, zeros too, as JSON. Keys are only ever added."""
    subsystems = {name: _fields(getattr(stats, name)) for name in SUBSYSTEMS}
    flat = {flat: subsystems[subsystem][name] for flat, (subsystem, name) in FLAT.items()}
    return {"uptime_ms": stats.uptime_ms, "resumed": stats.resumed, **flat, **subsystems}


def sources_of(mount: efc_pb2.MountStatus) -> list[dict[str, object]] | None:
    """Each of several sources and how it does, as JSON; None where there is one at the root."""
    origin = origin_of_wire(mount.options if mount.HasField("options") else mount.config)
    if not isinstance(origin, Sources):
        return None
    reported = {stats.path: stats for stats in mount.stats.sources}
    described: list[dict[str, object]] = []
    for one in origin.mounted:
        stats = reported.get(one.path, efc_pb2.SourceStats())
        described.append(
            {
                "path": one.path,
                "source": one.source.canonical(),
                "read_only": one.read_only,
                "attached": stats.attached,
                "responding": stats.responding,
                "reason": stats.reason or None,
            }
        )
    return described


def cache_of(stats: efc_pb2.DaemonStats) -> dict[str, object] | None:
    """What the caches of blocks have given; None where there are none."""
    return _fields(stats.cache) if stats.HasField("cache") else None


def store_of(stats: efc_pb2.DaemonStats) -> dict[str, object] | None:
    """What the local store does; None where there is none."""
    if not stats.HasField("store"):
        return None
    return {**_fields(stats.store), "state": efc_pb2.StoreStats.State.Name(stats.store.state).lower()}


def bytes_by_level(stats: efc_pb2.DaemonStats) -> dict[str, int]:
    """Bytes that were read, by where they came from; the NAS's include what was read past the caches."""
    levels = {level: int(getattr(stats.cache, field)) for level, field in CACHE_LEVELS.items()}
    return levels | {"nas": stats.nfs.bytes_read}


def times_by_level(stats: efc_pb2.DaemonStats) -> dict[str, tuple[int, int]]:
    """How long reads took that each level answered, in microseconds together, and how many there were."""
    return {one.of: (one.sum_us, sum(one.buckets)) for one in stats.latency.reads}


def _fields(message: Message) -> dict[str, object]:
    return {field.name: _as_json(getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _as_json(value: object) -> object:
    if isinstance(value, Message):
        return _fields(value)
    # What is repeated is a sequence of the protocol's own.
    return (
        value
        if isinstance(value, str | bytes | int | float)
        else [_as_json(one) for one in cast("Iterable[object]", value)]
    )
