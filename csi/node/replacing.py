"""One repair pass: replaces mounts of lost file systems by mounts of live datasets, in every mount namespace.

Containers come first, the node's and this process's own mounts last: as long as a published target is dead, a restarted
node plugin knows that work is left. Containers that were being created meanwhile are found by later passes.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from csi.base.errors import DriverError
from csi.node.mounts import Loss, Mounts, Namespace, Unreplaced

#: Most mount namespaces at once.
_NAMESPACES_MAX = 8
#: Most passes over all namespaces: mounts are copied into new ones meanwhile.
_PASSES_MAX = 3


@dataclass(kw_only=True)
class Outcome:
    """Which mounts have been replaced, which have not, and which open files nobody can save."""

    replaced: int = 0
    failed: list[Unreplaced] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    #: Whether all processes were looked at for `losses`.
    is_complete: bool = True
    #: device -> process id of a daemon that has the session open: nothing of it was touched.
    held: dict[str, int] = field(default_factory=dict)


async def replace_everywhere(mounts: Mounts, *, roots: Mapping[str, str]) -> Outcome:
    """Replaces the mounts of lost file systems in all mount namespaces; ``roots``: device -> its dataset's new mount.

    Repeatable. Raises the error of a survey; what fails in one namespace is in the outcome.
    """
    outcome = Outcome()
    tried: set[tuple[int, tuple[str, str]]] = set()
    for number in range(_PASSES_MAX):
        survey = await mounts.survey(roots)
        outcome.held = survey.holders
        lost = {device: root for device, root in roots.items() if device not in survey.holders}
        if number == 0:
            outcome.losses = [loss for loss in survey.losses if loss.device in lost]
            outcome.is_complete = survey.is_complete
        found = [
            namespace for namespace in survey.namespaces
            if any(mount[0] in lost and (namespace.inode, mount) not in tried for mount in namespace.mounts)
        ]  # fmt: skip
        if not found:
            break
        tried |= {(namespace.inode, mount) for namespace in found for mount in namespace.mounts}
        await _replace_in(mounts, found, roots=lost, outcome=outcome)
    return outcome


async def _replace_in(
    mounts: Mounts, namespaces: Iterable[Namespace], *, roots: Mapping[str, str], outcome: Outcome
) -> None:
    limit = asyncio.Semaphore(_NAMESPACES_MAX)

    async def replace(namespace: Namespace) -> None:
        async with limit:
            try:
                replaced, failed = await mounts.replace(namespace, roots=roots)
            except DriverError as error:
                replaced, failed = 0, [
                    Unreplaced(
                        device=device, process=namespace.process, mount_point=point, root="", message=error.message
                    )
                    for device, point in sorted(namespace.mounts) if device in roots
                ]  # fmt: skip
            outcome.replaced += replaced
            outcome.failed += failed

    own = os.stat("/proc/self/ns/mnt").st_ino
    # Process 1 is the node's, where this process sees the node's processes.
    late = [namespace for namespace in namespaces if namespace.inode == own or namespace.process == 1]
    await asyncio.gather(*(replace(namespace) for namespace in namespaces if namespace not in late))
    for namespace in sorted(late, key=lambda namespace: namespace.inode == own):
        await replace(namespace)
