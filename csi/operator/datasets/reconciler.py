"""Carries decisions out: reads what no watch shows, writes what was decided, and looks again when something changed."""

import asyncio
import base64
import binascii
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from csi._proto import dataset_pb2
from csi.api.dataset import Dataset
from csi.api.sources import secrets_of
from csi.api.status import DatasetStatus, RuntimeStatus
from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.observe.exposition import Page
from csi.operator import store as stores
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import measures, origins, paths, statuses
from csi.operator.datasets.allowed import AllowedSources
from csi.operator.datasets.decision import decide
from csi.operator.datasets.differences import is_as_wanted
from csi.operator.datasets.preparing import PROBE_AGAIN_SECONDS
from csi.operator.datasets.probing import Prober
from csi.operator.datasets.seen import (
    FINALIZER,
    Decision,
    Event,
    Figures,
    Origin,
    Place,
    Prepared,
    Probe,
    Secrets,
    Seen,
)
from csi.operator.masters import Masters
from csi.operator.names import APPLIED_ANNOTATION, UID_LABEL, Names, is_our_volume, is_owned
from csi.operator.objects.settings import Settings
from csi.operator.store import Key, Store
from csi.operator.watching import name_of
from csi.operator.work_queue import WorkQueue

_LOGGER = logging.getLogger(__name__)
#: Most keys that are worked on at once.
WORKERS = 24
#: Most times that a key is decided on in a row; what is left after that waits for its turn.
_PASSES_MAX = 6
#: Datasets of which is kept what their decisions are prepared from.
_PREPARED_MAX = 64
#: Shortest time between two writes of figures into one object.
FIGURES_SECONDS = 5.0
#: How long figures that changed wait for more of them.
_GATHER_SECONDS = 1.5
_MOMENT_SECONDS = 0.2
#: How long anything else that was seen waits for more of its kind: a Dataset and its runtime are made together, and
#: Kubernetes binds a claim and its volume in four steps.
_INSTANT_SECONDS = 0.03
#: How old what was read of users' Secrets and claims may be.
_USERS_SECONDS = 25.0
#: How many Secrets of ours are read again in a second, over all Datasets, and how often each at most.
_SECRETS_PER_SECOND = 3.0
_SECRETS_SECONDS_MIN = 20.0
#: How long the words of Kubernetes about pods that it does not make are good for.
_WORDS_SECONDS = 5.0
_CRDS_SECONDS = 600.0
_ALLOWED_SECONDS = 5.0
_OPENAPI = "/openapi/v3/apis/data.fluid.io/v1alpha1"
_EVENT_MESSAGE_MAX = 1024
_EVENTS_REMEMBERED_MAX = 20_000
_SOURCE = "efc-operator"


@dataclass(kw_only=True)
class _Notes:
    """What is remembered of one key beside what the watches show; lost with the process, and found again."""

    uid: str = ""
    secrets: Secrets | None = None
    secrets_at: float = 0.0
    options: dict[str, dict[str, str]] = field(default_factory=dict)
    options_at: float = float("-inf")
    mount_point: str | None = None
    #: The source in force, as last decided.
    source: str = ""
    origin: Origin | None = None
    origin_at: float = float("-inf")
    probe: Probe | None = None
    probe_at: float = float("-inf")
    #: The probe is the word of a master.
    is_masters: bool = False
    probing: asyncio.Task[None] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    tried_at: dict[str, float] = field(default_factory=dict)
    settled: dict[str, tuple[str, str]] = field(default_factory=dict)
    tried: dict[str, tuple[str, str]] = field(default_factory=dict)
    words: dict[str, tuple[float, str]] = field(default_factory=dict)
    figures_at: dict[str, float] = field(default_factory=dict)


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
        self._notes: dict[Key, _Notes] = {}
        self._keys: dict[str, Key] = {}
        self._prepared: dict[Key, Prepared] = {}  # the latest last
        self._events: set[str] = set()
        self._crds: tuple[float, bool] = (float("-inf"), True)

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
                group.create_task(self._read_secrets_again())
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

    def _forget(self, notes: _Notes) -> None:
        if notes.probing is not None:
            notes.probing.cancel()
        if notes.uid:
            self._masters.forget(notes.uid)
            self._keys.pop(notes.uid, None)

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

    # ------------------------------------------------------------ looking

    async def _look(self, key: Key) -> Seen:
        store = self._store
        dataset, runtime = store.get(stores.DATASETS, key), store.get(stores.RUNTIMES, key)
        notes = self._noted(key, dataset, runtime)
        now = datetime.now(UTC)
        seen: dict[str, Any] = {
            "name": key,
            "now": now,
            "random": os.urandom,
            "dataset": dataset,
            "runtime": runtime,
            "claim": store.get(stores.CLAIMS, key),
            "volumes": tuple(store.volumes(key)),
            "users": tuple(store.users(key)),
            "other_runtimes": tuple(store.other_runtimes(key)) if runtime is None else (),
            "rival": store.rival(),
            "prepared": self._prepared.get(key),
        }
        if dataset is not None and runtime is not None:
            names = Names(namespace=key[0], name=key[1], uid=dataset["metadata"]["uid"])
            service = store.get(stores.SERVICES, (key[0], names.master))
            workers = store.get(stores.STATEFUL_SETS, (key[0], names.workers))
            master = store.get(stores.STATEFUL_SETS, (key[0], names.master))
            model = _model(dataset)
            figures = self._masters.figures.get(names.uid)
            connected = self._masters.is_connected(names.uid)
            if connected:
                _note_source(notes, figures)
            seen |= {
                "service": service,
                "master": master,
                "workers": workers,
                # A label can be anybody's: pods of ours are in the Dataset's namespace.
                "pods": tuple(pod for pod in store.pods(names.uid) if pod["metadata"]["namespace"] == key[0]),
                "secrets": await self._secrets(notes, names, are_fresh=service is None),
                "options": await self._options(notes, model),
                "origin": await self._origin(notes, model),
                "allowed": self._allowed,
                "probe": notes.probe,
                "figures": Figures(latest=figures, connected=connected),
                "refused": dict(notes.refused),
                "taken": dict(notes.taken),
                "pods_refused": await self._words(notes, key, (master, workers)),
            }
        if dataset is not None or runtime is not None:
            seen["crds_are_ours"] = await self._crds_are_ours()
        return Seen(**seen)

    def _noted(self, key: Key, dataset: Json | None, runtime: Json | None) -> _Notes:
        """The notes of this Dataset with this runtime: of others of the same name nothing is kept."""
        uid = dataset["metadata"]["uid"] if dataset is not None else ""
        notes = self._notes.get(key)
        if notes is None or notes.uid != uid or runtime is None:
            if notes is not None:
                self._forget(notes)
            notes = self._notes[key] = _Notes(uid=uid)
            if uid:
                self._keys[uid] = key
        return notes

    async def _secrets(self, notes: _Notes, names: Names, *, are_fresh: bool) -> Secrets:
        """Ours as last read. Before there is a Service none of them has been made, unless making it says otherwise."""
        if notes.secrets is None:
            notes.secrets = Secrets() if are_fresh else await self._read_secrets(names)
            notes.secrets_at = _clock()
        return notes.secrets

    async def _read_secrets(self, names: Names) -> Secrets:
        wanted = (names.authority, names.node_secret, names.master_secret, names.worker_secret)
        found = await asyncio.gather(
            *(self._cluster.get(paths.SECRET.path((names.namespace, name))) for name in wanted)
        )
        ours = [stores.reduced(one) if one is not None and _is_labelled(one, names.uid) else None for one in found]
        return Secrets(authority=ours[0], node=ours[1], master=ours[2], worker=ours[3])

    async def _read_secrets_again(self) -> None:
        """Reads our Secrets again one by one: there is no right to watch Secrets, and few of them change."""
        while True:
            began = _clock()
            for key, notes in list(self._notes.items()):
                if notes.secrets is None or not notes.uid or _clock() - notes.secrets_at < _SECRETS_SECONDS_MIN:
                    continue
                try:
                    read = await self._read_secrets(Names(namespace=key[0], name=key[1], uid=notes.uid))
                except DriverError as error:
                    _LOGGER.warning("%s", error.message)
                    continue
                notes.secrets_at = _clock()
                if _versions(read) != _versions(notes.secrets):
                    notes.secrets = read
                    self._queue.add(key)
                await asyncio.sleep(4 / _SECRETS_PER_SECOND)
            await asyncio.sleep(max(1.0, began + 1.0 - _clock()))

    async def _read_allowed_sources_again(self) -> None:
        """Reads the list again and again: kubelet writes a ConfigMap that has changed into it."""
        while self._allowed_file is not None:
            await asyncio.sleep(_ALLOWED_SECONDS)
            if (read := AllowedSources.of(self._allowed_file)) != self._allowed:
                _LOGGER.info("the list of allowed sources has changed: %s", read.reason or "all of it can be read")
                self._allowed = read
                for key in sorted(self._store.all_keys()):
                    self._queue.add(key)

    async def _options(self, notes: _Notes, dataset: Dataset | None) -> dict[str, dict[str, str]]:
        names = secrets_of(dataset) if dataset is not None else frozenset()
        if not names or dataset is None:
            return {}
        if _clock() - notes.options_at >= _USERS_SECONDS or not names <= {*notes.options}:
            notes.options = {}
            for name in sorted(names):
                found = await self._cluster.get(paths.SECRET.path((dataset.metadata.namespace, name)))
                if found is not None:
                    notes.options[name] = _decoded(found)
            notes.options_at = _clock()
        self._queue.add_later((dataset.metadata.namespace, dataset.metadata.name), _USERS_SECONDS + 1)
        return notes.options

    async def _origin(self, notes: _Notes, dataset: Dataset | None) -> Origin | None:
        if dataset is None:
            return None
        point = "\n".join(repr((one.mount_point, one.path, one.name, one.read_only)) for one in dataset.spec.mounts)
        is_claim = any(mount.mount_point.startswith("pvc://") for mount in dataset.spec.mounts)
        if (
            notes.origin is None
            or notes.mount_point != point
            or (is_claim and _clock() - notes.origin_at > _USERS_SECONDS)
        ):
            try:
                notes.origin = Origin(source=await origins.source(self._cluster, dataset))
            except DriverError as error:
                if error.code is Code.UNAVAILABLE:
                    raise
                notes.origin = Origin(reason=error.message)
            notes.mount_point, notes.origin_at = point, _clock()
        return notes.origin

    async def _words(self, notes: _Notes, key: Key, sets: tuple[Json | None, ...]) -> dict[str, str]:
        """What Kubernetes said of StatefulSets that have fewer pods than they should."""
        found = {}
        for one in sets:
            if one is None:
                continue
            name = one["metadata"]["name"]
            if int((one.get("status") or {}).get("replicas") or 0) >= int(one["spec"].get("replicas") or 0):
                notes.words.pop(name, None)
                continue
            at, words = notes.words.get(name, (float("-inf"), ""))
            if _clock() - at > _WORDS_SECONDS:
                # Pods are made in a moment; only what stays without them has something to say.
                words = "" if at == float("-inf") else await self._failed_create(key[0], one["metadata"]["uid"])
                notes.words[name] = (_clock(), words)
                self._queue.add_later(key, 2.0 if at == float("-inf") else _WORDS_SECONDS + 1)
            if words:
                found[name] = words
        return found

    async def _failed_create(self, namespace: str, uid: str) -> str:
        selector = quote(f"involvedObject.uid={uid},reason=FailedCreate")
        listed = await self._cluster.get(f"{paths.EVENT.collection(namespace)}?fieldSelector={selector}")
        events = sorted((listed or {}).get("items") or (), key=lambda event: str(event.get("lastTimestamp") or ""))
        return str(events[-1].get("message", "")) if events else ""

    async def _crds_are_ours(self) -> bool:
        at, ours = self._crds
        if _clock() - at > _CRDS_SECONDS:
            self._crds = (_clock(), ours)
            found = await self._cluster.get(_OPENAPI)
            schemas = ((found or {}).get("components") or {}).get("schemas") or {}
            fields = [
                (schema.get("properties") or {}).get("status", {}).get("properties") or {}
                for name, schema in schemas.items()
                if name.endswith(".v1alpha1.Dataset")
            ]
            ours = bool(fields) and "observedGeneration" in fields[0]
            self._crds = (_clock(), ours)
        return ours

    # ------------------------------------------------------------ doing

    async def _carry_out(self, key: Key, seen: Seen, decision: Decision) -> bool:
        """Whether something was done after which the decision may be another one."""
        changed = False
        for metadata in (decision.dataset_metadata, decision.runtime_metadata):
            if metadata is not None:
                changed |= await self._apply_metadata(metadata)
        notes = self._notes[key]
        if decision.objects:
            done = await asyncio.gather(*(self._settle(notes, seen, one) for one in decision.objects))
            changed |= any(done)
        for deletion in decision.deletions:
            path = paths.OF_RESOURCE[deletion.resource].path(deletion.name)
            await self._cluster.delete(path, uid=deletion.uid)
        for name, labels in decision.labels:
            await self._label(name, labels)
        self._instruct(notes, decision)
        if decision.probe is not None:
            self._probe(key, notes, decision.probe)
        if not changed:
            # Otherwise the next decision, in a moment, says more.
            for event in decision.events:
                await self._post(event)
            await self._write_statuses(notes, seen, decision)
        return changed

    def _instruct(self, notes: _Notes, decision: Decision) -> None:
        if not notes.uid:
            return
        notes.source = decision.source
        if decision.forget is not None:
            self._masters.forget(notes.uid)
        else:
            self._masters.set(notes.uid, decision.master)

    async def _write_statuses(self, notes: _Notes, seen: Seen, decision: Decision) -> None:
        models: tuple[type[DatasetStatus] | type[RuntimeStatus], ...] = (DatasetStatus, RuntimeStatus)
        both = ((seen.dataset, decision.dataset_status), (seen.runtime, decision.runtime_status))
        for (found, status), kind, model in zip(both, (paths.DATASET, paths.RUNTIME), models, strict=True):
            if found is not None and status is not None:
                fields = {str(one.alias) for one in model.model_fields.values()}
                await self._write_status(notes, kind, found, wanted=status, fields=fields)

    async def _apply_metadata(self, metadata: Json) -> bool:
        kind = paths.KINDS[metadata["kind"]]
        try:
            answer = await self._cluster.apply(kind.path(name_of(metadata)), metadata)
            answer = await self._without_finalizer(kind.path(name_of(metadata)), metadata, answer)
        except DriverError as error:
            if error.code in (Code.ABORTED, Code.NOT_FOUND):
                return False  # it has gone; the watch says so
            raise
        if answer["metadata"].get("deletionTimestamp") and not answer["metadata"].get("finalizers"):
            return False
        self._store.saw(kind.resource, answer)
        return True

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

    async def _settle(self, notes: _Notes, seen: Seen, wanted: Json) -> bool:
        """Makes or changes one object; whether it is another one now."""
        kind, label = paths.KINDS[wanted["kind"]], paths.label_of(wanted)
        found = self._present(notes, seen, kind, wanted)
        if found is None:
            return await self._create(notes, seen, kind, label, wanted)
        notes.taken.pop(label, None)
        if found["metadata"].get("deletionTimestamp"):
            return False
        settled = (str(found["metadata"]["resourceVersion"]), wanted["metadata"]["annotations"][APPLIED_ANNOTATION])
        if notes.settled.get(label) == settled or is_as_wanted(found, wanted):
            notes.refused.pop(label, None)
            notes.settled[label] = settled
            return False
        mark = (_hash(wanted), str(found["metadata"]["resourceVersion"]))
        if notes.tried.get(label) == mark or not self._is_turn(notes, label):
            return False  # the API server writes it otherwise than we do: once is enough
        answer = await self._change(notes, label, kind, wanted, uid=found["metadata"]["uid"])
        if answer is None:
            return False
        notes.tried[label] = (mark[0], str(answer["metadata"]["resourceVersion"]))
        self._note_object(notes, seen, kind, wanted, answer)
        return bool(answer["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"])

    def _present(self, notes: _Notes, seen: Seen, kind: paths.Kind, wanted: Json) -> Json | None:
        if kind is paths.SECRET:
            return _secret_of(notes.secrets or Secrets(), wanted["metadata"]["name"], seen)
        return self._store.get(kind.resource, (wanted["metadata"].get("namespace", ""), wanted["metadata"]["name"]))

    def _is_turn(self, notes: _Notes, label: str) -> bool:
        """Whether an object that was refused may be tried again."""
        if label not in notes.refused and label not in notes.taken:
            return True
        return _clock() - notes.tried_at.get(label, float("-inf")) > PROBE_AGAIN_SECONDS

    async def _create(self, notes: _Notes, seen: Seen, kind: paths.Kind, label: str, wanted: Json) -> bool:
        if not self._is_turn(notes, label):
            return False
        name = (wanted["metadata"].get("namespace", ""), wanted["metadata"]["name"])
        if kind is paths.VOLUME and (changed := await self._claim_taken(notes, seen)) is not None:
            return changed
        notes.tried_at[label] = _clock()
        try:
            answer = await self._cluster.create(kind.collection(name[0]), wanted)
        except DriverError as error:
            if error.code is not Code.ALREADY_EXISTS:
                return self._refused(notes, label, error)
            found = await self._cluster.get(kind.path(name))
            if found is None:
                return True
            if not self._is_ours(seen, kind, found):
                notes.refused.pop(label, None)
                words = f"{wanted['kind']} {name[1]!r} is there already, and is somebody else's: delete or rename it"
                changed = notes.taken.get(label) != words
                notes.taken[label] = words
                return changed
            answer = found
        notes.refused.pop(label, None)
        notes.taken.pop(label, None)
        self._note_object(notes, seen, kind, wanted, answer)
        return True

    async def _claim_taken(self, notes: _Notes, seen: Seen) -> bool | None:
        """Whether it is news that the claim is somebody else's, to whom the volume would be bound; None: it is free."""
        label = f"PersistentVolumeClaim/{seen.name[1]}"
        found = None if seen.claim is not None else await self._cluster.get(paths.CLAIM.path(seen.name))
        if found is None or self._is_ours(seen, paths.CLAIM, found):
            notes.taken.pop(label, None)
            return None
        words = f"PersistentVolumeClaim {seen.name[1]!r} is there already, and is somebody else's: delete or rename it"
        changed = notes.taken.get(label) != words
        notes.taken[label] = words
        return changed

    def _is_ours(self, seen: Seen, kind: paths.Kind, found: Json) -> bool:
        if seen.runtime is None or seen.dataset is None:
            return False
        if kind is paths.VOLUME:
            names = Names(namespace=seen.name[0], name=seen.name[1], uid=seen.dataset["metadata"]["uid"])
            return is_our_volume(found, names, driver=self._settings.driver)
        owner = _Owner(uid=seen.runtime["metadata"]["uid"])
        return is_owned(found["metadata"], owner)  # type: ignore[arg-type]

    def _refused(self, notes: _Notes, label: str, error: DriverError) -> bool:
        if error.code not in (Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT, Code.NOT_FOUND):
            raise error
        words = _words_of(error)
        changed = notes.refused.get(label) != words
        notes.refused[label] = words
        return changed

    async def _change(self, notes: _Notes, label: str, kind: paths.Kind, wanted: Json, *, uid: str) -> Json | None:
        """Server-side apply, of what this program made by creation as well; None if it was refused."""
        path = kind.path((wanted["metadata"].get("namespace", ""), wanted["metadata"]["name"]))
        notes.tried_at[label] = _clock()
        found = await self._cluster.get(path)
        if found is None or found["metadata"]["uid"] != uid:
            return None
        await self._take_over_fields(path, found)
        try:
            return await self._cluster.apply(path, {**wanted, "metadata": {**wanted["metadata"], "uid": uid}})
        except DriverError as error:
            if error.code is Code.ABORTED:
                return None
            self._refused(notes, label, error)
            return None

    async def _take_over_fields(self, path: str, found: Json) -> None:
        """Has the fields that were set by creating the object count as applied, so that they can be taken off again."""
        entries = found["metadata"].get("managedFields") or []
        is_created = [
            entry.get("manager") == _SOURCE and entry.get("operation") == "Update" and not entry.get("subresource")
            for entry in entries
        ]
        if any(is_created) and not any(
            entry.get("manager") == _SOURCE and entry.get("operation") == "Apply" for entry in entries
        ):
            applied = [
                {**entry, "operation": "Apply"} if ours else entry
                for entry, ours in zip(entries, is_created, strict=True)
            ]
            version = found["metadata"]["resourceVersion"]
            await self._cluster.patch(
                path,
                [
                    {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                    {"op": "replace", "path": "/metadata/managedFields", "value": applied},
                ],
            )

    def _note_object(self, notes: _Notes, seen: Seen, kind: paths.Kind, wanted: Json, answer: Json) -> None:
        if kind is not paths.SECRET:
            self._store.saw(kind.resource, answer)
            return
        part = _part_of(wanted["metadata"]["name"], seen)
        present = notes.secrets or Secrets()
        notes.secrets = Secrets(**{**_parts(present), part: stores.reduced(answer)})

    async def _label(self, name: tuple[str, str], labels: Mapping[str, str | None]) -> None:
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

    async def _post(self, event: Event) -> None:
        """Posts an event, once: its name is that of what it says."""
        metadata = event.about["metadata"]
        text = "\n".join((metadata["uid"], event.reason, event.message))
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if digest in self._events:
            return
        if len(self._events) >= _EVENTS_REMEMBERED_MAX:
            self._events.clear()
        self._events.add(digest)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        posted = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name'][:200]}.{digest}", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "data.fluid.io/v1alpha1",
                "kind": event.kind,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:_EVENT_MESSAGE_MAX],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": _SOURCE},
            "reportingComponent": _SOURCE,
        }
        try:
            await self._cluster.create(paths.EVENT.collection(metadata["namespace"]), posted)
        except DriverError as error:
            if error.code is not Code.ALREADY_EXISTS:
                _LOGGER.info("event of %s/%s: %s", metadata["namespace"], metadata["name"], error.message)

    async def _write_status(
        self, notes: _Notes, kind: paths.Kind, found: Json, *, wanted: Mapping[str, Any], fields: set[str]
    ) -> None:
        """Writes a status if it is another one; of ``fields`` those go that are not wanted, what others wrote stays."""
        key = name_of(found)
        kept = {name: value for name, value in (found.get("status") or {}).items() if name in fields}
        if kept == wanted:
            return
        if statuses.differs_in_figures_only(kept, wanted):
            wait = notes.figures_at.get(kind.plural, float("-inf")) + FIGURES_SECONDS - _clock()
            if wait > 0:
                self._queue.add_later(key, wait)
                return
        changes = {
            "metadata": {"uid": found["metadata"]["uid"]},
            "status": _merging(kept, wanted),
        }
        _LOGGER.debug("%s %s/%s: %s", kind.plural, *key, changes["status"])
        notes.figures_at[kind.plural] = _clock()
        try:
            answer = await self._cluster.merge(f"{kind.path(key)}/status", changes)
        except DriverError as error:
            if error.code in (Code.NOT_FOUND, Code.ABORTED):
                return
            raise
        self._store.saw(kind.resource, answer)

    def _probe(self, key: Key, notes: _Notes, place: Place) -> None:
        """Has a source tried, and the key looked at when that is known."""
        if notes.probing is not None and not notes.probing.done():
            return
        is_same = notes.probe is not None and notes.probe.source == place.source
        delay = max(0.0, notes.probe_at + PROBE_AGAIN_SECONDS - _clock()) if is_same else 0.0

        async def look() -> None:
            await asyncio.sleep(delay)
            reason = await self._prober.reason(place)
            notes.probe, notes.probe_at, notes.is_masters = Probe(source=place.source, reason=reason), _clock(), False
            self._queue.add(key)

        notes.probing = asyncio.create_task(look())


@dataclass(frozen=True)
class _Owner:
    uid: str


def _note_source(notes: _Notes, figures: dataset_pb2.Figures | None) -> None:
    """What the master says of the source holds, once it has gone, until somebody has looked again."""
    source = figures.source if figures is not None else dataset_pb2.Reachability()
    if not source.known or not notes.source:
        return
    if not source.reachable:
        notes.probe, notes.is_masters = Probe(source=notes.source, reason=source.reason), True
    elif notes.is_masters:
        notes.probe, notes.is_masters = None, False


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _model(dataset: Json) -> Dataset | None:
    try:
        return Dataset.model_validate(dataset)
    except ValidationError:
        return None


def _is_labelled(found: Json, uid: str) -> bool:
    return (found["metadata"].get("labels") or {}).get(UID_LABEL) == uid


def _decoded(secret: Json) -> dict[str, str]:
    """Keys and values of a Secret; what is no text is left out."""
    values = {}
    for name, text in (secret.get("data") or {}).items():
        try:
            values[str(name)] = base64.b64decode(text).decode().strip("\n")
        except (binascii.Error, UnicodeDecodeError):
            continue
    return values


def _parts(secrets: Secrets) -> dict[str, Json | None]:
    return {
        "authority": secrets.authority,
        "node": secrets.node,
        "master": secrets.master,
        "worker": secrets.worker,
    }


def _versions(secrets: Secrets) -> list[str | None]:
    return [one["metadata"]["resourceVersion"] if one else None for one in _parts(secrets).values()]


def _part_of(name: str, seen: Seen) -> str:
    uid = seen.dataset["metadata"]["uid"] if seen.dataset is not None else ""
    names = Names(namespace=seen.name[0], name=seen.name[1], uid=uid)
    return {
        names.authority: "authority",
        names.node_secret: "node",
        names.master_secret: "master",
        names.worker_secret: "worker",
    }[name]


def _secret_of(secrets: Secrets, name: str, seen: Seen) -> Json | None:
    return _parts(secrets)[_part_of(name, seen)]


def _hash(wanted: Json) -> str:
    return hashlib.sha256(repr(wanted).encode()).hexdigest()


def _words_of(error: DriverError) -> str:
    """The API server's words without ours before them."""
    return error.message.partition(": ")[2] or error.message


def _merging(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) that makes ``wanted`` of ``before``."""
    patch: dict[str, Any] = {name: None for name in before if name not in wanted}
    for name, value in wanted.items():
        former = before.get(name)
        if isinstance(value, Mapping) and isinstance(former, Mapping):
            if inner := _merging(former, value):
                patch[name] = inner
        elif value != former:
            patch[name] = value
    return patch
