"""Computes the status of a Dataset and of its EFCRuntime from what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from csi._proto import dataset_pb2
from csi.api import quantities
from csi.api.dataset import Dataset, Phase, RuntimeReference
from csi.api.efcruntime import EFCRuntime
from csi.api.status import CacheStates, ConditionType, DatasetStatus, PartPhase, RuntimeStatus, WorkerCache
from csi.operator.cluster import Json
from csi.operator.datasets import conditions
from csi.operator.datasets.conditions import Said
from csi.operator.datasets.seen import Seen
from csi.operator.names import MASTER_ROLE, ROLE_LABEL, WORKER_ROLE, Names

_ENDED = ("Succeeded", "Failed")
#: Nodes that the reason of fuses names.
_NODES_NAMED_MAX = 5
#: How a runtime's reference says what it is, as Fluid has it.
_CATEGORY, _TYPE = "Accelerate", "efc"
#: Fields of a status that are figures: a change of one of them can wait.
_FIGURES = ("ufsTotal", "fileNum", "cacheStates", "workers", "fuseReason")
#: Conditions whose words are figures: how far a count has come, and what nodes say, how much a disk has free for
#: example. They may be others each second, for ever.
_WITH_FIGURES = (ConditionType.TOTALS_KNOWN, ConditionType.FUSES_READY)
#: Of the figures the one that follows from what is ready: it cannot wait.
_CAPACITY = "cacheCapacity"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Masters, workers or fuses: how many there shall be, are, and are ready; why some are not."""

    desired: int = 0
    current: int = 0
    ready: int = 0
    reason: str = ""

    @property
    def phase(self) -> PartPhase:
        """NotReady, PartialReady or Ready."""
        return PartPhase.of(ready=self.ready, desired=self.desired)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All parts of a runtime."""

    master: Part = Part()
    workers: Part = Part()
    fuses: Part = Part()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What holds for a Dataset: its phase, what is said of it, and the figures that are printed."""

    phase: Phase
    said: list[Said] = field(default_factory=list)
    ufs_total: str = ""
    file_num: str = ""
    cache: CacheStates = field(default_factory=CacheStates)


def has_ended(pod: Json) -> bool:
    """Whether a pod uses nothing any more."""
    return pod.get("phase") in _ENDED


def parts_of(seen: Seen, *, replicas: int, masters: int) -> Parts:
    """The parts as they are, of ``replicas`` workers and ``masters`` masters."""
    return Parts(
        master=_set_part(seen, seen.master, MASTER_ROLE, desired=masters),
        workers=_set_part(seen, seen.workers, WORKER_ROLE, desired=replicas),
        fuses=_fuses(seen),
    )


def _set_part(seen: Seen, stateful_set: Json | None, role: str, *, desired: int) -> Part:
    if stateful_set is None:
        return Part(desired=desired)
    pods = [pod for pod in seen.pods if pod["metadata"]["labels"].get(ROLE_LABEL) == role]
    status = stateful_set.get("status") or {}
    ready = sum(1 for pod in pods if is_ready(pod))
    waiting = [pod for pod in pods if not is_ready(pod)]
    refused = seen.pods_refused.get(stateful_set["metadata"]["name"], "")
    words = [*(pod["unschedulable"] for pod in waiting), refused, *(pod["waiting"] for pod in waiting)]
    reason = next(filter(None, words), "")
    return Part(
        desired=desired,
        current=max(int(status.get("replicas") or 0), len(pods)),
        ready=min(ready, desired),
        reason=reason if ready < desired else "",
    )


def is_ready(pod: Json) -> bool:
    """Whether a pod serves, and will go on doing so."""
    return bool(pod["ready"] and pod["address"] and not pod["metadata"].get("deletionTimestamp"))


def _fuses(seen: Seen) -> Part:
    """Nodes: desired where pods use the claim, ready where the node says that its daemon serves."""
    nodes = {pod["node"] for pod in seen.users if pod["node"] and not has_ended(pod)}
    figures = seen.figures.latest
    if figures is None:
        before = (seen.runtime or {}).get("status") or {}
        ready = int(before.get("fuseNumberReady") or 0)
        return Part(desired=len(nodes), current=min(ready, len(nodes)), ready=min(ready, len(nodes)))
    serving = {node.node for node in figures.nodes if node.serving}
    words = [
        f"{node.node}: {'; '.join(node.conditions)}" for node in figures.nodes if node.conditions and node.node in nodes
    ]
    missing = sorted(nodes - serving)
    reason = _some(words, "; ") or (f"no daemon serves yet on {_some(missing, ', ')}" if missing else "")
    return Part(desired=len(nodes), current=len(nodes), ready=len(nodes & serving), reason=reason)


def _some(of_nodes: Sequence[str], between: str) -> str:
    """What is said of the first nodes, and of how many more there is something to say: a NAS that is away is of all."""
    more = f"{between}and {len(of_nodes) - _NODES_NAMED_MAX} more nodes" if len(of_nodes) > _NODES_NAMED_MAX else ""
    return between.join(of_nodes[:_NODES_NAMED_MAX]) + more


def figures_of(seen: Seen, *, quota_bytes: int, workers: Part) -> tuple[str, str, CacheStates, Said]:
    """UFS TOTAL SIZE, TOTAL FILES, the cache's figures, and whether the totals are known.

    What no master has told since the operator began stays as it was.
    """
    before = (seen.dataset or {}).get("status") or {}
    states_before: Mapping[str, str] = before.get("cacheStates") or {}
    capacity = workers.ready * quota_bytes
    latest = seen.figures.latest
    if latest is None:
        states = _states_before(states_before, capacity)
        known = conditions.present(before, ConditionType.TOTALS_KNOWN)
        said = Said(
            type=ConditionType.TOTALS_KNOWN,
            status=known.get("status") == "True",
            reason=str(known.get("reason", "")) if known else "NotCounted",
            message=str(known.get("message", "")) if known else "the count begins when the master is ready",
        )
        return str(before.get("ufsTotal", "")), str(before.get("fileNum", "")), states, said
    total, files, said = _totals(latest.totals, before)
    cached = sum(worker.cached_bytes for worker in latest.workers)
    whole = latest.totals.bytes if latest.totals.known else 0
    read, node, remote = latest.read.total, latest.read.from_node, latest.read.from_workers
    hits = [quantities.percentage(part, read) for part in (node + remote, node, remote)]
    states = CacheStates(
        cached=quantities.size(cached),
        cache_capacity=quantities.size(capacity),
        cached_percentage=quantities.percentage(cached, whole)
        if latest.totals.known
        else states_before.get("cachedPercentage", quantities.percentage(cached, latest.totals.bytes)),
        cache_hit_ratio=hits[0],
        local_hit_ratio=hits[1],
        remote_hit_ratio=hits[2],
        cache_throughput_ratio=hits[0],
        local_throughput_ratio=hits[1],
        remote_throughput_ratio=hits[2],
    )
    return total, files, states, said


def _states_before(before: Mapping[str, str], capacity: int) -> CacheStates:
    nothing = quantities.percentage(0, 1)
    return CacheStates(
        cached=before.get("cached") or quantities.size(0),
        cache_capacity=quantities.size(capacity),
        cached_percentage=before.get("cachedPercentage") or nothing,
        cache_hit_ratio=before.get("cacheHitRatio") or nothing,
        local_hit_ratio=before.get("localHitRatio") or nothing,
        remote_hit_ratio=before.get("remoteHitRatio") or nothing,
        cache_throughput_ratio=before.get("cacheThroughputRatio") or nothing,
        local_throughput_ratio=before.get("localThroughputRatio") or nothing,
        remote_throughput_ratio=before.get("remoteThroughputRatio") or nothing,
    )


def _totals(totals: dataset_pb2.Totals, before: Mapping[str, Any]) -> tuple[str, str, Said]:
    if totals.known:
        said = Said(type=ConditionType.TOTALS_KNOWN, status=True, reason="Counted")
        return quantities.size(totals.bytes), str(totals.files), said
    counted = conditions.holds(before, ConditionType.TOTALS_KNOWN)
    if counted and before.get("ufsTotal"):
        # A new master counts anew; what was counted stands until it has done so.
        said = Said(type=ConditionType.TOTALS_KNOWN, status=True, reason="Counted")
        return str(before["ufsTotal"]), str(before.get("fileNum", "")), said
    progress = f"{totals.files} files in {totals.directories_done} directories so far"
    message = f"{totals.reason}; {progress}" if totals.reason else progress
    reason = "CountStopped" if totals.reason else "Counting"
    said = Said(type=ConditionType.TOTALS_KNOWN, status=False, reason=reason, message=message)
    return quantities.size(totals.bytes), str(totals.files), said


def dataset_status(dataset: Dataset, runtime: EFCRuntime | None, verdict: Verdict, seen: Seen) -> dict[str, Any]:
    """The status of a Dataset, as it is to be written."""
    references: tuple[RuntimeReference, ...] = ()
    if runtime is not None:
        references = (
            RuntimeReference(
                name=runtime.metadata.name,
                namespace=runtime.metadata.namespace,
                category=_CATEGORY,
                type=_TYPE,
                master_replicas=max(1, runtime.spec.master.replicas),
            ),
        )
    status = DatasetStatus(
        observed_generation=dataset.metadata.generation,
        phase=verdict.phase,
        conditions=conditions.of_dataset(verdict.said, dataset.status, now=seen.now),
        mounts=dataset.spec.mounts if runtime is not None else (),
        ufs_total=verdict.ufs_total,
        file_num=verdict.file_num,
        cache_states=verdict.cache,
        runtimes=references,
    )
    return status.written(is_ours=seen.crds_are_ours)


def runtime_status(
    runtime: EFCRuntime, seen: Seen, *, parts: Parts, said: Sequence[Said], cache: CacheStates | None = None
) -> dict[str, Any]:
    """The status of a runtime, as it is to be written."""
    selector: Mapping[str, str] = {}
    if seen.dataset is not None:
        uid = seen.dataset["metadata"]["uid"]
        selector = Names(namespace=seen.name[0], name=seen.name[1], uid=uid).selector(WORKER_ROLE)
    master, workers, fuses = parts.master, parts.workers, parts.fuses
    status = RuntimeStatus(
        observed_generation=runtime.metadata.generation,
        master_phase=master.phase,
        master_reason=conditions.short(master.reason),
        worker_phase=workers.phase,
        worker_reason=conditions.short(workers.reason),
        fuse_phase=fuses.phase,
        fuse_reason=conditions.short(fuses.reason),
        desired_master_number_scheduled=master.desired,
        current_master_number_scheduled=master.current,
        master_number_ready=master.ready,
        desired_worker_number_scheduled=workers.desired,
        current_worker_number_scheduled=workers.current,
        worker_number_ready=workers.ready,
        worker_number_available=workers.ready,
        worker_number_unavailable=workers.desired - workers.ready,
        desired_fuse_number_scheduled=fuses.desired,
        current_fuse_number_scheduled=fuses.current,
        fuse_number_ready=fuses.ready,
        fuse_number_available=fuses.ready,
        fuse_number_unavailable=fuses.desired - fuses.ready,
        conditions=conditions.of_runtime(said, runtime.status, now=seen.now),
        cache_states=cache or CacheStates(),
        workers=_workers(seen) if cache is not None and cache.cached else (),
        selector=",".join(f"{name}={value}" for name, value in sorted(selector.items())),
    )
    return status.written(is_ours=seen.crds_are_ours)


def _workers(seen: Seen) -> tuple[WorkerCache, ...]:
    """What each worker holds; what no master has told since the operator began stays as it was."""
    latest = seen.figures.latest
    if latest is None:
        before = ((seen.runtime or {}).get("status") or {}).get("workers") or ()
        return tuple(WorkerCache.model_validate(worker) for worker in before)
    return tuple(
        WorkerCache(name=worker.name, cached=quantities.size(worker.cached_bytes))
        for worker in sorted(latest.workers, key=lambda worker: worker.name)
    )


def differs_in_figures_only(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two statuses that are not equal say the same but for figures, which can wait."""
    return _without_figures(before) == _without_figures(after)


def _without_figures(status: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in status.items() if name not in _FIGURES}
    rest[_CAPACITY] = (status.get("cacheStates") or {}).get(_CAPACITY)
    rest["conditions"] = [
        {**condition, "message": "", "lastUpdateTime": "", "lastProbeTime": ""}
        if condition.get("type") in _WITH_FIGURES
        else condition
        for condition in status.get("conditions") or ()
    ]
    return rest
