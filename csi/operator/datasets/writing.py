"""Writes to objects that the operator does not own: metadata and status of Datasets and runtimes, labels of pods."""

import logging
from collections.abc import Mapping
from typing import Any

from csi.api.status import DatasetStatus, RuntimeStatus
from csi.base.errors import Code, DriverError
from csi.operator import store as stores
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import paths, statuses
from csi.operator.datasets.differences import merge_patch
from csi.operator.datasets.notes import Notes, clock
from csi.operator.datasets.seen import FINALIZER, Decision, Seen
from csi.operator.store import Key, Store
from csi.operator.watching import Name, name_of
from csi.operator.work_queue import WorkQueue

_LOGGER = logging.getLogger(__name__)
#: Shortest time between two writes of figures into one object.
FIGURES_SECONDS = 5.0


class Writing:
    """What was written the store knows at once; a key whose figures may not be written yet comes again."""

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[Key]) -> None:
        self._cluster, self._store, self._queue = cluster, store, queue

    async def write_metadata(self, metadata: Json) -> bool:
        """Server-side apply of metadata alone; whether the object has changed, and is still there.

        Raises ABORTED if it had gone before: what was decided of it holds no more.
        """
        kind, name = paths.KINDS[metadata["kind"]], name_of(metadata)
        try:
            answer = await self._cluster.apply(kind.path(name), metadata)
            answer = await self._without_finalizer(kind.path(name), metadata, answer)
        except DriverError as error:
            if error.code is Code.NOT_FOUND:
                raise DriverError(Code.ABORTED, error.message) from None
            raise
        if answer["metadata"].get("deletionTimestamp") and not answer["metadata"].get("finalizers"):
            return False
        known = self._store.get(kind.resource, name)
        self._store.saw(kind.resource, answer)
        return known is None or known["metadata"]["resourceVersion"] != answer["metadata"]["resourceVersion"]

    async def write_labels(self, name: Name, labels: Mapping[str, str | None]) -> None:
        """Labels of a pod of ours: None takes one off."""
        pod = self._store.get(stores.PODS, name)
        if pod is None:
            return
        changes = {"metadata": {"uid": pod["metadata"]["uid"], "labels": dict(labels)}}
        try:
            answer = await self._cluster.merge(paths.POD.path(name), changes)
        except DriverError as error:
            if error.code not in (Code.NOT_FOUND, Code.ABORTED):
                raise
        else:
            self._store.saw(stores.PODS, answer)

    async def write_statuses(self, notes: Notes, seen: Seen, decision: Decision) -> None:
        """The statuses of Dataset and runtime, where they are others than before."""
        models: tuple[type[DatasetStatus] | type[RuntimeStatus], ...] = (DatasetStatus, RuntimeStatus)
        both = ((seen.dataset, decision.dataset_status), (seen.runtime, decision.runtime_status))
        for (found, status), kind, model in zip(both, (paths.DATASET, paths.RUNTIME), models, strict=True):
            if found is not None and status is not None:
                fields = {str(one.alias) for one in model.model_fields.values()}
                await self.write_status(notes, kind, found, wanted=status, fields=fields)

    async def write_status(
        self, notes: Notes, kind: paths.Kind, found: Json, *, wanted: Mapping[str, Any], fields: set[str]
    ) -> None:
        """Writes a status if it is another one; of ``fields`` those go that are not wanted, what others wrote stays."""
        key = name_of(found)
        kept = {name: value for name, value in (found.get("status") or {}).items() if name in fields}
        if kept == wanted:
            return
        if statuses.differs_in_figures_only(kept, wanted):
            wait = notes.figures_at.get(kind.plural, float("-inf")) + FIGURES_SECONDS - clock()
            if wait > 0:
                self._queue.add_later(key, wait)
                return
        changes = {
            "metadata": {"uid": found["metadata"]["uid"]},
            "status": merge_patch(kept, wanted),
        }
        _LOGGER.debug("%s %s/%s: %s", kind.plural, *key, changes["status"])
        notes.figures_at[kind.plural] = clock()
        try:
            answer = await self._cluster.merge(f"{kind.path(key)}/status", changes)
        except DriverError as error:
            if error.code in (Code.NOT_FOUND, Code.ABORTED):
                return
            raise
        self._store.saw(kind.resource, answer)

    async def _without_finalizer(self, path: str, applied: Json, answer: Json) -> Json:
        """Takes our finalizer off if somebody else has it, too, and applying has left it.

        It is so in a manifest that was made by ``kubectl get --output yaml``.
        """
        present = answer["metadata"].get("finalizers") or []
        if FINALIZER not in present or FINALIZER in applied["metadata"]["finalizers"]:
            return answer
        kept = {name: answer["metadata"][name] for name in ("uid", "resourceVersion")}
        left = [one for one in present if one != FINALIZER]
        return await self._cluster.merge(path, {"metadata": {**kept, "finalizers": left}})
