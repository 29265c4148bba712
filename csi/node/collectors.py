"""The metrics of a node, collected at each scrape: the keeper's report of its daemons, and the publications.

Nothing is sampled between scrapes. If the keeper misses its deadline, the page says so (efc_keeper_reachable 0) and has
everything else. The keeper waits 200 ms for the report of a daemon that hangs (efc/keeper/src/mounts.rs), and then
passes on its last one.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import attrgetter

from csi._proto import efc_pb2
from csi.base.errors import DriverError
from csi.node.keeper import Keeper, KeeperStatus, source_of
from csi.node.records import Publication
from csi.node.statistics import CACHE_LEVELS
from csi.observe.exposition import Histogram, Page
from csi.observe.metrics import LATENCY_SECONDS

#: Prometheus gives up after 10 s unless it is told otherwise.
KEEPER_SECONDS_MAX = 2.0
#: Metric -> field of DaemonStats (proto/efc.proto), where the two count in the same unit.
_STATISTICS = {
    "efc_fuse_requests_total": "fuse.requests",
    "efc_nfs_calls_total": "nfs.calls",
    "efc_nfs_retransmits_total": "nfs.retransmits",
    "efc_nfs_reconnects_total": "nfs.reconnects",
    "efc_nfs_read_bytes_total": "nfs.bytes_read",
    "efc_nfs_written_bytes_total": "nfs.bytes_written",
    "efc_nfs_spliced_bytes_total": "nfs.bytes_spliced",
    "efc_nfs_pipe_misfits_total": "nfs.pipe_misfits",
    "efc_inodes": "state.nodes",
    "efc_state_inodes_max": "state.nodes_max",
    "efc_state_inode_bytes": "metadata.node_bytes",
    "efc_metadata_max_bytes": "metadata.bytes_max",
    "efc_metadata_inode_bytes": "metadata.inode_bytes",
    "efc_metadata_name_bytes": "metadata.name_bytes",
    "efc_metadata_listing_bytes": "metadata.listing_bytes",
    "efc_open_files": "state.open_files",
    "efc_uncommitted_bytes": "state.uncommitted_bytes",
    "efc_writing_unsent_bytes": "writing.unsent_bytes",
    "efc_writing_append_overlaps_total": "writing.append_overlaps",
    "efc_writing_changes_total": "writing.changes",
    "efc_prefetch_held_bytes": "prefetch.held_bytes",
    "efc_nas_responding": "nfs.responding",
}
_MILLISECONDS = {
    "efc_daemon_uptime_seconds": "uptime_ms",
    "efc_nfs_oldest_call_age_seconds": "nfs.oldest_call_ms",
    "efc_writing_unsent_age_seconds": "writing.oldest_unsent_ms",
}
#: The same, of a dataset with caches.
_CACHE_STATISTICS = {
    "efc_cache_refused_blocks_total": "workers_refused",
    "efc_cache_workers_misses_total": "workers_misses",
    "efc_cache_workers_filled_bytes_total": "workers_filled_bytes",
    "efc_cache_workers": "workers",
    "efc_cache_workers_ready": "workers_ready",
    "efc_cache_workers_capacity_bytes": "workers_capacity_bytes",
    "efc_cache_workers_held_bytes": "workers_held_bytes",
}
#: Why a block was not put at workers -> field of CacheStats.
_WORKERS_UNFILLED = {
    reason: f"workers_unfilled_{reason}" for reason in ("overtaken", "full", "memory", "busy")
}  # fmt: skip
#: Of a dataset with a local store.
_STORE_STATISTICS = {
    "efc_store_capacity_bytes": "capacity_bytes",
    "efc_store_held_bytes": "held_bytes",
    "efc_store_files": "files",
    "efc_store_hits_total": "hits",
    "efc_store_misses_total": "misses",
    "efc_store_filled_bytes_total": "filled_bytes",
    "efc_store_evicted_bytes_total": "evicted_bytes",
    "efc_store_damaged_blocks_total": "damaged",
    "efc_store_late_answers_total": "late",
}
#: Of a dataset of whose local store the kernel may read files by itself.
_PASSTHROUGH_STATISTICS = {
    "efc_passthrough_opens_total": "opens",
    "efc_passthrough_files": "files",
}
_MICROSECONDS = 1_000_000
#: The table's buckets as daemons have them.
_BOUNDS_US = [round(bound * _MICROSECONDS) for bound in LATENCY_SECONDS]
_PREFETCH_REASONS, _PREFETCH_OUTCOMES = ("order", "directory"), ("asked", "used", "wasted")
_STORE_STATES = [pair for pair in efc_pb2.StoreStats.State.items() if pair[1] != efc_pb2.StoreStats.STATE_UNSPECIFIED]
_STATES = [pair for pair in efc_pb2.MountStatus.State.items() if pair[1] != efc_pb2.MountStatus.STATE_UNSPECIFIED]


async def put_datasets(page: Page, keeper: Keeper, *, run_dir: str) -> None:
    """The keeper and its datasets; within KEEPER_SECONDS_MAX, whatever hangs."""
    try:
        status = await keeper.status(limit_seconds=KEEPER_SECONDS_MAX)
    except DriverError:
        page.put("efc_keeper_reachable", 0)
        return
    put_status(page, status, run_dir=run_dir)


def put_status(page: Page, status: KeeperStatus, *, run_dir: str) -> None:
    """What the keeper said. A dataset mounted by hand has its target for a name: it has no key."""
    page.put("efc_keeper_reachable", 1)
    page.put("efc_keeper_info", 1, version=status.version)
    folder = f"{os.path.abspath(run_dir)}/mnt/"
    for mount in sorted(status.mounts, key=lambda mount: mount.target):
        labels = {"dataset": mount.target.removeprefix(folder), "source": source_of(mount)}
        page.put("efc_daemon_info", 1, **labels, version=mount.version)
        for name, state in _STATES:
            page.put("efc_daemon_state", state == mount.state, **labels, state=name.lower())
        page.put("efc_daemon_restarts_total", mount.restarts, **labels)
        page.put("efc_daemon_upgrades_total", mount.upgrades, **labels)
        page.put("efc_mount_created_timestamp_seconds", mount.mounted_at_unix_ms / 1000, **labels)
        if mount.HasField("stats"):
            for name, field in _STATISTICS.items():
                page.put(name, attrgetter(field)(mount.stats), **labels)
            for name, field in _MILLISECONDS.items():
                page.put(name, attrgetter(field)(mount.stats) / 1000, **labels)
            _put_latency(page, mount.stats.latency, labels)
            _put_prefetch(page, mount.stats.prefetch, labels)
            if mount.stats.HasField("cache"):
                _put_cache(page, mount.stats.cache, labels)
            if mount.stats.HasField("store"):
                _put_store(page, mount.stats.store, labels)
            if mount.stats.HasField("passthrough"):
                for name, field in _PASSTHROUGH_STATISTICS.items():
                    page.put(name, getattr(mount.stats.passthrough, field), **labels)


def _put_prefetch(page: Page, prefetch: efc_pb2.PrefetchStats, labels: Mapping[str, str]) -> None:
    for reason in _PREFETCH_REASONS:
        for outcome in _PREFETCH_OUTCOMES:
            value = getattr(prefetch, f"{reason}_{outcome}")
            page.put("efc_prefetch_files_total", value, **labels, reason=reason, outcome=outcome)


def _put_cache(page: Page, cache: efc_pb2.CacheStats, labels: Mapping[str, str]) -> None:
    for level, field in CACHE_LEVELS.items():
        page.put("efc_cache_read_bytes_total", getattr(cache, field), **labels, level=level)
        page.put("efc_cache_read_blocks_total", getattr(cache, f"{level}_blocks"), **labels, level=level)
    for reason, field in _WORKERS_UNFILLED.items():
        page.put("efc_cache_workers_unfilled_blocks_total", getattr(cache, field), **labels, reason=reason)
    for name, field in _CACHE_STATISTICS.items():
        page.put(name, getattr(cache, field), **labels)


def _put_latency(page: Page, latency: efc_pb2.LatencyStats, labels: Mapping[str, str]) -> None:
    """Nothing for a daemon that counts in other buckets than the table's: one of another release."""
    if list(latency.bounds_us) != _BOUNDS_US:
        return
    for name, histograms in (
        ("efc_latency_operation_seconds", latency.operations),
        ("efc_latency_read_seconds", latency.reads),
    ):
        for one in histograms:
            if any(one.buckets) and len(one.buckets) == len(_BOUNDS_US) + 1:
                histogram = Histogram(counts=list(one.buckets), total=one.sum_us / _MICROSECONDS)
                page.put_histogram(name, (*labels.values(), one.of), histogram)


def _put_store(page: Page, store: efc_pb2.StoreStats, labels: Mapping[str, str]) -> None:
    for name, state in _STORE_STATES:
        page.put("efc_store_state", state == store.state, **labels, state=name.lower())
    for name, field in _STORE_STATISTICS.items():
        page.put(name, getattr(store, field), **labels)
    refused = {"busy": store.refused_busy, "disk": store.refused_disk}
    refused["room"] = max(0, store.refused - sum(refused.values()))
    for reason, count in refused.items():
        page.put("efc_store_refused_blocks_total", count, **labels, reason=reason)


def put_publications(page: Page, publications: Iterable[Publication]) -> None:
    """What is, or is about to be, published on this node."""
    by_volume = Counter((publication.key, publication.volume_id) for publication in publications)
    page.put("efc_publications", by_volume.total())
    for (key, volume_id), count in sorted(by_volume.items()):
        page.put("efc_volume_publications", count, dataset=key, volume_id=volume_id)
