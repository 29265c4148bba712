"""The metrics: one table, from which what is served, its checks and docs/METRICS.md are made.

A name that is not in the table cannot be served (:mod:`csi.observe.exposition` refuses it), and a row's labels are all
that a sample has. Names follow Prometheus: base units, the unit last, ``_total`` for counters.

Labels are few on purpose. A dataset has one series of each kind per node, however many pods use it; a volume has one;
users' pods have none, since their names come and go with every rollout, and Prometheus keeps each for as long as its
data. A Dataset of Kubernetes has one series of each kind in the whole cluster. Its namespace is ``dataset_namespace``:
Prometheus gives ``namespace`` to that of the pod that it scrapes.

``python -m csi.observe.metrics`` prints docs/METRICS.md's tables.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Kind(enum.Enum):
    """Prometheus' types that are used."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Section(enum.Enum):
    """Who serves a metric; the headings of docs/METRICS.md."""

    DATASET = "Datasets: the node plugin and `efc metrics`"
    NODE = "Node plugin"
    CONTROLLER = "Controller"
    OPERATOR = "Operator: Datasets of Kubernetes"
    SERVICE = "Node plugin and controller"
    PROCESS = "Node plugin, controller and operator"


class Stability(enum.Enum):
    """What may be built on a metric."""

    STABLE = "stable"
    BETA = "beta"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of the table."""

    name: str
    kind: Kind
    section: Section
    help: str
    #: "seconds", "bytes", or "" for a number of things.
    unit: str = ""
    labels: tuple[str, ...] = ()
    stability: Stability = Stability.STABLE
    #: Upper bounds of a histogram's buckets, in `unit`, without the last one, +Inf.
    buckets: tuple[float, ...] = ()


#: From a publish with a running daemon (2 ms) to kubelet's patience (2 minutes).
_CALL_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
#: As daemons count them (efc/cache/src/histogram.rs): from a block in memory to a NAS that hesitates.
LATENCY_SECONDS = (0.00005, 0.00025, 0.001, 0.005, 0.02, 0.1, 0.5, 2.5)
_DATASET_LABELS = ("dataset", "source")


def _dataset(
    name: str,
    kind: Kind,
    text: str,
    *,
    unit: str = "",
    labels: tuple[str, ...] = (),
    stability: Stability = Stability.STABLE,
) -> Metric:
    labels, buckets = (*_DATASET_LABELS, *labels), LATENCY_SECONDS if kind is Kind.HISTOGRAM else ()
    return Metric(
        name=name, kind=kind, section=Section.DATASET, help=text, unit=unit, labels=labels, stability=stability,
        buckets=buckets,
    )  # fmt: skip


#: Of a Dataset of Kubernetes.
_OBJECT_LABELS = ("dataset_namespace", "dataset_name")


def _object(name: str, text: str, *, unit: str = "", labels: tuple[str, ...] = ()) -> Metric:
    labels = (*_OBJECT_LABELS, *labels)
    return Metric(
        name=f"efc_dataset_{name}", kind=Kind.GAUGE, section=Section.OPERATOR, help=text, unit=unit, labels=labels,
        stability=Stability.BETA,
    )  # fmt: skip


_TABLE = (
    Metric(
        name="efc_keeper_reachable",
        kind=Kind.GAUGE,
        section=Section.DATASET,
        help="1 if the keeper answered this scrape, else 0; then there are no metrics of datasets.",
    ),
    Metric(
        name="efc_keeper_info",
        kind=Kind.GAUGE,
        section=Section.DATASET,
        labels=("version",),
        help="Always 1; the keeper's release.",
    ),
    _dataset("efc_daemon_info", Kind.GAUGE, "Always 1; the daemon's release.", labels=("version",)),
    _dataset(
        "efc_daemon_state",
        Kind.GAUGE,
        "1 for the state that the daemon is in, 0 for the others.",
        labels=("state",),
    ),
    _dataset(
        "efc_daemon_restarts_total",
        Kind.COUNTER,
        "Daemons that were started after the mount's first: after a death, and by each upgrade that replaces one.",
    ),
    _dataset(
        "efc_daemon_upgrades_total",
        Kind.COUNTER,
        "Of these, those that were started by an upgrade, or because the network was replaced; the others came after a "
        "death or a hang.",
    ),
    _dataset(
        "efc_mount_created_timestamp_seconds",
        Kind.GAUGE,
        "When the dataset was mounted on this node, in Unix time.",
        unit="seconds",
    ),
    _dataset("efc_daemon_uptime_seconds", Kind.GAUGE, "How long this daemon has served.", unit="seconds"),
    _dataset("efc_fuse_requests_total", Kind.COUNTER, "Requests of the kernel that were taken."),
    _dataset("efc_nfs_calls_total", Kind.COUNTER, "Calls sent to the NAS."),
    _dataset(
        "efc_nfs_retransmits_total", Kind.COUNTER, "Calls that were sent again because their connection was lost."
    ),
    _dataset("efc_nfs_reconnects_total", Kind.COUNTER, "Connections to the NAS that were lost and made anew."),
    _dataset("efc_nfs_read_bytes_total", Kind.COUNTER, "Data read from the NAS.", unit="bytes"),
    _dataset("efc_nfs_written_bytes_total", Kind.COUNTER, "Data written to the NAS.", unit="bytes"),
    _dataset(
        "efc_nfs_spliced_bytes_total",
        Kind.COUNTER,
        "Of the data read, what went around the daemon's memory.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_nfs_pipe_misfits_total",
        Kind.COUNTER,
        "Large reads whose data did not fit a pipe and went through the daemon's memory after all.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_latency_operation_seconds",
        Kind.HISTOGRAM,
        "How long requests of the kernel took that succeeded, by what they were: `lookup`, `attributes`, `open`, "
        "`list`, `read`, `write`, `sync`, `change` (of names and attributes), `other`. Those of which there were any.",
        unit="seconds",
        labels=("operation",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_latency_read_seconds",
        Kind.HISTOGRAM,
        "How long it took to read data, by what gave it: `memory`, the local `store`, `workers`, or the `nas`; those "
        "that gave any. A read that waits for what another fetches is that one's. What the kernel has in its own "
        "pages, or reads by itself, no daemon sees.",
        unit="seconds",
        labels=("level",),
        stability=Stability.BETA,
    ),
    _dataset("efc_inodes", Kind.GAUGE, "Inodes that the kernel knows, and the daemon with it."),
    _dataset(
        "efc_state_inodes_max",
        Kind.GAUGE,
        "Most inodes that the kernel may know, by the daemon's memory limit; 0 if there is none.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_state_inode_bytes",
        Kind.GAUGE,
        "Memory for the inodes that the kernel knows, which outlives the daemon.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    *(
        _dataset(f"efc_metadata_{name}_bytes", Kind.GAUGE, text, unit="bytes", stability=Stability.BETA)
        for name, text in {
            "max": "Memory for what the daemon knows of inodes, names and directories (`metadata-memory`).",
            "inode": "Of that memory, what inodes take.",
            "name": "Of that memory, what names take.",
            "listing": "Of that memory, what listings take.",
        }.items()
    ),
    _dataset("efc_open_files", Kind.GAUGE, "Files that are open."),
    _dataset(
        "efc_uncommitted_bytes", Kind.GAUGE, "Data written that the NAS has not put on stable storage.", unit="bytes"
    ),
    _dataset(
        "efc_writing_unsent_bytes",
        Kind.GAUGE,
        "Data written that the NAS has not answered: held back by `write-behind`, or in flight.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_writing_unsent_age_seconds",
        Kind.GAUGE,
        "Age of the oldest data that is held back by `write-behind`; 0 if there is none.",
        unit="seconds",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_writing_append_overlaps_total",
        Kind.COUNTER,
        "Appends that met another node's append to the same file, so that they may have overwritten each other.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_writing_changes_total",
        Kind.COUNTER,
        "Calls that have changed something at the NAS: written, truncated, set attributes, made, removed or renamed.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_read_bytes_total",
        Kind.COUNTER,
        "Bytes of blocks that were read through the caches, by what gave them: `memory` had just read them, the local "
        "`store`, `workers`, or the `nas`. Only of datasets with workers or a local store, as are the other "
        "`efc_cache` metrics.",
        unit="bytes",
        labels=("level",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_read_blocks_total",
        Kind.COUNTER,
        "The blocks that these bytes are of: the hits of each level.",
        labels=("level",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_misses_total",
        Kind.COUNTER,
        "Blocks that workers had not got, those that another node was fetching among them.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_filled_bytes_total",
        Kind.COUNTER,
        "What this node put at workers.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_unfilled_blocks_total",
        Kind.COUNTER,
        "Blocks that it did not put there: another node had done so (`overtaken`), the worker had no room (`full`), "
        "this node had no memory to seal them in (`memory`), or too many were on their way (`busy`).",
        labels=("reason",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_refused_blocks_total",
        Kind.COUNTER,
        "Blocks at workers that were not what they should be (damaged, or put there by others), and so were not used.",
        stability=Stability.BETA,
    ),
    _dataset("efc_cache_workers", Kind.GAUGE, "Workers that the dataset has.", stability=Stability.BETA),
    _dataset(
        "efc_cache_workers_ready",
        Kind.GAUGE,
        "Workers that answer this node in time.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_capacity_bytes",
        Kind.GAUGE,
        "Memory for blocks at the workers that answer this node, for all who use them.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_held_bytes",
        Kind.GAUGE,
        "What lies in that memory, of all who use it.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_state",
        Kind.GAUGE,
        "1 for the state that the local store is in: `loading` and `serving` are well. Only of datasets with one, as "
        "are the other `efc_store` metrics.",
        labels=("state",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_capacity_bytes",
        Kind.GAUGE,
        "What the local store may hold.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset("efc_store_held_bytes", Kind.GAUGE, "What it holds.", unit="bytes", stability=Stability.BETA),
    _dataset("efc_store_files", Kind.GAUGE, "Files of which it holds something.", stability=Stability.BETA),
    _dataset("efc_store_hits_total", Kind.COUNTER, "Blocks that it gave.", stability=Stability.BETA),
    _dataset("efc_store_misses_total", Kind.COUNTER, "Blocks that it had not got.", stability=Stability.BETA),
    _dataset(
        "efc_store_filled_bytes_total",
        Kind.COUNTER,
        "What it took in.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_refused_blocks_total",
        Kind.COUNTER,
        "Blocks that it did not take in: too much was on its way to the disk (`busy`), the disk is full, read-only or "
        "fails (`disk`), or what the store has is read more often (`room`).",
        labels=("reason",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_evicted_bytes_total",
        Kind.COUNTER,
        "What gave way to other files.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_damaged_blocks_total",
        Kind.COUNTER,
        "Blocks that were not what had been put there, and so were read elsewhere: its disk, or somebody, changes "
        "them.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_late_answers_total",
        Kind.COUNTER,
        "Reads that did not wait for its disk any longer, since the NAS would have answered earlier.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_passthrough_opens_total",
        Kind.COUNTER,
        "Opens of files that the kernel reads from the local store by itself: what is read so, no other metric "
        "counts. Only of datasets with `consistency=sealed` and a local store, as is `efc_passthrough_files`.",
        stability=Stability.BETA,
    ),
    _dataset("efc_passthrough_files", Kind.GAUGE, "Files that are open so.", stability=Stability.BETA),
    _dataset(
        "efc_prefetch_files_total",
        Kind.COUNTER,
        "Files that were asked for before they were opened, and what came of them: `asked` for, `used` (opened or read "
        "then), `wasted` (not in time, or changed by then). `reason` is `order` for those that are next in the order "
        "of a listing, `directory` for others of a directory in which files are opened in another order.",
        labels=("reason", "outcome"),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_prefetch_held_bytes",
        Kind.GAUGE,
        "Memory of data that was asked for so and that nobody has read yet.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset("efc_nas_responding", Kind.GAUGE, "1 if the NAS answers, 0 if calls to it wait for longer than usual."),
    _dataset(
        "efc_nfs_oldest_call_age_seconds",
        Kind.GAUGE,
        "Age of the oldest call that the NAS has not answered; 0 if there is none.",
        unit="seconds",
    ),
    Metric(
        name="efc_publications",
        kind=Kind.GAUGE,
        section=Section.NODE,
        help="Target paths at which volumes are published: one for each pod and volume.",
    ),
    Metric(
        name="efc_volume_publications",
        kind=Kind.GAUGE,
        section=Section.NODE,
        labels=("dataset", "volume_id"),
        stability=Stability.BETA,
        help="The same by volume; it also says which dataset, and so which daemon, a volume uses.",
    ),
    Metric(
        name="efc_operations_in_flight",
        kind=Kind.GAUGE,
        section=Section.NODE,
        help="Publishes and unpublishes under way, those whose caller has given up included.",
    ),
    Metric(
        name="efc_dead_mounts_total",
        kind=Kind.COUNTER,
        section=Section.NODE,
        labels=("result",),
        stability=Stability.BETA,
        help="Mounts that nobody served any more, in containers and on the node: `replaced`, and tries that `failed`.",
    ),
    Metric(
        name="efc_nas_operations_total",
        kind=Kind.COUNTER,
        section=Section.CONTROLLER,
        labels=("operation", "code"),
        help="Steps of provisioning on the NAS (commands of efc-fs) that ended, by gRPC status code.",
    ),
    Metric(
        name="efc_nas_operation_duration_seconds",
        kind=Kind.HISTOGRAM,
        section=Section.CONTROLLER,
        unit="seconds",
        labels=("operation",),
        buckets=_CALL_SECONDS,
        help="How long they took.",
    ),
    Metric(
        name="efc_trash_entries",
        kind=Kind.GAUGE,
        section=Section.CONTROLLER,
        labels=("source",),
        help="Directories of deleted volumes that wait for their removal, as of the last deletion or start.",
    ),
    Metric(
        name="efc_operator_leads",
        kind=Kind.GAUGE,
        section=Section.OPERATOR,
        stability=Stability.BETA,
        help="1 if this operator serves Datasets and all below are its; 0 if it waits until the leading one ends. Not "
        "there where Datasets are off.",
    ),
    Metric(
        name="efc_operator_api_requests_total",
        kind=Kind.COUNTER,
        section=Section.OPERATOR,
        stability=Stability.BETA,
        help="Requests to the Kubernetes API for Datasets, their watches and the Lease included.",
    ),
    _object(
        "phase",
        "1 for the phase that the Dataset is in (`NotBound`, `Bound`, `Updating`, `Failed`), 0 for the others.",
        labels=("phase",),
    ),
    _object("ready", "1 if condition Ready holds: pods can use the Dataset."),
    _object("source_reachable", "1 if the NAS has what the Dataset names; not there while nobody has looked."),
    _object(
        "size_bytes",
        "Sum of the sizes of all regular files, column UFS TOTAL SIZE; so far, while not `efc_dataset_size_known`.",
        unit="bytes",
    ),
    _object("size_known", "1 if all files were counted once, condition TotalsKnown."),
    _object("files", "Number of regular files, column TOTAL FILES."),
    _object("cached_bytes", "Blocks of the Dataset at its workers, column CACHED.", unit="bytes"),
    _object("worker_cached_bytes", "The same of each worker.", unit="bytes", labels=("worker",)),
    _object("cache_capacity_bytes", "Quota of the workers that are ready, column CACHE CAPACITY.", unit="bytes"),
    _object(
        "cached_ratio",
        "Cached part of the size, from 0 to 1; column CACHED PERCENTAGE. Not there before the size is known.",
    ),
    _object(
        "cache_hit_ratio",
        "Of the bytes that were read in the last 5 minutes, the part from any cache, from 0 to 1; column CACHE HIT "
        "RATIO. 0 if nothing was read.",
    ),
    _object("cache_local_hit_ratio", "The part from caches of the node that read."),
    _object("cache_remote_hit_ratio", "The part from workers."),
    *(
        _object(f"{part}_{what}", text)
        for part, where in (("masters", "Masters"), ("workers", "Workers"), ("fuses", "Nodes"))
        for what, text in {
            "desired": f"{where} on which pods use the Dataset."
            if part == "fuses"
            else f"{where} that there shall be.",
            "ready": f"{where} whose daemon serves the Dataset." if part == "fuses" else f"{where} that are ready.",
        }.items()
    ),
    Metric(
        name="efc_csi_calls_total",
        kind=Kind.COUNTER,
        section=Section.SERVICE,
        labels=("method", "code"),
        help="gRPC calls that ended, by status code.",
    ),
    Metric(
        name="efc_csi_call_duration_seconds",
        kind=Kind.HISTOGRAM,
        section=Section.SERVICE,
        unit="seconds",
        labels=("method",),
        buckets=_CALL_SECONDS,
        help="How long they took.",
    ),
    Metric(
        name="efc_csi_calls_in_flight",
        kind=Kind.GAUGE,
        section=Section.SERVICE,
        help="gRPC calls under way.",
    ),
    Metric(
        name="efc_children",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        help="Child processes that exist, hung ones included.",
    ),
    Metric(
        name="efc_children_killed_total",
        kind=Kind.COUNTER,
        section=Section.PROCESS,
        labels=("program",),
        help="Child processes that were killed at their deadline.",
    ),
    Metric(
        name="efc_build_info",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        labels=("version",),
        help="Always 1; this process's release.",
    ),
    Metric(
        name="process_start_time_seconds",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        unit="seconds",
        help="When this process started, in Unix time.",
    ),
    Metric(
        name="process_cpu_seconds_total",
        kind=Kind.COUNTER,
        section=Section.PROCESS,
        unit="seconds",
        help="User and system CPU time of this process; its children's and the daemons' are their own.",
    ),
    Metric(
        name="process_resident_memory_bytes",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        unit="bytes",
        help="Resident memory of this process.",
    ),
    Metric(
        name="process_open_fds",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        help="File descriptors that this process has open.",
    ),
)

#: Every metric, by name, in the order of the documentation.
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}


def markdown() -> str:
    """The tables of docs/METRICS.md."""
    return "\n\n".join(f"## {section.value}\n\n{_table_of(section)}" for section in Section)


def _table_of(section: Section) -> str:
    lines = ["| metric | type | unit | labels | stability | what it says |", "|---|---|---|---|---|---|"]
    for row in _TABLE:
        if row.section is section:
            labels = ", ".join(f"`{label}`" for label in row.labels)
            cells = (f"`{row.name}`", row.kind.value, row.unit, labels, row.stability.value, row.help)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
