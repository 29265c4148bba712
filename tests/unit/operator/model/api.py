"""An API server that is played: objects by their paths, with versions, owners and finalizers, and watches that lag.

What it does as the real one: names are taken until the last finalizer has gone, writes to another UID are refused,
what has lost its last owner is deleted, a claim is kept while a pod uses it, and bound to the volume that is meant for
it. All takes a while, which `random` decides, and each collection's watch lags by a time of its own.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster, Json, Listed
from csi.operator.datasets import paths
from csi.operator.datasets.seen import FINALIZER

_IN_USE = "kubernetes.io/pvc-protection"
_LAG_SECONDS_MAX = 0.6
_CALL_SECONDS_MAX = 0.15
_CONTROLLERS_SECONDS = 0.2
_FAILURES = 0.02
_CLAIMS, _VOLUMES, _PODS, _SERVICES = "persistentvolumeclaims", "persistentvolumes", "pods", "services"
_OPENAPI: Json = {"components": {"schemas": {"v1alpha1.Dataset": {"properties": {"status": {"properties": {
    "observedGeneration": {}}}}}}}}  # fmt: skip


def plural_of(path: str) -> str:
    """The collection that an object is in, by its path."""
    return path.split("/")[-2]


class Api(Cluster):
    """One of them; what is in ``objects`` is as it is at this moment."""

    def __init__(self, choice: random.Random, *, lag_seconds: Mapping[str, float] | None = None) -> None:
        """``lag_seconds`` of some collections' watches are not left to chance."""
        super().__init__()
        self._choice = choice
        self.objects: dict[str, dict[str, Any]] = {}
        self._version = 10
        #: By the collection: what has happened, in this order.
        self._events: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
        by_chance = {kind.plural: choice.uniform(0, _LAG_SECONDS_MAX) for kind in paths.KINDS.values()}
        self._lag_seconds = by_chance | dict(lag_seconds or {})
        self._happened = asyncio.Event()
        self._forgotten = 0
        #: Called after each change.
        self.changed: Callable[[], None] = lambda: None

    # ------------------------------------------------------------ what the operator asks for

    async def get(self, path: str, *, not_older_than: str = "") -> Json | None:
        del not_older_than
        if path.startswith("/openapi"):
            return _OPENAPI
        await self._pause()
        return copy.deepcopy(self.objects.get(path))

    async def pages(self, path: str, *, labels: str = "") -> AsyncIterator[Listed]:
        await self._pause()
        items = [
            copy.deepcopy(one)
            for name, one in self.objects.items()
            if plural_of(name) == path.rpartition("/")[2] and _has(one, labels)
        ]
        yield Listed(items=items, resource_version=str(self._version))

    async def watch(self, path: str, *, since: str, labels: str = "") -> AsyncIterator[tuple[str, Json]]:
        plural, seen = path.rpartition("/")[2], int(since)
        while True:
            if seen < self._forgotten:
                raise DriverError(Code.OUT_OF_RANGE, "too old resource version")
            for version, kind, found in [one for one in self._events.get(plural, ()) if one[0] > seen]:
                lag_seconds = self._lag_seconds.get(plural, 0.0)
                await asyncio.sleep(self._choice.uniform(lag_seconds / 2, lag_seconds))
                seen = version
                if _has(found, labels):
                    yield kind, copy.deepcopy(found)
            if seen >= self._forgotten and not any(one[0] > seen for one in self._events.get(plural, ())):
                self._happened.clear()
                await self._happened.wait()

    async def patch(self, path: str, operations: Sequence[Json]) -> bool:
        raise AssertionError((path, operations))

    async def create(self, path: str, new: Json) -> Json:
        await self._pause()
        if path.endswith("/events"):
            return new
        answer = self.made(path, new)
        await self._pause()
        return answer

    async def apply(self, path: str, wanted: Json) -> Json:
        await self._pause()
        found = self.objects.get(path)
        if found is None or found["metadata"]["uid"] != wanted["metadata"].get("uid"):
            raise DriverError(Code.ABORTED, f"{path} is another one")
        changed = _merged(found, {name: value for name, value in wanted.items() if name != "metadata"})
        metadata = changed["metadata"]
        if "finalizers" in wanted["metadata"]:
            others = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
            is_new = FINALIZER not in (metadata.get("finalizers") or ()) and wanted["metadata"]["finalizers"]
            if is_new and metadata.get("deletionTimestamp"):
                raise DriverError(Code.INVALID_ARGUMENT, "no new finalizers can be added: it is being deleted")
            metadata["finalizers"] = [*others, *wanted["metadata"]["finalizers"]]
        owners = {one["uid"]: one for one in metadata.get("ownerReferences") or ()}
        owners |= {one["uid"]: one for one in wanted["metadata"].get("ownerReferences") or ()}
        metadata["ownerReferences"] = list(owners.values())
        for name in ("labels", "annotations"):
            metadata[name] = {**(metadata.get(name) or {}), **(wanted["metadata"].get(name) or {})}
        answer = self._written(path, changed)
        await self._pause()
        return answer

    async def merge(self, path: str, changes: Json) -> Json:
        await self._pause()
        path = path.removesuffix("/status")
        if (found := self.objects.get(path)) is None:
            raise DriverError(Code.NOT_FOUND, path)
        if changes["metadata"].get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
            raise DriverError(Code.ABORTED, path)
        answer = self._written(path, _merged(found, changes))
        await self._pause()
        return answer

    async def delete(self, path: str, *, uid: str) -> None:
        await self._pause()
        found = self.objects.get(path)
        if found is not None and found["metadata"]["uid"] == uid:
            self.deleted(path)
        await self._pause()

    # ------------------------------------------------------------ what users do, at once

    def made(self, collection: str, new: Json) -> Json:
        """Makes an object; ALREADY_EXISTS."""
        path = f"{collection}/{new['metadata']['name']}"
        if path in self.objects:
            raise DriverError(Code.ALREADY_EXISTS, path)
        found = copy.deepcopy(dict(new))
        found["metadata"]["uid"] = f"00000000-0000-4000-8000-{self._version:012}"
        found["metadata"]["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found["metadata"]["generation"] = 1
        if plural_of(path) == _CLAIMS:
            found["metadata"]["finalizers"] = [_IN_USE]
        if plural_of(path) == _VOLUMES:
            found["status"] = {"phase": "Available"}
        if plural_of(path) == _SERVICES:
            found["spec"].setdefault("clusterIP", "10.96.0.7")
        return self._written(path, found, kind="ADDED")

    def deleted(self, path: str) -> None:
        """Deletes an object, or has it be deleted when its last finalizer goes."""
        if (found := self.objects.get(path)) is None or found["metadata"].get("deletionTimestamp"):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._written(path, _merged(found, {"metadata": {"deletionTimestamp": now}}))

    def changed_spec(self, path: str, spec: Json) -> None:
        """Changes an object."""
        found = self.objects[path]
        generation = found["metadata"]["generation"] + 1
        self._written(path, _merged(found, {"metadata": {"generation": generation}, "spec": spec}))

    def let_go(self, path: str) -> None:
        """Takes all finalizers off an object."""
        self._written(path, _merged(self.objects[path], {"metadata": {"finalizers": []}}))

    def forget_events(self) -> None:
        """Watches that have not seen all by now have to list anew."""
        self._events.clear()
        self._forgotten = self._version
        self._happened.set()

    def of(self, plural: str) -> dict[str, dict[str, Any]]:
        """All objects of a collection, by their paths."""
        return {path: one for path, one in self.objects.items() if plural_of(path) == plural}

    # ------------------------------------------------------------ what Kubernetes does by itself

    async def run_controllers(self) -> None:
        """Until cancelled."""
        steps: list[Callable[[], None]] = [self._collect_garbage, self._release_claims, self._bind]
        while True:
            await asyncio.sleep(self._choice.uniform(0, _CONTROLLERS_SECONDS))
            self._choice.choice(steps)()

    def _collect_garbage(self) -> None:
        there = {one["metadata"]["uid"] for one in self.objects.values()}
        for path, one in list(self.objects.items()):
            owners = [owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()]
            if owners and not there & {*owners}:
                self.deleted(path)

    def _release_claims(self) -> None:
        used = {
            volume["persistentVolumeClaim"]["claimName"]
            for pod in self.of(_PODS).values()
            for volume in pod["spec"]["volumes"]
        }
        for path, claim in self.of(_CLAIMS).items():
            if claim["metadata"].get("deletionTimestamp") and claim["metadata"]["name"] not in used:
                self.let_go(path)

    def _bind(self) -> None:
        claims = {one["metadata"]["name"]: path for path, one in self.of(_CLAIMS).items()}
        for path, volume in self.of(_VOLUMES).items():
            name, meant = volume["metadata"]["name"], volume["spec"]["claimRef"]
            claim_path = claims.get(meant["name"], "")
            claim = self.objects.get(claim_path)
            if "uid" in meant:
                is_gone = claim is None or claim["metadata"]["uid"] != meant["uid"]
                if is_gone and volume["status"]["phase"] != "Released":
                    self._written(path, _merged(volume, {"status": {"phase": "Released"}}))
            elif claim is not None and claim["spec"].get("volumeName", name) == name:
                reference = {"claimRef": {**meant, "uid": claim["metadata"]["uid"]}}
                self._written(path, _merged(volume, {"spec": reference, "status": {"phase": "Bound"}}))
                self._written(claim_path, _merged(claim, {"spec": {"volumeName": name}, "status": {"phase": "Bound"}}))

    # ------------------------------------------------------------ inside

    async def _pause(self) -> None:
        """Before and after each call, which may fail without a word whether it was executed."""
        await asyncio.sleep(self._choice.uniform(0, _CALL_SECONDS_MAX))
        if self._choice.random() < _FAILURES:
            raise DriverError(Code.UNAVAILABLE, "the API server does not answer")

    def _written(self, path: str, found: dict[str, Any], *, kind: str = "MODIFIED") -> Json:
        """Has an object as it is now, or has it go if nothing keeps it."""
        metadata = found["metadata"]
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        self.objects[path] = found
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            del self.objects[path]
            kind = "DELETED"
        event = (self._version, kind, copy.deepcopy(found))
        self._events.setdefault(plural_of(path), []).append(event)
        self._happened.set()
        self.changed()
        return copy.deepcopy(found)


def _has(found: Json, labels: str) -> bool:
    name, _, value = labels.partition("=")
    there = found["metadata"].get("labels") or {}
    return not labels or (name in there and value in ("", there[name]))


def _merged(found: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """By RFC 7386."""
    merged = copy.deepcopy(dict(found))
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged
