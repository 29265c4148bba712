"""The mount options: one table, from which parsing, error messages and the documentation are made.

The same options work everywhere: ``efc mount -o``, a PV's or StorageClass's ``mountOptions``, StorageClass parameters
and volume attributes; :mod:`csi.config.mount_options` parses them. Options of nfs(5) are accepted as well, and
translated to options of the table (:mod:`csi.config.nfs_words`).

``python -m csi.config.options`` prints both tables for docs/CONFIGURATION.md.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from google.protobuf.descriptor import FieldDescriptor

from csi._proto import efc_pb2
from csi.config import nfs_words

#: `network` unless it is given.
KEEPERS_NETWORK = "host"
#: `consistency` unless it is given.
CLOSE_TO_OPEN = "cto"
#: `fuse-features` unless it is given.
RUNNING_KERNELS = "running"
PASSTHROUGH = "auto"
PREFETCH = "auto"


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
        help="Mounts read-only: nothing can be written through this mount.",
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
        help="Number of TCP connections to the NAS. More connections raise the throughput on fast networks.",
    ),
    Option(
        name="soft",
        kind=Kind.FLAG,
        field="soft",
        default="off",
        help="Operations fail with EIO when the NAS has not answered for `timeout`, instead of waiting until it "
        "answers again. Written data may be lost.",
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
        help="How long an operation waits for the NAS. It applies only with `soft`.",
    ),
    Option(
        name="consistency",
        kind=Kind.CHOICE,
        field="consistency",
        default=CLOSE_TO_OPEN,
        choices=(CLOSE_TO_OPEN, "bounded", "sealed"),
        synonyms=(("close-to-open", CLOSE_TO_OPEN),),
        help="What one node sees of the changes of another. `cto` (close-to-open): an open sees everything that was "
        "written before the last close of the file; each open asks the NAS. `bounded`: answers of the NAS that "
        "are younger than `attr-ttl` are used without asking again, also for opens; so permissions that are "
        "revoked at the NAS (also by its exports and groups) end after that time. `sealed`: for data that "
        "nobody changes; nothing is asked twice until the daemon is replaced.",
    ),
    Option(
        name="attr-ttl",
        kind=Kind.DURATION,
        field="attr_ttl_ms",
        default="3s",
        maximum=3_600_000,
        unit="ms",
        help="How long size, times and permissions are trusted without asking the NAS: with `cto` the minimum (0s: "
        "each look asks), with `bounded` the maximum.",
    ),
    Option(
        name="attr-ttl-max",
        kind=Kind.DURATION,
        field="attr_ttl_max_ms",
        default="60s",
        maximum=3_600_000,
        unit="ms",
        help="With `cto`, the maximum time for which size, times and permissions of a file are trusted: they are "
        "trusted for as long as they had been unchanged before, but for `attr-ttl` at least and `attr-ttl-max` "
        "at most. With `sealed`, the time after which the kernel asks the daemon again. A value below "
        "`attr-ttl` means `attr-ttl`.",
    ),
    Option(
        name="entry-ttl",
        kind=Kind.DURATION,
        field="entry_ttl_ms",
        default="1s",
        maximum=3_600_000,
        unit="ms",
        help="With `cto`, how long the kernel trusts that a name exists, and how long the NAS's answer holds on who "
        "may search a directory. `bounded` and `sealed` use the times of attributes for both.",
    ),
    Option(
        name="small-files",
        kind=Kind.IDS,
        field="small_files",
        default="none",
        help="For many small files that are read again and again: the kernel opens files without asking the daemon, "
        "and reads data in its page cache at the speed of a local file system. Everything is read from the NAS "
        "as this user and group, whoever the caller is; for data in the page cache only the mode bits are "
        "checked. Needs `ro`, and `consistency=bounded` or `sealed`. It excludes passthrough.",
    ),
    Option(
        name="read-ahead",
        kind=Kind.SIZE,
        field="read_ahead_kib",
        default="8MiB",
        minimum=128,
        maximum=262_144,
        unit="KiB",
        help="How far ahead of a sequential reader the daemon reads in each open file.",
    ),
    Option(
        name="uncommitted",
        kind=Kind.SIZE,
        field="uncommitted_mib",
        default="64MiB",
        minimum=4,
        maximum=16_384,
        unit="MiB",
        help="Limit of the memory for written data that the NAS has not put on stable storage yet, and that is sent "
        "again after a crash of NAS or daemon. Each write takes a power of two, 4 KiB at least. This memory "
        "counts towards the daemon's.",
    ),
    Option(
        name="metadata-memory",
        kind=Kind.SIZE,
        field="metadata_mib",
        default="128MiB",
        minimum=4,
        maximum=65_536,
        unit="MiB",
        help="Limit of the memory for cached inodes, names and listings; the least recently used ones are evicted. "
        "The list of inodes that the kernel knows is not part of it.",
    ),
    Option(
        name="memory-max",
        kind=Kind.SIZE,
        field="memory_max_mib",
        default="none",
        minimum=64,
        maximum=1_048_576,
        unit="MiB",
        help="Memory limit of the daemon. The number of inodes and of open files, `uncommitted`, `metadata-memory`, "
        "read-ahead and data in flight adapt to it. It does not raise the keeper's `--daemon-memory-max`. It needs a "
        "keeper with `--daemon-cgroup`, and one that knows this option: an older keeper sets no limit. On a mounted "
        "dataset a limit below what open and cached files need is refused.",
    ),
    Option(
        name="write-behind",
        kind=Kind.DURATION,
        field="write_behind_ms",
        default="1s",
        maximum=60_000,
        unit="ms",
        help="How long the node may hold written data back to send it in larger pieces; 0s: nothing is held back. "
        "`fsync(2)` and `close(2)` send it at once, and so does any operation that must not overtake it. With "
        "`soft` nothing is held back.",
    ),
    Option(
        name="workers",
        kind=Kind.ENDPOINTS,
        field="workers",
        default="none",
        help="Workers (memcached) in whose memory the nodes share data that they have read, in blocks of 1 MiB: "
        "`HOST:PORT`, several with `+` between them, the same list on all nodes; `*WEIGHT` after a worker gives "
        "it a larger share of the blocks. Or the path of a file on the node, readable for root, with one worker "
        "per line: the file must exist when the dataset is mounted, and later changes of it take effect by "
        "themselves. Needs `workers-key`.",
    ),
    Option(
        name="workers-key",
        kind=Kind.PATH,
        field="workers_key",
        default="none",
        help="File on the node, readable for root, with the key by which blocks at the workers are encrypted: 64 "
        "hexadecimal digits, as `efc worker key FILE` writes them. Whoever has the key can read the dataset's "
        "cached blocks.",
    ),
    Option(
        name="workers-tls",
        kind=Kind.PATH,
        field="workers_tls",
        default="none",
        help="Directory on the node, readable for root, with `ca.crt`, `tls.crt` and `tls.key` (PEM, as in a "
        "Kubernetes Secret of type TLS). Connections to workers then use TLS 1.3, and both sides show "
        "certificates that this authority has signed. A worker's certificate must name its host as written in "
        "`workers`; or, if the directory has a file `server-name`, the DNS name in that file, for every worker.",
    ),
    Option(
        name="cache-size",
        kind=Kind.SIZE,
        field="store_mib",
        default="none",
        minimum=64,
        maximum=1 << 30,
        unit="MiB",
        help="Size of a local store: data that was read stays in a directory of the node, for the next pod, the next "
        "epoch and after restarts. A file is stored only when it has been unchanged for ten seconds.",
    ),
    Option(
        name="cache-dir",
        kind=Kind.PATH,
        field="store_dir",
        default="the node's",
        help="Directory of the node for the local store, owned by root and writable for nobody else: on an SSD, an "
        "HDD or a tmpfs (mounted with `mode=755`). Allowed are the node's directories for caches (`efc-keeper "
        "--cache-dir`, chart value `keeper.cacheDirs`); the default is the first of them. Needs `cache-size`.",
    ),
    Option(
        name="cache-free",
        kind=Kind.INTEGER,
        field="store_free_percent",
        default="15",
        minimum=1,
        maximum=90,
        help="Percentage of the file system of `cache-dir` that the local store leaves free, whatever `cache-size` "
        "says: kubelet evicts pods when less than 10 or 15 percent of its disk are free.",
    ),
    Option(
        name="passthrough",
        kind=Kind.CHOICE,
        field="passthrough",
        default=PASSTHROUGH,
        choices=(PASSTHROUGH, "off"),
        help="FUSE passthrough: with `auto`, `consistency=sealed`, a local store and Linux 6.9 or newer, the kernel "
        "itself reads files of more than 64 KiB that are completely in the store, at the speed of the store's "
        "disk, whether a daemon runs or not. Nobody on the node can write to such a file while somebody there "
        "has it open. `off` ends passthrough for files that are opened from then on.",
    ),
    Option(
        name="prefetch",
        kind=Kind.CHOICE,
        field="prefetch",
        default=PREFETCH,
        choices=(PREFETCH, "off"),
        help="With `auto` and `consistency=bounded` or `sealed`, files are prefetched before a program opens them: "
        "the next ones in the order of the directory, with their data if they have up to 64 KiB; or, if files "
        "of a directory are opened in another order, the directory's other small files. Wrong guesses end the "
        "prefetching. In each mode a directory in which several names were looked up in vain is listed, to know "
        "which other names do not exist. `off`: the NAS is asked only for what somebody has opened or looked "
        "up.",
    ),
    Option(
        name="threads",
        kind=Kind.INTEGER,
        field="threads",
        default="2",
        minimum=1,
        maximum=64,
        help="Number of daemon threads that serve requests of the kernel.",
    ),
    Option(
        name="hang-limit",
        kind=Kind.DURATION,
        field="hang_limit_ms",
        default="10s",
        minimum=500,
        maximum=600_000,
        unit="ms",
        help="How long a daemon may take no requests from the kernel before it counts as hung and is replaced. A NAS "
        "that does not answer does not count.",
    ),
    Option(
        name="unprivileged-port",
        kind=Kind.FLAG,
        field="unprivileged_port",
        default="off",
        help="Connects to the NAS from any source port, which the NAS must allow (`insecure`). Without it the source "
        "port is below 1024.",
    ),
    Option(
        name="idmap",
        kind=Kind.FLAG,
        field="idmap",
        default="off",
        help="Allows id-mapping of the mount, for pods with user namespaces (`hostUsers: false`). Needs Linux 6.15 "
        "or newer. The daemon then looks up the caller in `/proc` for each operation.",
    ),
    Option(
        name="log-level",
        kind=Kind.CHOICE,
        field="log_level",
        default="info",
        choices=("error", "warn", "info", "debug"),
        help="How much the daemon logs. At `debug` the daemon may also be traced, and may dump core.",
    ),
    Option(
        name="network",
        kind=Kind.CHOICE,
        field="network",
        default="host",
        choices=("host", "pod"),
        help="Network from which the daemon connects to the NAS: `host` is the node's, `pod` that of the pod "
        "`efc-network` on the node (chart value `network.enabled`).",
    ),
    Option(
        name="fuse-features",
        kind=Kind.CHOICE,
        field="fuse_features",
        default=RUNNING_KERNELS,
        choices=(RUNNING_KERNELS, "5.10", "6.1", "6.18"),
        help="Uses only FUSE features that this release of Linux has, as if the node ran it; `running` is the node's "
        "own kernel. For tests, and to avoid a bug of a newer kernel.",
    ),
)

#: Every option, by name, in the order of the documentation.
OPTIONS: Mapping[str, Option] = {option.name: option for option in _TABLE}


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
