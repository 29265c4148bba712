"""Removes the directories of deleted volumes from the trash of their sources; a large tree takes hours."""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from csi.base.errors import DriverError
from csi.controller.nas import Nas

_LOGGER = logging.getLogger(__name__)
#: Longest time that DeleteVolume waits for removals; those of large trees go on after it has answered.
REMOVE_WAIT_SECONDS = 20.0
#: Longest time that one removal may take.
REMOVE_SECONDS_MAX = 6 * 3600.0
#: Of each source: one that does not answer keeps no other's from being removed.
_REMOVALS_AT_ONCE = 2


class Trash:
    """The trash of all sources, and the tasks that remove what is in it."""

    def __init__(self, sources: Iterable[Nas]) -> None:
        self._removals: set[asyncio.Task[None]] = set()
        self._removing: set[str] = set()
        self._paths: dict[str, set[str]] = {nas.source.canonical(): set() for nas in sources}
        self._gates = {source: asyncio.Semaphore(_REMOVALS_AT_ONCE) for source in self._paths}

    def counts(self) -> Mapping[str, int]:
        """Source -> directories in its trash, as of the last look and what was removed since."""
        return {source: len(paths) for source, paths in self._paths.items()}

    async def remove(self, nas: Nas, paths: Iterable[str]) -> None:
        """Removes all that may be removed from the trash of one source; waits a while, and goes on after that."""
        paths = set(paths)
        self._paths[nas.source.canonical()] = paths
        started = [task for task in (self._start(nas, path) for path in sorted(paths)) if task is not None]
        if started:
            await asyncio.wait(started, timeout=REMOVE_WAIT_SECONDS)

    def _start(self, nas: Nas, path: str) -> "asyncio.Task[None] | None":
        source = nas.source.canonical()
        key = f"{source} {path}"
        if key in self._removing:
            return None
        self._removing.add(key)

        async def remove() -> None:
            try:
                async with self._gates[source]:
                    await nas.remove_tree(path, limit_seconds=REMOVE_SECONDS_MAX)
                self._paths[source].discard(path)
            except DriverError as error:
                _LOGGER.warning("%s stays until the next deletion: %s", key, error.message)
            finally:
                self._removing.discard(key)

        task = asyncio.create_task(remove())
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)
        return task

    async def close(self) -> None:
        """Stops removals; what is left is removed at the next start."""
        tasks = list(self._removals)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
