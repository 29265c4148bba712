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
        help="1 if the keeper answered this scrape, else 0. Without an answer there are no metrics of datasets.",
    ),
    Metric(
        name="efc_keeper_info",
        kind=Kind.GAUGE,
        section=Section.DATASET,
        labels=("version",),
        help="Always 1; the label `version` is the keeper's release.",
    ),
    _dataset(
        "efc_daemon_info", Kind.GAUGE, "Always 1; the label `version` is the daemon's release.", labels=("version",)
    ),
    _dataset(
        "efc_daemon_state",
        Kind.GAUGE,
        "1 for the state that the daemon is in, 0 for the others: `starting`, `serving`, `restarting`, "
        "`unresponsive_nas`, `aborted`.",
        labels=("state",),
    ),
    _dataset(
        "efc_daemon_restarts_total",
        Kind.COUNTER,
        "Daemons that were started for the mount after its first one: after a death or a hang, and by each upgrade "
        "that replaced the daemon.",
    ),
    _dataset(
        "efc_daemon_upgrades_total",
        Kind.COUNTER,
        "Those daemons of `efc_daemon_restarts_total` that were started by an upgrade, or because the network was "
        "replaced. The difference of the two counts deaths and hangs.",
    ),
    _dataset(
        "efc_mount_created_timestamp_seconds",
        Kind.GAUGE,
        "Time at which the dataset was mounted on this node, in Unix time.",
        unit="seconds",
    ),
    _dataset("efc_daemon_uptime_seconds", Kind.GAUGE, "Time for which the present daemon has served.", unit="seconds"),
    _dataset("efc_fuse_requests_total", Kind.COUNTER, "FUSE requests that the daemon has taken from the kernel."),
    _dataset("efc_nfs_calls_total", Kind.COUNTER, "NFS calls sent to the NAS, without retransmissions."),
    _dataset(
        "efc_nfs_retransmits_total",
        Kind.COUNTER,
        "NFS calls that were sent again, because their connection or their answer was lost.",
    ),
    _dataset("efc_nfs_reconnects_total", Kind.COUNTER, "Connections to the NAS that were lost and established again."),
    _dataset("efc_nfs_read_bytes_total", Kind.COUNTER, "Data read from the NAS.", unit="bytes"),
    _dataset("efc_nfs_written_bytes_total", Kind.COUNTER, "Data written to the NAS.", unit="bytes"),
    _dataset(
        "efc_nfs_spliced_bytes_total",
        Kind.COUNTER,
        "Data of `efc_nfs_read_bytes_total` that went from the NAS to the kernel through pipes (splice), past the "
        "daemon's memory.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_nfs_pipe_misfits_total",
        Kind.COUNTER,
        "Large reads whose data did not fit a pipe, and went through the daemon's memory instead.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_latency_operation_seconds",
        Kind.HISTOGRAM,
        "Duration of FUSE requests that succeeded, by kind: `lookup`, `attributes`, `open`, `list`, `read`, "
        "`write`, `sync`, `change` (of names and attributes), `other`. A kind has series once there was a request "
        "of it.",
        unit="seconds",
        labels=("operation",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_latency_read_seconds",
        Kind.HISTOGRAM,
        "Duration of reads of data, by the level that the data came from: the daemon's `memory`, the local "
        "`store`, `workers`, or the `nas`. A level has series once it gave data. A read that waits for data that "
        "another read fetches counts for the level of that one. Reads from the kernel's page cache and by "
        "passthrough are not counted, since no daemon sees them.",
        unit="seconds",
        labels=("level",),
        stability=Stability.BETA,
    ),
    _dataset("efc_inodes", Kind.GAUGE, "Inodes that the kernel knows, and therefore the daemon."),
    _dataset(
        "efc_state_inodes_max",
        Kind.GAUGE,
        "Maximum of `efc_inodes`, which follows from the daemon's memory limit; 0 without a limit.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_state_inode_bytes",
        Kind.GAUGE,
        "Memory of the saved state for the inodes that the kernel knows. It outlives the daemon, and is not part "
        "of `efc_metadata_max_bytes`.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    *(
        _dataset(f"efc_metadata_{name}_bytes", Kind.GAUGE, text, unit="bytes", stability=Stability.BETA)
        for name, text in {
            "max": "Limit of the memory for cached inodes, names and listings together (`metadata-memory`).",
            "inode": "Memory that cached inodes use.",
            "name": "Memory that cached names use.",
            "listing": "Memory that cached listings of directories use.",
        }.items()
    ),
    _dataset("efc_open_files", Kind.GAUGE, "Files that are open now."),
    _dataset(
        "efc_uncommitted_bytes",
        Kind.GAUGE,
        "Written data that the NAS has not yet put on stable storage (COMMIT).",
        unit="bytes",
    ),
    _dataset(
        "efc_writing_unsent_bytes",
        Kind.GAUGE,
        "Written data that the NAS has not acknowledged: held back by `write-behind`, or in flight.",
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
        "Appends that collided with an append of another node to the same file, so that one may have overwritten "
        "the other.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_writing_changes_total",
        Kind.COUNTER,
        "NFS calls that have changed something at the NAS: wrote, truncated, set attributes, created, removed or "
        "renamed.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_read_bytes_total",
        Kind.COUNTER,
        "Bytes of blocks that were read through the caches, by the level that they came from: the daemon's "
        "`memory` (just read), the local `store`, `workers`, or the `nas`. Like all `efc_cache` metrics it exists "
        "only for datasets with workers or a local store.",
        unit="bytes",
        labels=("level",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_read_blocks_total",
        Kind.COUNTER,
        "Blocks that were read through the caches, by the level that they came from: the hits of each level.",
        labels=("level",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_misses_total",
        Kind.COUNTER,
        "Blocks that were asked of workers and not there, including those that another node was fetching.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_filled_bytes_total",
        Kind.COUNTER,
        "Data that this node has stored at workers.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_unfilled_blocks_total",
        Kind.COUNTER,
        "Blocks that this node did not store at workers, by reason: another node had stored the block before "
        "(`overtaken`), the worker had no room (`full`), this node had no memory to encrypt it in (`memory`), or "
        "too many blocks were on their way (`busy`).",
        labels=("reason",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_refused_blocks_total",
        Kind.COUNTER,
        "Blocks from workers that were not used, because they were damaged or stored by somebody without the key.",
        stability=Stability.BETA,
    ),
    _dataset("efc_cache_workers", Kind.GAUGE, "Workers that the dataset's options name.", stability=Stability.BETA),
    _dataset(
        "efc_cache_workers_ready",
        Kind.GAUGE,
        "Workers of the dataset that answer this node in time.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_capacity_bytes",
        Kind.GAUGE,
        "Total memory for blocks of the workers that answer this node, shared by all datasets that use these workers.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_cache_workers_held_bytes",
        Kind.GAUGE,
        "Used part of `efc_cache_workers_capacity_bytes`, by all datasets together.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_state",
        Kind.GAUGE,
        "1 for the state that the local store is in, 0 for the others: `loading` and `serving` are healthy; "
        "`waiting`: another process still uses the directory; `slow`: slower than the NAS, and not asked; "
        "`read_only` and `full`: accepts no data; `failed`: the disk fails. Like all `efc_store` metrics it exists "
        "only for datasets with a local store.",
        labels=("state",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_capacity_bytes",
        Kind.GAUGE,
        "Size that the local store may reach.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset("efc_store_held_bytes", Kind.GAUGE, "Data in the local store.", unit="bytes", stability=Stability.BETA),
    _dataset("efc_store_files", Kind.GAUGE, "Files of which the local store has any data.", stability=Stability.BETA),
    _dataset(
        "efc_store_hits_total", Kind.COUNTER, "Blocks that were read from the local store.", stability=Stability.BETA
    ),
    _dataset(
        "efc_store_misses_total",
        Kind.COUNTER,
        "Blocks that were asked of the local store and not there.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_filled_bytes_total",
        Kind.COUNTER,
        "Data that was put into the local store.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_refused_blocks_total",
        Kind.COUNTER,
        "Blocks that were not put into the local store, by reason: too much was on its way to the disk (`busy`), "
        "the disk is full, read-only or fails (`disk`), or what the store has is read more often (`room`).",
        labels=("reason",),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_evicted_bytes_total",
        Kind.COUNTER,
        "Data that the local store evicted to make room for other files.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_damaged_blocks_total",
        Kind.COUNTER,
        "Blocks of the local store that failed their checksum, and were read from another level instead: the disk "
        "damages data, or somebody changes the store's files.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_store_late_answers_total",
        Kind.COUNTER,
        "Reads that gave the local store's disk up and went to another level, because the NAS would have answered "
        "earlier.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_passthrough_opens_total",
        Kind.COUNTER,
        "Opens that were answered with FUSE passthrough: the kernel reads these files from the local store "
        "directly, and no other metric counts these reads. Like `efc_passthrough_files` it exists only for "
        "datasets with `consistency=sealed` and a local store.",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_passthrough_files", Kind.GAUGE, "Files that are open with FUSE passthrough now.", stability=Stability.BETA
    ),
    _dataset(
        "efc_prefetch_files_total",
        Kind.COUNTER,
        "Files that were prefetched before anybody opened them, by outcome: `asked` (all of them), `used` (opened "
        "or read afterwards), `wasted` (not opened in time, or changed by then). `reason` is `order` for files "
        "that are next in the order of a listing, `directory` for other files of a directory in which files are "
        "opened in another order.",
        labels=("reason", "outcome"),
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_prefetch_held_bytes",
        Kind.GAUGE,
        "Memory for prefetched data that nobody has read yet.",
        unit="bytes",
        stability=Stability.BETA,
    ),
    _dataset(
        "efc_nas_responding",
        Kind.GAUGE,
        "1 if the NAS answers, 0 if a call has waited for its answer for 5 s or longer.",
    ),
    _dataset(
        "efc_nfs_oldest_call_age_seconds",
        Kind.GAUGE,
        "Age of the oldest NFS call without an answer; 0 if there is none.",
        unit="seconds",
    ),
    Metric(
        name="efc_publications",
        kind=Kind.GAUGE,
        section=Section.NODE,
        help="Target paths at which volumes are published on this node, one for each pod and volume.",
    ),
    Metric(
        name="efc_volume_publications",
        kind=Kind.GAUGE,
        section=Section.NODE,
        labels=("dataset", "volume_id"),
        stability=Stability.BETA,
        help="Target paths at which a volume is published on this node. The label `dataset` says which dataset, and so "
        "which daemon, the volume uses.",
    ),
    Metric(
        name="efc_operations_in_flight",
        kind=Kind.GAUGE,
        section=Section.NODE,
        help="NodePublishVolume and NodeUnpublishVolume operations in progress, including those whose caller has given "
        "up.",
    ),
    Metric(
        name="efc_dead_mounts_total",
        kind=Kind.COUNTER,
        section=Section.NODE,
        labels=("result",),
        stability=Stability.BETA,
        help="Dead mounts (without any process that serves them) in containers and on the node: mounts that were "
        "`replaced`, and attempts that `failed`.",
    ),
    Metric(
        name="efc_nas_operations_total",
        kind=Kind.COUNTER,
        section=Section.CONTROLLER,
        labels=("operation", "code"),
        help="Completed steps of provisioning on the NAS (commands of efc-fs), by gRPC status code.",
    ),
    Metric(
        name="efc_nas_operation_duration_seconds",
        kind=Kind.HISTOGRAM,
        section=Section.CONTROLLER,
        unit="seconds",
        labels=("operation",),
        buckets=_CALL_SECONDS,
        help="Duration of steps of provisioning on the NAS.",
    ),
    Metric(
        name="efc_trash_entries",
        kind=Kind.GAUGE,
        section=Section.CONTROLLER,
        labels=("source",),
        help="Directories of deleted volumes that wait for removal, as counted at the last deletion or at the "
        "controller's start.",
    ),
    Metric(
        name="efc_operator_leads",
        kind=Kind.GAUGE,
        section=Section.OPERATOR,
        stability=Stability.BETA,
        help="1 if this operator is the leader: it serves Datasets, and has the metrics of Datasets below. 0 if it "
        "waits for the leader to end. Missing where Datasets are off.",
    ),
    Metric(
        name="efc_operator_api_requests_total",
        kind=Kind.COUNTER,
        section=Section.OPERATOR,
        stability=Stability.BETA,
        help="Requests of this operator to the Kubernetes API for Datasets, including watches and the Lease.",
    ),
    _object(
        "phase",
        "1 for the phase that the Dataset is in (`NotBound`, `Bound`, `Updating`, `Failed`), 0 for the others.",
        labels=("phase",),
    ),
    _object("ready", "1 if the condition Ready is True: pods can use the Dataset."),
    _object(
        "source_reachable",
        "1 if the driver can reach the NAS and open the directories that the Dataset names, else 0; missing until "
        "that was first checked.",
    ),
    _object(
        "size_bytes",
        "Sum of the sizes of all regular files, column UFS TOTAL SIZE. While `efc_dataset_size_known` is 0 it is "
        "the sum so far.",
        unit="bytes",
    ),
    _object("size_known", "1 once all files have been counted, condition TotalsKnown."),
    _object("files", "Number of regular files, column TOTAL FILES."),
    _object("cached_bytes", "Bytes of the Dataset at its workers, column CACHED.", unit="bytes"),
    _object("worker_cached_bytes", "Bytes of the Dataset at one worker.", unit="bytes", labels=("worker",)),
    _object(
        "cache_capacity_bytes", "Sum of the quotas of the workers that are ready, column CACHE CAPACITY.", unit="bytes"
    ),
    _object(
        "cached_ratio",
        "Cached share of the size, from 0 to 1; column CACHED PERCENTAGE. Missing until the size is known.",
    ),
    _object(
        "cache_hit_ratio",
        "Share, from 0 to 1, of the bytes read in the last 5 minutes that came from any cache; column CACHE HIT "
        "RATIO. 0 if nothing was read.",
    ),
    _object(
        "cache_local_hit_ratio",
        "Share, from 0 to 1, of the bytes read in the last 5 minutes that came from a cache of the node that read "
        "them.",
    ),
    _object(
        "cache_remote_hit_ratio", "Share, from 0 to 1, of the bytes read in the last 5 minutes that came from workers."
    ),
    *(
        _object(f"{part}_{what}", text)
        for part, where in (("masters", "Masters"), ("workers", "Workers"), ("fuses", "Nodes"))
        for what, text in {
            "desired": f"{where} on which pods use the Dataset."
            if part == "fuses"
            else f"Desired number of {where.lower()}.",
            "ready": f"{where} whose daemon serves the Dataset." if part == "fuses" else f"{where} that are ready.",
        }.items()
    ),
    Metric(
        name="efc_csi_calls_total",
        kind=Kind.COUNTER,
        section=Section.SERVICE,
        labels=("method", "code"),
        help="Completed gRPC calls, by method and status code.",
    ),
    Metric(
        name="efc_csi_call_duration_seconds",
        kind=Kind.HISTOGRAM,
        section=Section.SERVICE,
        unit="seconds",
        labels=("method",),
        buckets=_CALL_SECONDS,
        help="Duration of gRPC calls, by method.",
    ),
    Metric(
        name="efc_csi_calls_in_flight",
        kind=Kind.GAUGE,
        section=Section.SERVICE,
        help="gRPC calls in progress.",
    ),
    Metric(
        name="efc_children",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        help="Child processes of this process that exist, including hung ones.",
    ),
    Metric(
        name="efc_children_killed_total",
        kind=Kind.COUNTER,
        section=Section.PROCESS,
        labels=("program",),
        help="Child processes of this process that were killed at their deadline.",
    ),
    Metric(
        name="efc_build_info",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        labels=("version",),
        help="Always 1; the label `version` is the release of this process.",
    ),
    Metric(
        name="process_start_time_seconds",
        kind=Kind.GAUGE,
        section=Section.PROCESS,
        unit="seconds",
        help="Time at which this process started, in Unix time.",
    ),
    Metric(
        name="process_cpu_seconds_total",
        kind=Kind.COUNTER,
        section=Section.PROCESS,
        unit="seconds",
        help="User and system CPU time of this process, without that of its children and of the daemons.",
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
