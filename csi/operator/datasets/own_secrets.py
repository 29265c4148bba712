"""The Secrets of a Dataset that the operator makes: which there are, and reading them again.

There is no right to list or watch Secrets, so they are read by their names, one Dataset's after the other's: how soon a
change of somebody else's is seen depends on how many Datasets there are.
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
#: How many are read again in a second, over all Datasets, and how often each at most.
_PER_SECOND = 3.0
_SECONDS_MIN = 20.0


class OwnSecrets:
    """Reads them by their names."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def read(self, names: Names) -> Secrets:
        """Those of one Dataset: what has the name without the Dataset's label is somebody else's."""
        wanted = (names.authority, names.node_secret, names.master_secret, names.worker_secret)
        found = await asyncio.gather(
            *(self._cluster.get(paths.SECRET.path((names.namespace, name))) for name in wanted)
        )
        ours = [reduced(one) if one is not None and _is_labelled(one, names.uid) else None for one in found]
        return Secrets(authority=ours[0], node=ours[1], master=ours[2], worker=ours[3])

    async def read_again(self, all_notes: Mapping[Key, Notes], changed: Callable[[Key], None]) -> None:
        """Reads those of all Datasets until cancelled; ``changed`` is called with a key whose Secrets have changed."""
        while True:
            began = clock()
            for key, notes in list(all_notes.items()):
                if notes.secrets is None or not notes.uid or clock() - notes.secrets_at < _SECONDS_MIN:
                    continue
                try:
                    read = await self.read(Names(namespace=key[0], name=key[1], uid=notes.uid))
                except DriverError as error:
                    _LOGGER.warning("%s", error.message)
                    continue
                notes.secrets_at = clock()
                if _versions(read) != _versions(notes.secrets):
                    notes.secrets = read
                    changed(key)
                await asyncio.sleep(4 / _PER_SECOND)
            await asyncio.sleep(max(1.0, began + 1.0 - clock()))


def secret_of(secrets: Secrets, name: str, seen: Seen) -> Json | None:
    """The Secret of this name, one of those of the Dataset that was seen."""
    found: Json | None = getattr(secrets, _part_of(name, seen))
    return found


def with_secret(secrets: Secrets, found: Json, seen: Seen) -> Secrets:
    """``secrets`` with one that was written."""
    return replace(secrets, **{_part_of(found["metadata"]["name"], seen): reduced(found)})


def _part_of(name: str, seen: Seen) -> str:
    uid = seen.dataset["metadata"]["uid"] if seen.dataset is not None else ""
    names = Names(namespace=seen.name[0], name=seen.name[1], uid=uid)
    return {
        names.authority: "authority",
        names.node_secret: "node",
        names.master_secret: "master",
        names.worker_secret: "worker",
    }[name]


def _versions(secrets: Secrets) -> list[str | None]:
    return [one["metadata"]["resourceVersion"] if one else None for one in secrets.all()]


def _is_labelled(found: Json, uid: str) -> bool:
    return (found["metadata"].get("labels") or {}).get(UID_LABEL) == uid
