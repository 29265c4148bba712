"""Creates the objects of a Dataset, and updates those that differ from their desired state.

Objects of others are never touched. A name that is taken, and whatever the API server refuses, is noted for the next
decision, and retried after a while.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from csi.base.errors import Code, DriverError
from csi.operator.cluster import FIELD_MANAGER, Cluster, Json
from csi.operator.datasets import paths
from csi.operator.datasets.differences import is_as_wanted
from csi.operator.datasets.notes import Notes, clock
from csi.operator.datasets.own_secrets import secret_of, with_secret, without_secret
from csi.operator.datasets.preparing import PROBE_AGAIN_SECONDS
from csi.operator.datasets.seen import Secrets, Seen
from csi.operator.names import APPLIED_ANNOTATION, Names, is_our_volume, is_owned
from csi.operator.store import Store


class Settling:
    """Objects as they are wanted; ``driver`` is the name in our PersistentVolumes."""

    def __init__(self, cluster: Cluster, store: Store, *, driver: str) -> None:
        self._cluster, self._store, self._driver = cluster, store, driver

    async def settle(self, notes: Notes, seen: Seen, wanted: Sequence[Json]) -> bool:
        """Whether one of them is another one now; raises DriverError if the API server does not answer."""
        return any(await asyncio.gather(*(self._settle(notes, seen, one) for one in wanted)))

    async def _settle(self, notes: Notes, seen: Seen, wanted: Json) -> bool:
        """Makes or changes one object; whether it is another one now."""
        kind, label = paths.KINDS[wanted["kind"]], paths.label_of(wanted)
        found = self._present(notes, seen, kind, wanted)
        if found is None and _was_there(seen, kind, wanted):
            return False  # it has gone since this was decided: the watch says so, and then there is another decision
        if found is None:
            return await self._create(notes, seen, kind, label, wanted)
        notes.taken.pop(label, None)
        if found["metadata"].get("deletionTimestamp"):
            return False
        settled = (str(found["metadata"]["resourceVersion"]), wanted["metadata"]["annotations"][APPLIED_ANNOTATION])
        if notes.settled.get(label) == settled or is_as_wanted(found, wanted):
            notes.refused.pop(label, None)
            notes.tried_at.pop(label, None)
            notes.settled[label] = settled
            return False
        mark = (_hash(wanted), str(found["metadata"]["resourceVersion"]))
        if notes.tried.get(label) == mark or not self._is_turn(notes, label):
            return False  # the API server writes it otherwise than we do: once is enough
        return await self._renew(notes, seen, kind, wanted, found)

    async def _renew(self, notes: Notes, seen: Seen, kind: paths.Kind, wanted: Json, found: Json) -> bool:
        """Changes an object that is otherwise than it is wanted; whether it is another one now."""
        label, version = paths.label_of(wanted), str(found["metadata"]["resourceVersion"])
        try:
            answer = await self._change(notes, label, kind, wanted, uid=found["metadata"]["uid"])
        except DriverError as error:
            if error.code is not Code.ABORTED:
                raise
            return self._forget(notes, seen, kind, wanted)
        if answer is None:
            return False
        notes.tried[label] = (_hash(wanted), str(answer["metadata"]["resourceVersion"]))
        self._note_object(notes, seen, kind, answer)
        return bool(answer["metadata"]["resourceVersion"] != version)

    def _present(self, notes: Notes, seen: Seen, kind: paths.Kind, wanted: Json) -> Json | None:
        if kind is paths.SECRET:
            return secret_of(notes.secrets or Secrets(), wanted["metadata"]["name"], seen)
        return self._store.get(kind.resource, (wanted["metadata"].get("namespace", ""), wanted["metadata"]["name"]))

    def _is_turn(self, notes: Notes, label: str) -> bool:
        """Whether an object that was refused may be tried again."""
        if label not in notes.refused and label not in notes.taken:
            return True
        return clock() - notes.tried_at.get(label, float("-inf")) > PROBE_AGAIN_SECONDS

    async def _create(self, notes: Notes, seen: Seen, kind: paths.Kind, label: str, wanted: Json) -> bool:
        if not self._is_turn(notes, label):
            return False
        name = (wanted["metadata"].get("namespace", ""), wanted["metadata"]["name"])
        if kind is paths.VOLUME and (changed := await self._claim_taken(notes, seen)) is not None:
            return changed
        notes.tried_at[label] = clock()
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
                return _note_taken(notes, label)
            answer = found
        notes.refused.pop(label, None)
        notes.taken.pop(label, None)
        notes.tried_at.pop(label, None)
        self._note_object(notes, seen, kind, answer)
        return True

    async def _claim_taken(self, notes: Notes, seen: Seen) -> bool | None:
        """Whether it is news that the claim is somebody else's, to whom the volume would be bound; None: it is free."""
        label = f"PersistentVolumeClaim/{seen.name[1]}"
        found = None if seen.claim is not None else await self._cluster.get(paths.CLAIM.path(seen.name))
        if found is None or self._is_ours(seen, paths.CLAIM, found):
            notes.taken.pop(label, None)
            return None
        return _note_taken(notes, label)

    def _is_ours(self, seen: Seen, kind: paths.Kind, found: Json) -> bool:
        if seen.runtime is None or seen.dataset is None:
            return False
        if kind is paths.VOLUME:
            names = Names(namespace=seen.name[0], name=seen.name[1], uid=seen.dataset["metadata"]["uid"])
            return is_our_volume(found, names, driver=self._driver)
        owner = _Owner(uid=seen.runtime["metadata"]["uid"])
        return is_owned(found["metadata"], owner)  # type: ignore[arg-type]

    def _refused(self, notes: Notes, label: str, error: DriverError) -> bool:
        if error.code not in (Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT, Code.NOT_FOUND):
            raise error
        words = _words_of(error)
        changed = notes.refused.get(label) != words
        notes.refused[label] = words
        return changed

    async def _change(self, notes: Notes, label: str, kind: paths.Kind, wanted: Json, *, uid: str) -> Json | None:
        """Server-side apply, of what this program made by creation as well; None if it was refused.

        Raises ABORTED if it is not there any more, or another one.
        """
        path = kind.path((wanted["metadata"].get("namespace", ""), wanted["metadata"]["name"]))
        notes.tried_at[label] = clock()
        found = await self._cluster.get(path)
        if found is None or found["metadata"]["uid"] != uid:
            raise DriverError(Code.ABORTED, f"{label} has gone")
        await self._take_over_fields(path, found)
        try:
            return await self._cluster.apply(path, {**wanted, "metadata": {**wanted["metadata"], "uid": uid}})
        except DriverError as error:
            self._refused(notes, label, error)
            return None

    async def _take_over_fields(self, path: str, found: Json) -> None:
        """Has the fields that were set by creating the object count as applied, so that they can be taken off again."""
        entries = found["metadata"].get("managedFields") or []
        is_created = [
            entry.get("manager") == FIELD_MANAGER
            and entry.get("operation") == "Update"
            and not entry.get("subresource")
            for entry in entries
        ]
        if any(is_created) and not any(
            entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply" for entry in entries
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

    def _note_object(self, notes: Notes, seen: Seen, kind: paths.Kind, answer: Json) -> None:
        if kind is not paths.SECRET:
            self._store.saw(kind.resource, answer)
            return
        notes.secrets = with_secret(notes.secrets or Secrets(), answer, seen)

    def _forget(self, notes: Notes, seen: Seen, kind: paths.Kind, wanted: Json) -> bool:
        """What is not there any more is no more known; whether that is news: of all but Secrets the watches say it."""
        if kind is not paths.SECRET:
            return False
        notes.secrets = without_secret(notes.secrets or Secrets(), wanted["metadata"]["name"], seen)
        return True


@dataclass(frozen=True)
class _Owner:
    uid: str


def _was_there(seen: Seen, kind: paths.Kind, wanted: Json) -> bool:
    """Whether the decision was made of an object of this name that was there, Secrets apart, which are not watched."""
    there = {
        paths.SERVICE: (seen.service,),
        paths.STATEFUL_SET: (seen.master, seen.workers),
        paths.CLAIM: (seen.claim,),
        paths.VOLUME: seen.volumes,
    }
    name = wanted["metadata"]["name"]
    return any(one is not None and one["metadata"]["name"] == name for one in there.get(kind, ()))


def _note_taken(notes: Notes, label: str) -> bool:
    """Notes that the name of an object is taken; whether that is news."""
    kind, _, name = label.partition("/")
    words = f"{kind} {name!r} exists already, and is somebody else's: delete or rename it"
    is_news = notes.taken.get(label) != words
    notes.taken[label] = words
    return is_news


def _hash(wanted: Json) -> str:
    return hashlib.sha256(repr(wanted).encode()).hexdigest()


def _words_of(error: DriverError) -> str:
    """The API server's words without ours before them."""
    return error.message.partition(": ")[2] or error.message
