"""Reconciles Datasets: has each observed when something has changed, decides, and executes the decision.

:mod:`csi.operator.datasets.looking` observes; the actions are in :mod:`csi.operator.datasets.settling` (objects),
:mod:`csi.operator.datasets.writing` (metadata, labels and statuses) and :mod:`csi.operator.datasets.events`.
"""

import asyncio
import logging
from pathlib import Path

from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.observe.exposition import Page
from csi.operator import store as stores
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import measures, paths
from csi.operator.datasets.allowed import AllowedSources
from csi.operator.datasets.decision import decide
from csi.operator.datasets.events import Events
from csi.operator.datasets.looking import Looking
from csi.operator.datasets.notes import Notes, clock
from csi.operator.datasets.preparing import PROBE_AGAIN_SECONDS
from csi.operator.datasets.probing import Prober
from csi.operator.datasets.seen import Decision, Deletion, Place, Prepared, Probe, Seen
from csi.operator.datasets.settling import Settling
from csi.operator.datasets.writing import Writing
from csi.operator.masters import Masters
from csi.operator.objects.settings import Settings
from csi.operator.store import Key, Store
from csi.operator.work_queue import WorkQueue

_LOGGER = logging.getLogger(__name__)
#: Most keys that are worked on at once.
WORKERS = 24
#: Most times that a key is decided on in a row; what is left after that waits for its turn.
_PASSES_MAX = 6
#: Datasets of which is kept what their decisions are prepared from.
_PREPARED_MAX = 64
#: How long figures that changed wait for more of them.
_GATHER_SECONDS = 1.5
_MOMENT_SECONDS = 0.2
#: How long anything else that was seen waits for more of its kind: a Dataset and its runtime are made together, and
#: Kubernetes binds a claim and its volume in four steps.
_INSTANT_SECONDS = 0.03
_ALLOWED_SECONDS = 5.0


class Reconciler:
    """All Datasets of a cluster, while this process leads."""

    def __init__(
        self, cluster: Cluster, settings: Settings, *, children: Children, allowed_sources: Path | None = None
    ) -> None:
        """``allowed_sources`` is a list (:mod:`csi.operator.datasets.allowed`); without it all sources are allowed."""
        self._cluster, self._settings = cluster, settings
        self._allowed_file = allowed_sources
        self._allowed = AllowedSources.of(allowed_sources)
        self._prober = Prober(children)
        self._queue: WorkQueue[Key] = WorkQueue()
        self._store = Store(self._changed)
        self._masters = Masters(self._figures_came)
        self._looking = Looking(cluster, self._store, self._masters, self._queue)
        self._settling = Settling(cluster, self._store, driver=settings.driver)
        self._writing = Writing(cluster, self._store, self._queue)
        self._events = Events(cluster)
        self._notes: dict[Key, Notes] = {}
        self._keys: dict[str, Key] = {}
        self._prepared: dict[Key, Prepared] = {}  # the latest last

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(stores.keep_in_step(self._store, self._cluster))
                await self._store.complete()
                _LOGGER.info("in step with the API server: %d Datasets and runtimes", len(self._store.all_keys()))
                for key in sorted(self._store.all_keys()):
                    self._queue.add(key)
                group.create_task(self._queue.run(self._work, workers=WORKERS))
                group.create_task(self._looking.own_secrets.read_again(self._notes, self._queue.add))
                group.create_task(self._read_allowed_sources_again())
        finally:
            self._masters.close()
            for notes in self._notes.values():
                if notes.probing is not None:
                    notes.probing.cancel()

    def collect(self, page: Page) -> None:
        """Puts the metrics of all Datasets that are ours on ``page``: nothing before all of them were seen once."""
        store = self._store
        if not store.is_complete() or store.rival() is not None:
            return
        for key, dataset in sorted(store.all(stores.DATASETS).items()):
            runtime = store.get(stores.RUNTIMES, key)
            if runtime is not None or not store.other_runtimes(key):
                latest = self._masters.figures.get(dataset["metadata"]["uid"])
                measures.put(page, measures.Measured(dataset=dataset, runtime=runtime, latest=latest))

    async def _read_allowed_sources_again(self) -> None:
        """Reads the list again and again: kubelet writes a ConfigMap that has changed into it."""
        while self._allowed_file is not None:
            await asyncio.sleep(_ALLOWED_SECONDS)
            if (read := AllowedSources.of(self._allowed_file)) != self._allowed:
                _LOGGER.info("the list of allowed sources has changed: %s", read.reason or "all of it can be read")
                self._allowed = read
                for key in sorted(self._store.all_keys()):
                    self._queue.add(key)

    # ------------------------------------------------------------ one key

    async def _work(self, key: Key) -> None:
        if not self._concerns(key):
            self._drop(key)
            return
        for _ in range(_PASSES_MAX):
            seen = await self._look(key)
            decision = decide(seen, self._settings)
            self._keep_prepared(key, decision.prepared)
            changed = await self._carry_out(key, seen, decision)
            if decision.again_seconds is not None:
                self._queue.add_later(key, decision.again_seconds)
            if not changed:
                return
        self._queue.add_later(key, 0.2)

    async def _look(self, key: Key) -> Seen:
        dataset, runtime = self._store.get(stores.DATASETS, key), self._store.get(stores.RUNTIMES, key)
        notes = self._noted(key, dataset, runtime)
        return await self._looking.look(key, notes, allowed=self._allowed, prepared=self._prepared.get(key))

    def _noted(self, key: Key, dataset: Json | None, runtime: Json | None) -> Notes:
        """The notes of this Dataset with this runtime: of others of the same name nothing is kept.

        Either may be made anew so soon that it was never seen to be gone.
        """
        uid, runtime_uid = (one["metadata"]["uid"] if one is not None else "" for one in (dataset, runtime))
        notes = self._notes.get(key)
        if notes is None or (notes.uid, notes.runtime_uid) != (uid, runtime_uid) or runtime is None:
            if notes is not None:
                self._forget(notes)
            notes = self._notes[key] = Notes(uid=uid, runtime_uid=runtime_uid)
            if uid:
                self._keys[uid] = key
        return notes

    def _keep_prepared(self, key: Key, prepared: Prepared | None) -> None:
        """Of those that were decided on last; others rest, and it would be as large as the objects that are watched."""
        self._prepared.pop(key, None)
        if prepared is not None:
            self._prepared[key] = prepared
        if len(self._prepared) > _PREPARED_MAX:
            del self._prepared[next(iter(self._prepared))]

    def _concerns(self, key: Key) -> bool:
        store = self._store
        return bool(store.get(stores.DATASETS, key) or store.get(stores.RUNTIMES, key) or store.volumes(key))

    def _drop(self, key: Key) -> None:
        notes = self._notes.pop(key, None)
        self._prepared.pop(key, None)
        self._queue.forget(key)
        if notes is not None:
            self._forget(notes)

    def _forget(self, notes: Notes) -> None:
        if notes.probing is not None:
            notes.probing.cancel()
        if notes.uid:
            self._masters.forget(notes.uid)
            self._keys.pop(notes.uid, None)

    # ------------------------------------------------------------ what has come

    def _changed(self, resource: str, key: Key) -> None:
        """Something was seen, of which more comes in an instant; of pods and what they belong to, in a moment."""
        is_slow = resource in (stores.PODS, stores.STATEFUL_SETS, stores.SERVICES)
        self._queue.add_later(key, _MOMENT_SECONDS if is_slow else _INSTANT_SECONDS)

    def _figures_came(self, uid: str, is_urgent: bool) -> None:  # noqa: FBT001  # called back with both
        key = self._keys.get(uid)
        if key is None:
            return
        if is_urgent:
            self._queue.add(key)
        else:
            # While data is read they change each second; they are written every few.
            self._queue.add_later(key, _GATHER_SECONDS)

    # ------------------------------------------------------------ doing

    async def _carry_out(self, key: Key, seen: Seen, decision: Decision) -> bool:
        """Whether something was done after which the decision may be another one."""
        changed = False
        for metadata in (decision.dataset_metadata, decision.runtime_metadata):
            try:
                changed |= metadata is not None and await self._writing.write_metadata(metadata)
            except DriverError as error:
                if error.code is not Code.ABORTED:
                    raise
                return False  # decided of what has gone: the watch says so, and then there is another decision
        notes = self._notes[key]
        if decision.objects:
            changed |= await self._settling.settle(notes, seen, decision.objects)
        for deletion in decision.deletions:
            await self._delete(seen, deletion)
        for name, labels in decision.labels:
            await self._writing.write_labels(name, labels)
        self._instruct(notes, decision)
        if decision.probe is not None:
            self._probe(key, notes, decision.probe)
        if not changed:
            # Otherwise the next decision, in a moment, says more.
            for event in decision.events:
                await self._events.post(event)
            await self._writing.write_statuses(notes, seen, decision)
        return changed

    async def _delete(self, seen: Seen, deletion: Deletion) -> None:
        """Has an object deleted; that somebody's policy refuses it is said to those who wait for it."""
        try:
            path = paths.OF_RESOURCE[deletion.resource].path(deletion.name)
            await self._cluster.delete(path, uid=deletion.uid)
        except DriverError as error:
            if error.code in (Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT):
                await self._events.post_refusal(seen, error.message)
            raise

    def _instruct(self, notes: Notes, decision: Decision) -> None:
        if not notes.uid:
            return
        notes.source = decision.source
        if decision.forget is not None:
            self._masters.forget(notes.uid)
        else:
            self._masters.set(notes.uid, decision.master)

    def _probe(self, key: Key, notes: Notes, place: Place) -> None:
        """Has a source tried, and the key looked at when that is known."""
        if notes.probing is not None and not notes.probing.done():
            return
        is_same = notes.probe is not None and notes.probe.source == place.source
        delay = max(0.0, notes.probe_at + PROBE_AGAIN_SECONDS - clock()) if is_same else 0.0

        async def look() -> None:
            await asyncio.sleep(delay)
            reason = await self._prober.reason(place, namespace=key[0])
            notes.probe, notes.probe_at, notes.is_masters = Probe(source=place.source, reason=reason), clock(), False
            self._queue.add(key)

        notes.probing = asyncio.create_task(look())
