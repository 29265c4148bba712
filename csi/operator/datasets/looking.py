"""Observes one Dataset: what the watches show, and what has to be requested from the API server beside them.

Results of such requests are kept for a while in the Dataset's notes; the key is queued again when they expire.
"""

import base64
import binascii
import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from csi.api.dataset import Dataset
from csi.api.sources import secrets_of
from csi.base.errors import Code, DriverError
from csi.operator import store as stores
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import origins, paths
from csi.operator.datasets.allowed import AllowedSources
from csi.operator.datasets.notes import Notes, clock
from csi.operator.datasets.own_secrets import OwnSecrets
from csi.operator.datasets.seen import Figures, Origin, Prepared, Secrets, Seen
from csi.operator.masters import Masters
from csi.operator.names import Names
from csi.operator.store import Key, Store
from csi.operator.work_queue import WorkQueue

#: How old what was read of users' Secrets and claims may be.
_USERS_SECONDS = 25.0
#: How long the words of Kubernetes about pods that it does not make are good for.
_WORDS_SECONDS = 5.0
_CRDS_SECONDS = 600.0
_OPENAPI = "/openapi/v3/apis/data.fluid.io/v1alpha1"


class Looking:
    """From watches, masters and requests to what a decision is made from."""

    def __init__(self, cluster: Cluster, store: Store, masters: Masters, queue: WorkQueue[Key]) -> None:
        self._cluster, self._store, self._masters, self._queue = cluster, store, masters, queue
        self.own_secrets = OwnSecrets(cluster)
        self._crds: tuple[float, bool] = (float("-inf"), True)

    async def look(self, key: Key, notes: Notes, *, allowed: AllowedSources, prepared: Prepared | None) -> Seen:
        """All that is known of a key now; raises DriverError if the API server does not answer."""
        store = self._store
        dataset, runtime = store.get(stores.DATASETS, key), store.get(stores.RUNTIMES, key)
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
            "prepared": prepared,
        }
        if dataset is not None and runtime is not None:
            seen |= await self._of_both(key, notes, dataset, allowed)
        if dataset is not None or runtime is not None:
            seen["crds_are_ours"] = await self._crds_are_ours()
        return Seen(**seen)

    async def _of_both(self, key: Key, notes: Notes, dataset: Json, allowed: AllowedSources) -> dict[str, Any]:
        """Of a Dataset that has its runtime: what it is made of, and what was told and asked about it."""
        store = self._store
        names = Names(namespace=key[0], name=key[1], uid=dataset["metadata"]["uid"])
        service = store.get(stores.SERVICES, (key[0], names.master))
        workers = store.get(stores.STATEFUL_SETS, (key[0], names.workers))
        master = store.get(stores.STATEFUL_SETS, (key[0], names.master))
        model = _model(dataset)
        figures = self._masters.figures.get(names.uid)
        connected = self._masters.is_connected(names.uid)
        if connected:
            notes.note_source(figures)
        return {
            "service": service,
            "master": master,
            "workers": workers,
            # A label can be anybody's: pods of ours are in the Dataset's namespace.
            "pods": tuple(pod for pod in store.pods(names.uid) if pod["metadata"]["namespace"] == key[0]),
            "secrets": await self._secrets(notes, names, are_fresh=service is None),
            "options": await self._options(notes, model),
            "origin": await self._origin(notes, model),
            "allowed": allowed,
            "probe": notes.probe,
            "figures": Figures(latest=figures, connected=connected),
            "refused": dict(notes.refused),
            "taken": dict(notes.taken),
            "pods_refused": await self._words(notes, key, (master, workers)),
        }

    async def _secrets(self, notes: Notes, names: Names, *, are_fresh: bool) -> Secrets:
        """Ours as last read. Before there is a Service none of them has been made, unless making it says otherwise."""
        if notes.secrets is None:
            notes.secrets = Secrets() if are_fresh else await self.own_secrets.read(names)
            notes.secrets_at = clock()
        return notes.secrets

    async def _options(self, notes: Notes, dataset: Dataset | None) -> dict[str, dict[str, str]]:
        try:
            names = secrets_of(dataset) if dataset is not None else frozenset()
        except DriverError:
            return {}  # the decision says so
        if not names or dataset is None:
            return {}
        if clock() - notes.options_at >= _USERS_SECONDS or not names <= {*notes.options}:
            known, notes.options, notes.options_versions = notes.options_versions, {}, {}
            for name in sorted(names):
                path = paths.SECRET.path((dataset.metadata.namespace, name))
                found = await self._cluster.get(path, not_older_than=known.get(name, ""))
                if found is not None:
                    notes.options[name] = _decoded(found)
                    notes.options_versions[name] = str(found["metadata"]["resourceVersion"])
            notes.options_at = clock()
        self._queue.add_later((dataset.metadata.namespace, dataset.metadata.name), _USERS_SECONDS + 1)
        return notes.options

    async def _origin(self, notes: Notes, dataset: Dataset | None) -> Origin | None:
        if dataset is None:
            return None
        point = "\n".join(repr((one.mount_point, one.path, one.name, one.read_only)) for one in dataset.spec.mounts)
        is_claim = any(mount.mount_point.startswith("pvc://") for mount in dataset.spec.mounts)
        if (
            notes.origin is None
            or notes.mount_point != point
            or (is_claim and clock() - notes.origin_at > _USERS_SECONDS)
        ):
            try:
                notes.origin = Origin(source=await origins.source(self._cluster, dataset))
            except DriverError as error:
                if error.code is Code.UNAVAILABLE:
                    raise
                notes.origin = Origin(reason=error.message)
            notes.mount_point, notes.origin_at = point, clock()
        return notes.origin

    async def _words(self, notes: Notes, key: Key, sets: tuple[Json | None, ...]) -> dict[str, str]:
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
            if clock() - at > _WORDS_SECONDS:
                # Pods are made in a moment; only what stays without them has something to say.
                words = "" if at == float("-inf") else await self._failed_create(key[0], one["metadata"]["uid"])
                notes.words[name] = (clock(), words)
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
        if clock() - at > _CRDS_SECONDS:
            self._crds = (clock(), ours)
            found = await self._cluster.get(_OPENAPI)
            schemas = ((found or {}).get("components") or {}).get("schemas") or {}
            fields = [
                (schema.get("properties") or {}).get("status", {}).get("properties") or {}
                for name, schema in schemas.items()
                if name.endswith(".v1alpha1.Dataset")
            ]
            ours = bool(fields) and "observedGeneration" in fields[0]
            self._crds = (clock(), ours)
        return ours


def _model(dataset: Json) -> Dataset | None:
    try:
        return Dataset.model_validate(dataset)
    except ValidationError:
        return None


def _decoded(secret: Json) -> dict[str, str]:
    """Keys and values of a Secret; what is no text is left out."""
    values = {}
    for name, text in (secret.get("data") or {}).items():
        try:
            values[str(name)] = base64.b64decode(text).decode().strip("\n")
        except (binascii.Error, UnicodeDecodeError):
            continue
    return values
