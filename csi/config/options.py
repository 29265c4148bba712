"""The mount options: one table, from which parsing, error messages and the documentation are made.

The same words work everywhere: ``efc mount -o``, a PV's or StorageClass's ``mountOptions``, StorageClass parameters
and volume attributes. It is an allow-list: what is not in the table is an error that says what is. An option is one
name and one value; nothing inside a value is ever taken for another option (a comma, an equals sign or a newline in a
value is an error), which is how other drivers were made to mount with options of an attacker's choice. Words of nfs(5)
are taken beside them, and become options of the table (:mod:`csi.config.nfs_words`).

``python -m csi.config.options`` prints both tables for docs/CONFIGURATION.md.
"""

import difflib
import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi._proto import efc_pb2
from csi.base.errors import DriverError, invalid
from csi.config import nfs_words
from csi.config.several import Sources, source_to_wire
from csi.config.sources import Source

Item = nfs_words.Item
#: Longest word and value of an option that are looked at at all.
WORD_LENGTH_MAX = 256
VALUE_LENGTH_MAX = 4096
_SHOWN_LENGTH_MAX = 64
#: `network` unless it is given.
_KEEPERS_NETWORK = "host"
#: `consistency` unless it is given.
_CLOSE_TO_OPEN = "cto"
#: `fuse-features` unless it is given.
_RUNNING_KERNELS = "running"
_PASSTHROUGH = "auto"
_PREFETCH = "auto"


class Kind(enum.Enum):
    """How an option's value is written."""

    FLAG = "flag"
    INTEGER = "integer"
    DURATION = "duration"
    SIZE = "size"
    CHOICE = "choice"
    ENDPOINTS = "endpoints"
    PATH = "path"
    IDS = "ids"


class Change(enum.Enum):
    """What another value takes to be in force while the dataset is mounted (``efc upgrade -o``), as documented."""

    LIVE = "yes"
    NEW_DAEMON = "new daemon"
    NEW_MOUNT = "no"


def _changes(fields: Iterable[FieldDescriptor]) -> dict[str, Change]:
    """What the option `change` says of each field, those of messages within included."""
    changes: dict[str, Change] = {}
    for field in fields:
        if field.message_type is not None and not field.is_repeated:
            changes.update(_changes(cast("Iterable[FieldDescriptor]", field.message_type.fields)))
        else:
            change: efc_pb2.Change = field.GetOptions().Extensions[efc_pb2.change]  # type: ignore[index]
            changes[field.name] = Change[efc_pb2.Change.Name(change)]
    return changes


_CHANGES: Mapping[str, Change] = _changes(cast("Iterable[FieldDescriptor]", efc_pb2.DaemonConfig.DESCRIPTOR.fields))


def change_of(field: str) -> Change:
    """What it takes to change a field of DaemonConfig, as proto/efc.proto says; others belong to the mount."""
    return _CHANGES.get(field, Change.NEW_MOUNT)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One row of the table; ``minimum``, ``maximum`` and values count in ``unit`` (ms, KiB or MiB)."""

    name: str
    kind: Kind
    field: str
    default: str
    help: str
    minimum: int = 0
    maximum: int = 0
    unit: str = ""
    choices: tuple[str, ...] = ()
    #: Other words for choices.
    synonyms: tuple[tuple[str, str], ...] = ()
    #: For flags: what naming the option without a value sets `field` to (``rw`` sets ``read_only`` to False).
    sets: bool = True

    @property
    def change(self) -> Change:
        """What it takes to change it."""
        return change_of(self.field)

    def allowed(self) -> str:
        """What may be given, for people."""
        if self.kind is Kind.FLAG:
            return "no value, true or false"
        if self.kind is Kind.CHOICE:
            return " or ".join([*self.choices, *(word for word, _ in self.synonyms)])
        if self.kind is Kind.ENDPOINTS:
            return "HOST:PORT or HOST:PORT*WEIGHT, several with '+' between them, or an absolute path"
        if self.kind is Kind.PATH:
            return "an absolute path"
        if self.kind is Kind.IDS:
            return "UID:GID, two whole numbers"
        low, high = self._written(self.minimum), self._written(self.maximum)
        form = {
            Kind.INTEGER: "a whole number",
            Kind.DURATION: "a whole number with unit ms, s or m",
            Kind.SIZE: "a whole number with unit KiB, MiB, GiB or TiB",
        }[self.kind]
        return f"{form}, {low} to {high}"

    def _written(self, value: int) -> str:
        if self.kind is Kind.DURATION:
            return f"{value // 1000}s" if value % 1000 == 0 else f"{value}ms"
        if self.kind is Kind.SIZE:
            units = ["KiB", "MiB", "GiB", "TiB"]
            index = units.index(self.unit)
            while value and value % 1024 == 0 and index + 1 < len(units):
                value, index = value // 1024, index + 1
            return f"{value}{units[index]}"
        return str(value)


_TABLE = (
    Option(
        name="ro",
        kind=Kind.FLAG,
        field="read_only",
        default="off",
        help="Nothing can be written through this mount.",
    ),
    Option(
        name="rw",
        kind=Kind.FLAG,
        field="read_only",
        default="on",
        sets=False,
        help="The opposite of `ro`.",
    ),
    Option(
        name="port",
        kind=Kind.INTEGER,
        field="port",
        default="asked of rpcbind, else 2049",
        minimum=1,
        maximum=65535,
        help="TCP port of NFS on the NAS; also as `nfs://host:PORT/path`.",
    ),
    Option(
        name="mountport",
        kind=Kind.INTEGER,
        field="mount_port",
        default="asked of rpcbind, else the NFS port",
        minimum=1,
        maximum=65535,
        help="TCP port of the MOUNT protocol on the NAS; also as `nfs://host/path?mountport=PORT`.",
    ),
    Option(
        name="connections",
        kind=Kind.INTEGER,
        field="connections",
        default="4",
        minimum=1,
        maximum=16,
        help="TCP connections to the NAS; more carry more on fast networks.",
    ),
    Option(
        name="soft",
        kind=Kind.FLAG,
        field="soft",
        default="off",
        help="Operations fail with EIO when the NAS is silent for `timeout`, instead of waiting until it is back. "
        "Written data may be lost.",
    ),
    Option(name="hard", kind=Kind.FLAG, field="soft", default="on", sets=False, help="The opposite of `soft`."),
    Option(
        name="timeout",
        kind=Kind.DURATION,
        field="timeout_ms",
        default="30s",
        minimum=1000,
        maximum=3_600_000,
        unit="ms",
        help="How long an operation waits for the NAS; only with `soft`.",
    ),
    Option(
        name="consistency",
        kind=Kind.CHOICE,
        field="consistency",
        default=_CLOSE_TO_OPEN,
        choices=(_CLOSE_TO_OPEN, "bounded", "sealed"),
        synonyms=(("close-to-open", _CLOSE_TO_OPEN),),
        help="What one node sees of another's changes. `cto` (close-to-open): who opens a file sees all that was "
        "written before its last close; each open asks the NAS. `bounded`: what the NAS said within `attr-ttl` is "
        "given without asking, opens included; permissions that are taken away at the NAS (also by its exports and "
        "groups) are seen after that time, too. `sealed`: for data that nobody changes; nothing is asked twice until "
        "the daemon is replaced.",
    ),
    Option(
        name="attr-ttl",
        kind=Kind.DURATION,
        field="attr_ttl_ms",
        default="3s",
        maximum=3_600_000,
        unit="ms",
        help="How long size, times and permissions are trusted without asking the NAS: with `cto` at least, 0s for "
        "never; with `bounded` at most.",
    ),
    Option(
        name="attr-ttl-max",
        kind=Kind.DURATION,
        field="attr_ttl_max_ms",
        default="60s",
        maximum=3_600_000,
        unit="ms",
        help="With `cto`, how long size, times and permissions of a file are trusted at most: as long as they are "
        "known not to have changed, within `attr-ttl` and this. With `sealed`, after which time the kernel asks the "
        "daemon again. Less than `attr-ttl` is as much.",
    ),
    Option(
        name="entry-ttl",
        kind=Kind.DURATION,
        field="entry_ttl_ms",
        default="1s",
        maximum=3_600_000,
        unit="ms",
        help="With `cto`, how long the kernel trusts a name to be there, and how long the NAS's word on who may search "
        "a directory holds. `bounded` and `sealed` have the times of attributes for that.",
    ),
    Option(
        name="small-files",
        kind=Kind.IDS,
        field="small_files",
        default="none",
        help="For many small files that are read again and again: the kernel opens files without asking, and reads "
        "what it has in memory at the speed of a local file system. All of the mount is read from the NAS in the name "
        "of this user and group, whoever asks; what the kernel has in memory nobody's rights are checked for but by "
        "the mode bits. Needs `ro`, and `consistency=bounded` or `sealed`. There is no passthrough beside it.",
    ),
    Option(
        name="read-ahead",
        kind=Kind.SIZE,
        field="read_ahead_kib",
        default="8MiB",
        minimum=128,
        maximum=262_144,
        unit="KiB",
        help="How far ahead of a sequential reader one open file is read.",
    ),
    Option(
        name="uncommitted",
        kind=Kind.SIZE,
        field="uncommitted_mib",
        default="64MiB",
        minimum=4,
        maximum=16_384,
        unit="MiB",
        help="Memory for written data that the NAS has not put on stable storage yet: if NAS and daemon crash, so much "
        "is sent again. A write takes a power of two, 4 KiB at least. It counts to the daemon's memory.",
    ),
    Option(
        name="metadata-memory",
        kind=Kind.SIZE,
        field="metadata_mib",
        default="128MiB",
        minimum=4,
        maximum=65_536,
        unit="MiB",
        help="Memory for what the daemon knows of inodes, names and directories; what was not used for longest makes "
        "room. The list of inodes that the kernel knows is not part of it.",
    ),
    Option(
        name="memory-max",
        kind=Kind.SIZE,
        field="memory_max_mib",
        default="none",
        minimum=64,
        maximum=1_048_576,
        unit="MiB",
        help="Most memory of the daemon; inodes, `uncommitted`, `metadata-memory`, read-ahead and data on its "
        "way adapt to it. It does not raise `--daemon-memory-max` of the keeper. Needs `--daemon-cgroup` there, and a "
        "keeper as new as the option: an older one sets no limit. While it is mounted, less than what open and cached "
        "files need is refused.",
    ),
    Option(
        name="write-behind",
        kind=Kind.DURATION,
        field="write_behind_ms",
        default="1s",
        maximum=60_000,
        unit="ms",
        help="How long the node may hold written data back to send it in larger pieces, 0s for not at all. `fsync(2)` "
        "and `close(2)` send it at once, and what must not come before it does. With `soft` nothing is held back.",
    ),
    Option(
        name="workers",
        kind=Kind.ENDPOINTS,
        field="workers",
        default="none",
        help="Workers (memcached) in whose memory the nodes share what they read, in blocks of 1 MiB: "
        "`HOST:PORT`, several with `+` between them, all nodes alike; `*WEIGHT` behind one gives it more than others. "
        "Or the path of a file on the node, readable for root, with one in each line: what changes there is followed. "
        "Needs `workers-key`.",
    ),
    Option(
        name="workers-key",
        kind=Kind.PATH,
        field="workers_key",
        default="none",
        help="File on the node, readable for root, with the key under which blocks lie at the workers: "
        "64 hexadecimal digits, as `efc worker key FILE` writes them. Who has it reads the dataset's cached blocks.",
    ),
    Option(
        name="workers-tls",
        kind=Kind.PATH,
        field="workers_tls",
        default="none",
        help="Directory on the node, readable for root, with `ca.crt`, `tls.crt` and `tls.key` (PEM; a Secret of "
        "Kubernetes for TLS has them): workers are spoken to by TLS 1.3, and both sides show certificates that the "
        "authority has signed. "
        "A worker's must have its host as it stands in `workers`, or, if there is a file `server-name` in the "
        "directory, the DNS name in it, wherever the worker is.",
    ),
    Option(
        name="cache-size",
        kind=Kind.SIZE,
        field="store_mib",
        default="none",
        minimum=64,
        maximum=1 << 30,
        unit="MiB",
        help="A local store of this size: what was read stays in a directory of the node for the next pod, the next "
        "epoch and after restarts. Not of what changes all the time: a file must have been unchanged for ten seconds.",
    ),
    Option(
        name="cache-dir",
        kind=Kind.PATH,
        field="store_dir",
        default="the node's",
        help="Directory of the node, of root's and writable for nobody else, for the local store: on an SSD, an HDD or "
        "a tmpfs. Without it the first that the node has for caches (`efc-keeper --cache-dir`, chart value "
        "`keeper.cacheDirs`), which also say what may be named here. Needs `cache-size`.",
    ),
    Option(
        name="cache-free",
        kind=Kind.INTEGER,
        field="store_free_percent",
        default="15",
        minimum=1,
        maximum=90,
        help="Percent of that directory's file system that the local store leaves free, whatever `cache-size` says: "
        "kubelet evicts pods when its disk has less than 10 or 15.",
    ),
    Option(
        name="passthrough",
        kind=Kind.CHOICE,
        field="passthrough",
        default=_PASSTHROUGH,
        choices=(_PASSTHROUGH, "off"),
        help="With `auto`, `consistency=sealed` and a local store, the kernel reads files of more than 64 KiB that lie "
        "there whole by itself, at the speed of its disk, whether a daemon runs or not; from Linux 6.9 on. Such a file "
        "cannot be written to while somebody reads it. `off` stops that for files that are opened from then on.",
    ),
    Option(
        name="prefetch",
        kind=Kind.CHOICE,
        field="prefetch",
        default=_PREFETCH,
        choices=(_PREFETCH, "off"),
        help="With `auto` and `consistency=bounded` or `sealed`, files are asked for before a program opens them: the "
        "next ones in the order of the directory, with their data if they have up to 64 KiB, and where files of a "
        "directory are opened in another order, the other small ones of it. Wrong guesses end that. `off`: nothing is "
        "asked for that nobody has opened.",
    ),
    Option(
        name="threads",
        kind=Kind.INTEGER,
        field="threads",
        default="2",
        minimum=1,
        maximum=64,
        help="Threads of the daemon that serve the kernel.",
    ),
    Option(
        name="hang-limit",
        kind=Kind.DURATION,
        field="hang_limit_ms",
        default="10s",
        minimum=500,
        maximum=600_000,
        unit="ms",
        help="How long a daemon may take no requests before it is replaced. A NAS that does not answer is no reason.",
    ),
    Option(
        name="unprivileged-port",
        kind=Kind.FLAG,
        field="unprivileged_port",
        default="off",
        help="Connect from any port; the NAS must allow it (`insecure`). Otherwise from one below 1024.",
    ),
    Option(
        name="idmap",
        kind=Kind.FLAG,
        field="idmap",
        default="off",
        help="The mount may be id-mapped, for pods with user namespaces (`hostUsers: false`). Needs Linux 6.15 or "
        "newer, and costs a look at the caller for each operation.",
    ),
    Option(
        name="log-level",
        kind=Kind.CHOICE,
        field="log_level",
        default="info",
        choices=("error", "warn", "info", "debug"),
        help="How much the daemon logs; with `debug` it may also be traced and dump core.",
    ),
    Option(
        name="network",
        kind=Kind.CHOICE,
        field="network",
        default="host",
        choices=("host", "pod"),
        help="Whose address the daemon connects to the NAS from: the node's, or that of the pod `efc-network` on the "
        "node (chart value `network.enabled`).",
    ),
    Option(
        name="fuse-features",
        kind=Kind.CHOICE,
        field="fuse_features",
        default=_RUNNING_KERNELS,
        choices=(_RUNNING_KERNELS, "5.10", "6.1", "6.18"),
        help="Uses nothing of the kernel's FUSE that came after this release of Linux, as if it ran there; `running` "
        "is the node's own. For tests, and to go around a fault of a newer kernel.",
    ),
)

#: Every option, by name, in the order of the documentation.
OPTIONS: Mapping[str, Option] = {option.name: option for option in _TABLE}


@dataclass(frozen=True, kw_only=True)
class MountOptions:
    """Checked options. Zero for a port means: not given."""

    read_only: bool = False
    port: int = 0
    mount_port: int = 0
    connections: int = 4
    soft: bool = False
    timeout_ms: int = 30_000
    consistency: str = _CLOSE_TO_OPEN
    attr_ttl_ms: int = 3000
    attr_ttl_max_ms: int = 60_000
    entry_ttl_ms: int = 1000
    small_files: str = ""
    read_ahead_kib: int = 8192
    uncommitted_mib: int = 64
    metadata_mib: int = 128
    memory_max_mib: int = 0
    write_behind_ms: int = 1000
    workers: str = ""
    workers_key: str = ""
    workers_tls: str = ""
    store_mib: int = 0
    store_dir: str = ""
    store_free_percent: int = 15
    passthrough: str = _PASSTHROUGH
    prefetch: str = _PREFETCH
    threads: int = 2
    hang_limit_ms: int = 10_000
    unprivileged_port: bool = False
    idmap: bool = False
    log_level: str = "info"
    network: str = _KEEPERS_NETWORK
    fuse_features: str = _RUNNING_KERNELS

    def given(self) -> dict[str, bool | int | str]:
        """Field name -> value of those that differ from the default, for records."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def source_with_ports(self, source: Source) -> Source:
        """``source`` with the ports that were given as options; INVALID_ARGUMENT if its URL has others."""
        return source.with_ports(port=self.port, mount_port=self.mount_port)

    def daemon_config(self, source: Source | Sources) -> efc_pb2.DaemonConfig:
        """What the daemon of ``source`` is told, or of several sources."""
        source = source.with_ports(port=self.port, mount_port=self.mount_port)
        return efc_pb2.DaemonConfig(
            source=source_to_wire(source) if isinstance(source, Source) else None,
            sources=source.to_wire() if isinstance(source, Sources) else (),
            connections=self.connections,
            read_only=self.read_only,
            soft=self.soft,
            timeout_ms=self.timeout_ms if self.soft else 0,
            attr_ttl_ms=self.attr_ttl_ms,
            entry_ttl_ms=self.entry_ttl_ms,
            read_ahead_kib=self.read_ahead_kib,
            uncommitted_mib=self.uncommitted_mib,
            metadata_mib=self.metadata_mib,
            memory_max_mib=self.memory_max_mib,
            threads=self.threads,
            hang_limit_ms=self.hang_limit_ms,
            unprivileged_port=self.unprivileged_port,
            idmap=self.idmap,
            log_level=self.log_level,
            network="" if self.network == _KEEPERS_NETWORK else self.network,
            fuse_features="" if self.fuse_features == _RUNNING_KERNELS else self.fuse_features,
            freshness=efc_pb2.FreshnessConfig(
                consistency="" if self.consistency == _CLOSE_TO_OPEN else self.consistency,
                attr_ttl_max_ms=self.attr_ttl_max_ms,
                small_files=self.small_files,
            ),
            writing=efc_pb2.WritingConfig(write_behind_ms=self.write_behind_ms),
            cache=self._cache_config(),
            prefetch="" if self.prefetch == _PREFETCH else self.prefetch,
        )

    def _cache_config(self) -> efc_pb2.CacheConfig | None:
        if not self.workers_key and not self.store_mib:
            return None
        return efc_pb2.CacheConfig(
            workers=self.workers,
            workers_key=self.workers_key,
            workers_tls=self.workers_tls,
            store_mib=self.store_mib,
            store_dir=self.store_dir,
            store_free_percent=self.store_free_percent if self.store_mib else 0,
            passthrough=self.passthrough if self.store_mib else "",
        )


def parse_list(text: str) -> list[tuple[str, str | None]]:
    """The items of ``-o a=b,c``, unchecked; an empty text has none."""
    return [parse_item(item) for item in text.split(",")] if text else []


def parse_item(item: str) -> tuple[str, str | None]:
    """One ``name=value`` or ``name`` (a mount flag of a PV, for example)."""
    name, equals, value = item.partition("=")
    return name, value if equals else None


def parse(items: Iterable[tuple[str, str | None]], *, origin: str) -> MountOptions:
    """Checks options; raises INVALID_ARGUMENT that names the option, the bad value and what is allowed.

    ``origin`` says for the message where they come from. An option may come twice only with the same meaning.
    """
    given = nfs_words.own_options(items, origin=origin)
    values = {option.field: value for option, value in _values(given, origin=origin)}
    _check_timeout("timeout_ms" in values, is_soft=bool(values.get("soft")), origin=origin)
    _check_caches(values, origin=origin)
    _check_small_files(values, origin=origin)
    return MountOptions(**values)  # type: ignore[arg-type]  # the table's fields and kinds are checked by a test


def changed(
    config: efc_pb2.DaemonConfig, items: Iterable[tuple[str, str | None]], *, origin: str
) -> efc_pb2.DaemonConfig:
    """``config`` with these options, and all others as they are.

    Raises what :func:`parse` does, and INVALID_ARGUMENT for an option that a mounted dataset cannot change.
    """
    result = efc_pb2.DaemonConfig()
    result.CopyFrom(config)
    has_timeout = False
    given = nfs_words.own_options(items, origin=origin, is_soft=config.soft)
    for option, value in _values(given, origin=origin):
        if option.change is Change.NEW_MOUNT:
            raise invalid(f"option {option.name!r} in {origin} cannot change while mounted: unmount, and mount with it")
        setattr(_holder(result, option.field), option.field, value)
        has_timeout |= option.field == "timeout_ms"
    _check_timeout(has_timeout, is_soft=result.soft, origin=origin)
    _check_caches(settings_of(result), origin=origin)
    if not result.soft:
        result.timeout_ms = 0
    elif not result.timeout_ms:
        result.timeout_ms = MountOptions().timeout_ms
    return result


def settings_of(config: efc_pb2.DaemonConfig) -> dict[str, bool | int | str]:
    """Field name -> value of all that is set in ``config``, but for sources; those of messages within included."""
    values: dict[str, bool | int | str] = {}
    for descriptor, value in config.ListFields():
        if descriptor.name in ("source", "sources"):
            continue
        within = value.ListFields() if isinstance(value, Message) else [(descriptor, value)]
        values |= {inner.name: set_value for inner, set_value in within}
    return values


def consistency_of(config: efc_pb2.DaemonConfig) -> str:
    """The consistency mode that ``config`` asks for, as it is written."""
    return config.freshness.consistency or _CLOSE_TO_OPEN


def _holder(config: efc_pb2.DaemonConfig, name: str) -> Message:
    """``config`` itself, or the message in it that has the field."""
    for descriptor in config.DESCRIPTOR.fields:
        inner = descriptor.message_type
        if inner is not None and not descriptor.is_repeated and name in inner.fields_by_name:
            return getattr(config, descriptor.name)  # type: ignore[no-any-return]
    return config


def own_words(options: Mapping[str, str], *, origin: str) -> dict[str, str]:
    """Options that came as a map, in words of the table only, for whoever knows no others: records, and older nodes.

    Raises what :func:`parse` does. An empty value is a flag without one (``ro: ""``).
    """
    items = [(name, value or None) for name, value in options.items()]
    parse(items, origin=origin)
    given = nfs_words.own_options(items, origin=origin)
    return {own.name: options.get(own.name, "true" if own.value is None else own.value) for own in given}


def is_option(name: str) -> bool:
    """Whether ``name`` is a word of the table, or one of nfs(5) about which something can be said."""
    return name in OPTIONS or name in nfs_words.WORDS


def _values(given: Iterable[nfs_words.OwnOption], *, origin: str) -> Iterator[tuple[Option, bool | int | str]]:
    """Each option that is given, once, and its value."""
    values: dict[str, tuple[str, Option, bool | int | str]] = {}
    for own in given:
        option = OPTIONS.get(own.name)
        if not own.name:
            raise invalid(f"there is an empty option in {origin}: a comma too many?")
        if option is None:
            raise unknown(own.name, known=OPTIONS, also=nfs_words.WORDS, noun="option", origin=origin)
        value = _value(option, own.value, word=own.word, origin=origin)
        before, _, former = values.setdefault(option.field, (own.word, option, value))
        if former != value:
            raise invalid(f"option {own.word!r} in {origin} contradicts {before!r} given before it")
    for _, option, value in values.values():
        yield option, value


def _check_timeout(has_timeout: bool, *, is_soft: bool, origin: str) -> None:  # noqa: FBT001
    if has_timeout and not is_soft:
        raise invalid(f"option 'timeout' in {origin} needs 'soft': without it operations wait until the NAS is back")


def _check_caches(values: Mapping[str, bool | int | str], *, origin: str) -> None:
    if values.get("workers") and not values.get("workers_key"):
        raise invalid(f"option 'workers' in {origin} needs 'workers-key': what lies at workers is sealed with a key")
    if values.get("store_dir") and not values.get("store_mib"):
        raise invalid(f"option 'cache-dir' in {origin} needs 'cache-size': without it there is no local store")


def _check_small_files(values: Mapping[str, bool | int | str], *, origin: str) -> None:
    if not values.get("small_files"):
        return
    if not values.get("read_only"):
        raise invalid(f"option 'small-files' in {origin} needs 'ro': nobody may write through this mount; add ro")
    if values.get("consistency", _CLOSE_TO_OPEN) == _CLOSE_TO_OPEN:
        message = (
            f"option 'small-files' in {origin} needs 'consistency=bounded' or 'consistency=sealed': "
            "with cto each open asks the NAS, which small-files does without"
        )
        raise invalid(message)


def unknown(name: str, *, known: Iterable[str], also: Iterable[str] = (), noun: str, origin: str) -> DriverError:
    """INVALID_ARGUMENT for a name that is not in an allow-list, with the nearest that is.

    ``also`` are names that may be the nearest, and are not listed.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:64].lower(), [*names, *sorted(also)], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return invalid(f"unknown {noun} {_quoted(name)} in {origin}{hint}; known are: {', '.join(names)}")


def _value(option: Option, text: str | None, *, word: str, origin: str) -> bool | int | str:
    parsed = _parsed(option, text)
    if parsed is None:
        shown = "no value" if text is None else f"value {_quoted(text)}"
        raise invalid(f"option {word!r} in {origin} has {shown}; allowed is {option.allowed()}")
    return parsed


def _parsed(option: Option, text: str | None) -> bool | int | str | None:
    """The value, or None if ``text`` is not one."""
    if option.kind is Kind.FLAG:
        chosen = {None: True, "true": True, "false": False}.get(text)
        return None if chosen is None else chosen is option.sets
    if text is None or len(text) > VALUE_LENGTH_MAX:
        return None
    if option.kind is Kind.CHOICE:
        text = dict(option.synonyms).get(text, text)
        return text if text in option.choices else None
    if option.kind is Kind.ENDPOINTS:
        is_known = not text or _PATH.fullmatch(text) or all(_is_endpoint(part) for part in text.split("+"))
        return text if is_known else None
    if option.kind in (Kind.PATH, Kind.IDS):
        is_right = _are_ids(text) if option.kind is Kind.IDS else _PATH.fullmatch(text) is not None
        return text if is_right else None
    number = _number(option, text)
    return number if number is not None and option.minimum <= number <= option.maximum else None


_PATH = re.compile(r"/[!-~]*")
_ENDPOINT = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})(?:\*([0-9]{1,7}))?")
_IDS = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
#: The next number means nobody.
_ID_MAX = (1 << 32) - 2
_PORT_MAX = 65_535
_WEIGHT_MAX = 1_000_000


def _is_endpoint(text: str) -> bool:
    match = _ENDPOINT.fullmatch(text)
    if match is None or (match[1] and not _is_ipv6(match[1])):
        return False
    port, weight = int(match[2]), int(match[3] or 1)
    return 1 <= port <= _PORT_MAX and 1 <= weight <= _WEIGHT_MAX


def _are_ids(text: str) -> bool:
    match = _IDS.fullmatch(text)
    return match is not None and all(int(one) <= _ID_MAX for one in match.groups())


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


_UNITS = {
    Kind.INTEGER: {"": 1},
    Kind.DURATION: {"ms": 1, "s": 1000, "m": 60_000},
    Kind.SIZE: {"KiB": 1, "MiB": 1024, "GiB": 1024 * 1024, "TiB": 1024 * 1024 * 1024},
}


def _number(option: Option, text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,10})([A-Za-z]*)", text)
    factor = _UNITS[option.kind].get(match[2]) if match else None
    if match is None or factor is None:
        return None
    number = int(match[1]) * factor
    if option.unit == "MiB":
        return number // 1024 if number % 1024 == 0 else None
    return number


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "...")


def markdown() -> str:
    """The table of docs/CONFIGURATION.md."""
    lines = ["| option | value | default | live | what it does |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.name}` | {row.allowed()} | {row.default} | {row.change.value} | {row.help} |"
        for row in OPTIONS.values()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), nfs_words.markdown(), sep="\n\n")
