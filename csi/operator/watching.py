"""List and watch of one API collection, for as long as the process lives.

Events that a watch missed, deletions included, are found by listing again and comparing. A resource that does not exist
(its CRD is not installed) counts as an empty collection and is retried; nothing else waits for it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster, Json

_LOGGER = logging.getLogger(__name__)
#: Between two questions for a resource that does not exist.
ABSENT_SECONDS = 3.0
_RETRY_SECONDS_MIN = 0.2
_RETRY_SECONDS_MAX = 10.0
#: Namespace ("" for what has none) and name.
Name = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Resource:
    """What is watched: a collection at ``path`` of all namespaces, those of its objects that have the labels."""

    name: str
    path: str
    labels: str = ""
    #: Whether all goes on without the right to look at it.
    optional: bool = False
    absent_seconds: float = ABSENT_SECONDS


def name_of(found: Json) -> Name:
    """Namespace and name of an object."""
    metadata = found["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def is_newer(found: Json, known: Json | None) -> bool:
    """Whether an object is newer than what is known of it, or another one of its name."""
    if known is None:
        return True
    new, old = found["metadata"], known["metadata"]
    return int(new["resourceVersion"]) > int(old["resourceVersion"])


class Watching:
    """Objects of one resource, as last seen.

    ``reduce`` makes of an object what is kept of it, None if nothing is; ``changed`` is called with what was known of
    an object before and what is now, None for nothing.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        reduce: Callable[[Json], Json | None],
        changed: Callable[[Json | None, Json | None], None],
    ) -> None:
        self.resource = resource
        self.objects: dict[Name, Json] = {}
        #: Whether the resource exists, as last seen.
        self.exists = False
        self.listed = asyncio.Event()
        self._reduce, self._changed = reduce, changed
        # Versions of objects that were deleted, so that an answer that comes late does not bring them back.
        self._gone: dict[Name, int] = {}
        # The version of the last list: what is not newer and was not in it has gone, whatever an answer says.
        self._listed_at = 0
        # How often in a row there was no such resource.
        self._missed = 0

    async def run(self, cluster: Cluster) -> None:
        """Keeps in step until cancelled."""
        loop, delay, since = asyncio.get_running_loop(), _RETRY_SECONDS_MIN, ""
        while True:
            began = loop.time()
            try:
                if not since:
                    since = await self._list(cluster)
                async for kind, found in cluster.watch(self.resource.path, since=since, labels=self.resource.labels):
                    since = str(found["metadata"]["resourceVersion"])
                    delay = _RETRY_SECONDS_MIN
                    if kind != "BOOKMARK":
                        self.saw(found, deleted=kind == "DELETED")
            except DriverError as error:
                if error.code in (Code.OUT_OF_RANGE, Code.NOT_FOUND):
                    since = ""
                if self._is_absent(error):
                    await asyncio.sleep(self.resource.absent_seconds)
                    continue
                if error.code is not Code.OUT_OF_RANGE:
                    _LOGGER.warning("%s", error.message)
            # Without an error, too: what stands before a server may end each watch as soon as it has begun.
            if loop.time() - began > _RETRY_SECONDS_MAX:
                delay = _RETRY_SECONDS_MIN
            await asyncio.sleep(delay)
            delay = min(_RETRY_SECONDS_MAX, delay * 2)

    def saw(self, found: Json, *, deleted: bool = False) -> None:
        """Notes an object that a watch or an answer to a request of ours has shown."""
        name = name_of(found)
        known = self.objects.get(name)
        version = int(found["metadata"]["resourceVersion"])
        if deleted:
            if known is not None and known["metadata"]["uid"] == found["metadata"]["uid"]:
                self._forget(name, version)
            return
        if version <= self._gone.get(name, 0) or not is_newer(found, known):
            return
        if known is None and version <= self._listed_at:
            return
        self._gone.pop(name, None)
        kept = self._reduce(found)
        if kept is not None:
            self.objects[name] = kept
            self._changed(known, kept)
        elif known is not None:
            self._forget(name, version)

    async def _list(self, cluster: Cluster) -> str:
        self._gone.clear()
        self._listed_at = 0
        names: set[Name] = set()
        version = ""
        async for page in cluster.pages(self.resource.path, labels=self.resource.labels):
            version = page.resource_version
            for found in page.items:
                names.add(name_of(found))
                self.saw(found)
        self._listed_at = int(version)
        for name, known in list(self.objects.items()):
            # What is newer was made by us meanwhile.
            if name not in names and int(known["metadata"]["resourceVersion"]) <= self._listed_at:
                self._forget(name, self._listed_at)
        self.exists = True
        self._missed = 0
        self.listed.set()
        return version

    def _is_absent(self, error: DriverError) -> bool:
        """Whether an error says that there is no such resource; what was there is forgotten when it says so twice.

        An API server that has just started may not know its CRDs for a moment.
        """
        denied = self.resource.optional and error.code is Code.PERMISSION_DENIED
        if error.code is not Code.NOT_FOUND and not denied:
            self._missed = 0
            return False
        self._missed += 1
        if not self.exists or self._missed > 1:
            self.exists = False
            for name in list(self.objects):
                self._forget(name, 0)
            self.listed.set()
        return True

    def _forget(self, name: Name, version: int) -> None:
        known = self.objects.pop(name)
        # Bounded: what is so many deletions ago is no more on its way.
        if len(self._gone) > 10_000:  # noqa: PLR2004
            self._gone.clear()
        self._gone[name] = version
        self._changed(known, None)
