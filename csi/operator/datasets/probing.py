"""Checks whether a source can be reached: one run of ``efc-fs``, which mounts nothing, for each try.

Before a Dataset is bound for the first time there may be no master yet, so the operator checks by itself.
"""

import asyncio
from weakref import WeakValueDictionary

from csi.base import programs
from csi.base.children import Children
from csi.base.directories import check_directory
from csi.base.errors import DriverError, from_child
from csi.config.several import MountedSource, origin_of
from csi.config.sources import Source
from csi.operator.datasets.seen import Place

#: A NAS that answers no sooner counts as silent; people are told within 10 s.
TRY_SECONDS_MAX = 6.0
_GRACE_SECONDS = 2.0
#: What fails sooner is tried again after so long.
_AT_ONCE_SECONDS = 0.5
#: Most tries at once, and those of one namespace: a NAS that is silent keeps a turn for seconds, again and again.
TRIES_MAX, TRIES_OF_NAMESPACE_MAX = 16, 4


class Prober:
    """Tries sources, a few at a time; no namespace has all turns."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._turns = asyncio.Semaphore(TRIES_MAX)
        self._turns_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def reason(self, place: Place, *, namespace: str) -> str:
        """Why the directory ``place``, or one of several, cannot be reached; empty if they can."""
        turns = self._turns_of.setdefault(namespace, asyncio.Semaphore(TRIES_OF_NAMESPACE_MAX))
        began = asyncio.get_running_loop().time()
        reason = await self._try(place, turns)
        if reason and asyncio.get_running_loop().time() < began + _AT_ONCE_SECONDS:
            # A server that has just been changed may say anything for a moment: what it says twice is so.
            await asyncio.sleep(_AT_ONCE_SECONDS)
            reason = await self._try(place, turns)
        return reason

    async def _try(self, place: Place, turns: asyncio.Semaphore) -> str:
        async with turns, self._turns:
            origin = origin_of(place.source)
            for one in [place] if isinstance(origin, Source) else [_place_of(mounted) for mounted in origin.mounted]:
                try:
                    await self._look(one)
                except DriverError as error:
                    return error.message if isinstance(origin, Source) else f"{one.source}: {error.message}"
        return ""

    async def _look(self, place: Place) -> None:
        arguments = [programs.find(programs.NAS_CLIENT), "stat", "--timeout-ms", str(int(TRY_SECONDS_MAX * 1000))]
        finished = await self._children.run(
            [*arguments, "--", place.root, place.path or "."], deadline_seconds=TRY_SECONDS_MAX + _GRACE_SECONDS
        )
        if finished.exit_status != 0:
            raise from_child(program=programs.NAS_CLIENT, exit_status=finished.exit_status, stderr=finished.stderr)
        check_directory(finished.stdout, source=place.source)


def _place_of(mounted: MountedSource) -> Place:
    url = mounted.source.canonical()
    return Place(source=url, root=url)
