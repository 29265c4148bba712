"""Sizes and condition of published volumes; an abnormal condition has one sentence for people that says why."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from csi.base.errors import DriverError
from csi.base.statvfs import Statvfs
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper
from csi.node.mount_status import condition_of, store_of, suggestion_of, unknown_of, workers_of
from csi.node.mounts import Mounts
from csi.node.records import Publication
from csi.node.reports import Reports
from csi.node.targets import root_of

_LOGGER = logging.getLogger(__name__)
#: A little more than the 5 s after which a daemon says that the NAS does not answer; less than STATVFS_SECONDS_MAX.
UNRESPONSIVE_SECONDS = 5.3
#: Longest wait for the keeper, so that a status never keeps the statistics waiting.
_STATUS_SECONDS_MAX = 1.0


@dataclass(frozen=True, kw_only=True)
class VolumeStatus:
    """A volume's sizes, or None if they are not known; why it is abnormal, or ""; what else is to be known of it."""

    sizes: Statvfs | None
    abnormal: str
    note: str = ""


class Conditions:
    """Asks file systems, daemons and reports of repairs how a volume does."""

    def __init__(
        self,
        *,
        mounts: Mounts,
        daemons: Daemons,
        keeper: Keeper,
        reports: Reports,
        publications: Iterable[Publication],
        kubelet_roots: Sequence[str],
    ) -> None:
        """``kubelet_roots`` are kubelet's directories, where they are; ``publications`` are all there are each time."""
        self._publications = publications
        self._mounts = mounts
        self._daemons = daemons
        self._keeper = keeper
        self._reports = reports
        self._kubelet_roots = kubelet_roots
        self._asking: dict[str, asyncio.Task[Statvfs | None]] = {}

    async def of_volume(self, publication: Publication) -> VolumeStatus:
        """Sizes and condition of a volume at its target."""
        mount = self._mounts.at(publication.target)
        if mount is None:
            return VolumeStatus(
                sizes=None, abnormal="its mount is gone; restart the pod, which publishes the volume again"
            )
        if (reason := self._reports.lost.get(mount.device)) is not None:
            reason = reason and f": {reason}"
            return VolumeStatus(sizes=None, abnormal=f"nobody holds its session any more; it is being replaced{reason}")
        asked = asyncio.create_task(self._sizes(publication.target))
        abnormal, suggestion = await self._of_dataset(publication.key)
        if not abnormal and not (await asyncio.wait({asked}, timeout=UNRESPONSIVE_SECONDS))[0]:
            # While statvfs waits still, the daemon knows what for.
            abnormal = await self.of_daemon(publication.key)
        abnormal = abnormal or self._daemons.moved(publication.key)
        sizes = await asked
        if sizes is None and not abnormal:
            abnormal = "the file system does not answer"
        report = self._reports.get(self._daemons.mount_of(publication.key), device=mount.device)
        if report is None:
            return VolumeStatus(sizes=sizes, abnormal=abnormal, note=suggestion)
        abnormal = abnormal or report.failure(publication.path)
        note = "; ".join(part for part in (report.note(), suggestion) if part)
        return VolumeStatus(sizes=sizes, abnormal=abnormal, note=note)

    async def _sizes(self, target: str) -> Statvfs | None:
        """Sizes, or None if there is no answer; those who ask at the same time get the same."""
        if target not in self._asking:
            if self._mounts.is_asking(target):  # a program that was given up and hangs still
                return None
            self._asking[target] = asyncio.create_task(self._ask(target))
            self._asking[target].add_done_callback(lambda _: self._asking.pop(target, None))
        return await asyncio.shield(self._asking[target])

    async def _ask(self, target: str) -> Statvfs | None:
        try:
            return await self._mounts.statvfs(target, beneath=root_of(target, roots=self._kubelet_roots))
        except DriverError as error:
            _LOGGER.warning("no sizes of %r: %s", target, error.message)
            return None

    async def of_daemon(self, key: str) -> str:
        """Why the daemon of the dataset ``key`` is not as it should be, in one sentence, or "" if it is."""
        return (await self._of_dataset(key))[0]

    async def _of_dataset(self, key: str) -> tuple[str, str]:
        """Why the daemon of the dataset ``key`` is not as it should be, and what would serve its volumes better."""
        try:
            status = await self._keeper.status(self._daemons.mount_of(key), limit_seconds=_STATUS_SECONDS_MAX)
        except DriverError as error:
            return error.message, ""
        if not status.mounts:
            return "nobody holds its session any more; it will be mounted again", ""
        volumes = [publication.read_only for publication in self._publications if publication.key == key]
        mount = status.mounts[0]
        suggestion = suggestion_of(mount, is_read_only=bool(volumes) and all(volumes))
        notes = (unknown_of(self._daemons.unknown_options(key)), workers_of(mount), store_of(mount), suggestion)
        return condition_of(mount), "; ".join(filter(None, notes))
