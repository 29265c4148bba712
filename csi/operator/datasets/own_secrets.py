"""The Secrets of a Dataset that the operator makes: which ones exist, and reading them again.

The operator has no right to list or watch Secrets, so it reads them by their names, one after the other: how soon it
notices a change by somebody else depends on the number of Datasets.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from csi.base.errors import DriverError
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import paths
from csi.operator.datasets.notes import Notes, clock
from csi.operator.datasets.seen import Secrets, Seen
from csi.operator.names import UID_LABEL, Names
from csi.operator.store import Key, reduced

_LOGGER = logging.getLogger(__name__)
#: How many are read again in a second, over all Datasets, and how often each at most. At rest nothing else is asked of
#: the API server. Only what somebody else does to a Secret of ours is seen by this; users' own are read elsewhere.
_PER_SECOND = 1.0
_SECONDS_MIN = 20.0


class OwnSecrets:
    """Reads them by their names."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def read(self, names: Names) -> Secrets:
        """Those of one Dataset, as they are now."""
        wanted = _names_of(names)
        found = await asyncio.gather(*(self._read(names, name) for name in wanted.values()))
        return Secrets(**dict(zip(wanted, found, strict=True)))

    async def read_again(self, all_notes: Mapping[Key, Notes], changed: Callable[[Key], None]) -> None:
        """Reads those of all Datasets until cancelled, one in each turn; ``changed`` is called with a key whose did."""
        while True:
            for key, notes in list(all_notes.items()):
                if notes.secrets is None or not notes.uid or clock() - notes.secrets_at < _SECONDS_MIN:
                    continue
                notes.secrets_at = clock()
                for part, name in _names_of(Names(namespace=key[0], name=key[1], uid=notes.uid)).items():
                    if await self._is_another(key, notes, part, name):
                        changed(key)
                    await asyncio.sleep(1 / _PER_SECOND)
            await asyncio.sleep(1.0)

    async def _is_another(self, key: Key, notes: Notes, part: str, name: str) -> bool:
        """Reads one again and notes it; whether it is another than before."""
        before = notes.secrets or Secrets()
        known = _version(getattr(before, part))
        try:
            found = await self._read(Names(namespace=key[0], name=key[1], uid=notes.uid), name, not_older_than=known)
        except DriverError as error:
            _LOGGER.warning("%s", error.message)
            return False
        if notes.secrets is not before or _version(found) == known:
            return False  # the same, or we have written one meanwhile, which this may be older than
        notes.secrets = replace(before, **{part: found})
        return True

    async def _read(self, names: Names, name: str, *, not_older_than: str = "") -> Json | None:
        """One, if it is there; what has the name without the Dataset's label is somebody else's."""
        found = await self._cluster.get(paths.SECRET.path((names.namespace, name)), not_older_than=not_older_than)
        return reduced(found) if found is not None and _is_labelled(found, names.uid) else None


def secret_of(secrets: Secrets, name: str, seen: Seen) -> Json | None:
    """The Secret of this name, one of those of the Dataset that was seen."""
    found: Json | None = getattr(secrets, _part_of(name, seen))
    return found


def with_secret(secrets: Secrets, found: Json, seen: Seen) -> Secrets:
    """``secrets`` with one that was written."""
    return replace(secrets, **{_part_of(found["metadata"]["name"], seen): reduced(found)})


def without_secret(secrets: Secrets, name: str, seen: Seen) -> Secrets:
    """``secrets`` without the one of this name, which has gone."""
    return replace(secrets, **{_part_of(name, seen): None})


def _part_of(name: str, seen: Seen) -> str:
    uid = seen.dataset["metadata"]["uid"] if seen.dataset is not None else ""
    names = Names(namespace=seen.name[0], name=seen.name[1], uid=uid)
    return next(part for part, known in _names_of(names).items() if known == name)


def _names_of(names: Names) -> dict[str, str]:
    """By the fields of :class:`Secrets`."""
    return {
        "authority": names.authority,
        "node": names.node_secret,
        "master": names.master_secret,
        "worker": names.worker_secret,
    }


def _version(secret: Json | None) -> str:
    return str(secret["metadata"]["resourceVersion"]) if secret is not None else ""


def _is_labelled(found: Json, uid: str) -> bool:
    return (found["metadata"].get("labels") or {}).get(UID_LABEL) == uid
