"""The metrics of Datasets (``efc_dataset_*``): what their columns print, as numbers.

Phase, conditions and counts are those of the status. Figures are the master's last report, to the byte; while a master
is away, they are those that the status has, to two decimals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csi._proto import dataset_pb2
from csi.api import quantities
from csi.api.dataset import Phase
from csi.api.efcruntime import EFCRuntime
from csi.api.status import ConditionStatus, ConditionType
from csi.base.errors import DriverError
from csi.observe.exposition import Page
from csi.operator.cluster import Json
from csi.operator.datasets import conditions
from csi.operator.objects.levels import cache_of

#: Of the runtime's status: what is counted of each part, as the fields' names begin.
_PARTS = {"masters": "master", "workers": "worker", "fuses": "fuse"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One Dataset, its EFCRuntime if it has one, and what its master told last."""

    dataset: Json
    runtime: Json | None
    latest: dataset_pb2.Figures | None


def put(page: Page, one: Measured) -> None:
    """Puts a Dataset's samples on ``page``; what is not known, or blank in the columns, has none."""
    metadata, status = one.dataset["metadata"], one.dataset.get("status") or {}
    samples = _Samples(page, namespace=metadata["namespace"], name=metadata["name"])
    phase = str(status.get("phase") or Phase.NOT_BOUND)
    for known in Phase:
        samples.put("phase", known == phase, phase=known)
    samples.put("ready", conditions.holds(status, ConditionType.READY))
    if reachable := conditions.present(status, ConditionType.SOURCE_REACHABLE):
        samples.put("source_reachable", reachable.get("status") == ConditionStatus.TRUE)
    if one.runtime is not None:
        counts = one.runtime.get("status") or {}
        for part, field in _PARTS.items():
            samples.put(f"{part}_desired", int(counts.get(f"desired{field.title()}NumberScheduled") or 0))
            samples.put(f"{part}_ready", int(counts.get(f"{field}NumberReady") or 0))
        if phase != Phase.NOT_BOUND:
            _put_figures(samples, status, one.runtime, one.latest)


class _Samples:
    """Samples of one Dataset; None is no sample."""

    def __init__(self, page: Page, *, namespace: str, name: str) -> None:
        self._page, self._labels = page, {"dataset_namespace": namespace, "dataset_name": name}

    def put(self, name: str, value: float | None, **labels: str) -> None:
        if value is not None:
            self._page.put(f"efc_dataset_{name}", value, **self._labels, **labels)


def _put_figures(
    samples: _Samples, status: Mapping[str, Any], runtime: Json, latest: dataset_pb2.Figures | None
) -> None:
    printed: Mapping[str, str] = status.get("cacheStates") or {}
    known = conditions.holds(status, ConditionType.TOTALS_KNOWN)
    size = quantities.size_of(status.get("ufsTotal", ""))
    files = int(text) if (text := str(status.get("fileNum", ""))).isdecimal() else None
    cached = quantities.size_of(printed.get("cached", ""))
    hits = [quantities.ratio_of(printed.get(name, "")) for name in ("cacheHitRatio", "localHitRatio", "remoteHitRatio")]
    if latest is not None:
        if latest.totals.known or not known:
            # A new master counts anew; what was counted before stands until it has done so.
            size, files, known = latest.totals.bytes, latest.totals.files, latest.totals.known
        cached = sum(worker.cached_bytes for worker in latest.workers)
        read, node, remote = latest.read.total, latest.read.from_node, latest.read.from_workers
        hits = [min(1.0, part / read) if read else 0.0 for part in (node + remote, node, remote)]
        for worker in latest.workers:
            samples.put("worker_cached_bytes", worker.cached_bytes, worker=worker.name)
    samples.put("size_bytes", size)
    samples.put("size_known", known)
    samples.put("files", files)
    samples.put("cached_bytes", cached)
    samples.put("cache_capacity_bytes", _capacity(runtime, printed))
    if known and cached is not None:
        # Of what was counted so far it would be too much.
        samples.put("cached_ratio", min(1.0, cached / size) if size else 0)
    for name, value in zip(("", "local_", "remote_"), hits, strict=True):
        samples.put(f"cache_{name}hit_ratio", value)


def _capacity(runtime: Json, printed: Mapping[str, str]) -> int | None:
    """Quota of the ready workers; of a runtime that makes no sense what was printed before it did not."""
    ready = int((runtime.get("status") or {}).get("workerNumberReady") or 0)
    try:
        return ready * cache_of(EFCRuntime.model_validate(runtime)).quota_bytes
    except (DriverError, ValueError):
        return quantities.size_of(printed.get("cacheCapacity", ""))
