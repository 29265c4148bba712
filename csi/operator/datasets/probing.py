"""Whether a source can be reached: one run of ``efc-fs``, which mounts nothing, for each try.

Before a Dataset is bound for the first time there may be no master yet, so the operator looks itself.
"""

import asyncio
import json

from csi.base import programs
from csi.base.children import Children
from csi.base.errors import DriverError, from_child
from csi.config.several import origin_of
from csi.config.sources import Source

#: A NAS that answers no sooner counts as silent; people are told within 10 s.
TRY_SECONDS_MAX = 6.0
_GRACE_SECONDS = 2.0
#: What fails sooner is tried again after so long.
_AT_ONCE_SECONDS = 0.5
#: Most tries at once.
TRIES_MAX = 16


class Prober:
    """Tries sources, a few at a time."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._turns = asyncio.Semaphore(TRIES_MAX)

    async def reason(self, source: str) -> str:
        """Why ``source``, or one of several in their canonical form, cannot be reached; empty if they can."""
        began = asyncio.get_running_loop().time()
        reason = await self._try(source)
        if reason and asyncio.get_running_loop().time() < began + _AT_ONCE_SECONDS:
            # A server that has just been changed may say anything for a moment: what it says twice is so.
            await asyncio.sleep(_AT_ONCE_SECONDS)
            reason = await self._try(source)
        return reason

    async def _try(self, source: str) -> str:
        async with self._turns:
            origin = origin_of(source)
            for one in [origin] if isinstance(origin, Source) else [mounted.source for mounted in origin.mounted]:
                try:
                    await self._look(one.canonical())
                except DriverError as error:
                    return error.message if isinstance(origin, Source) else f"{one}: {error.message}"
        return ""

    async def _look(self, source: str) -> None:
        arguments = [programs.find(programs.NAS_CLIENT), "stat", "--timeout-ms", str(int(TRY_SECONDS_MAX * 1000))]
        finished = await self._children.run(
            [*arguments, "--", source, "."], deadline_seconds=TRY_SECONDS_MAX + _GRACE_SECONDS
        )
        if finished.exit_status != 0:
            raise from_child(program=programs.NAS_CLIENT, exit_status=finished.exit_status, stderr=finished.stderr)
        json.loads(finished.stdout)
