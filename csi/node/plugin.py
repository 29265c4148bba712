"""Assembles the node plugin: everything that the Node service needs, from the keeper's client to the repairer."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from csi.base import programs
from csi.base.errors import DriverError
from csi.node import collectors
from csi.node.daemons import Daemons
from csi.node.datasets import Datasets
from csi.node.inline import AllowedSources
from csi.node.keeper import Keeper
from csi.node.mounts import Mounts
from csi.node.program import DaemonProgram
from csi.node.publishing import Publisher
from csi.node.records import Publications
from csi.node.repair import Repairer
from csi.node.reports import Reports
from csi.node.service import NodeService
from csi.node.targets import KubeletRoots
from csi.observe.exposition import Page, Recorder
from csi.observe.process import counted_children, put_process

_LOGGER = logging.getLogger(__name__)
_PROBE_SECONDS_MAX = 1.0
#: After a watch that has ended.
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an administrator says: ``run_dir`` is an absolute path, ``allowed_sources`` the list of inline volumes."""

    node_id: str
    run_dir: str
    kubelet_roots: KubeletRoots
    idle_grace_seconds: float
    allowed_sources: Path | None


async def watch_always(watch: Callable[[], Awaitable[None]]) -> None:
    """Watches anew, in a moment, whatever has ended ``watch``: nobody else would notice. Never returns."""
    while True:
        try:
            await watch()
        except Exception:
            _LOGGER.exception("%s has ended, and is begun anew", watch.__qualname__)
        await asyncio.sleep(_AGAIN_SECONDS)


class NodePlugin:
    """All parts; a context manager that first settles what an earlier process has left, and releases daemons last."""

    def __init__(self, settings: Settings, *, recorder: Recorder) -> None:
        """Makes the run directory; raises FAILED_PRECONDITION if a program is missing."""
        programs.find(programs.MOUNT_HELPER)
        self._run_dir = settings.run_dir
        os.makedirs(self._run_dir, mode=0o700, exist_ok=True)
        self._recorder = recorder
        self._children = counted_children(recorder, program=programs.MOUNT_HELPER)
        self._keeper = Keeper(self._run_dir)
        publications = Publications(self._run_dir)
        mounts = Mounts(children=self._children)
        reports = Reports(self._run_dir)
        self._daemons = Daemons(
            run_dir=self._run_dir,
            keeper=self._keeper,
            mounts=mounts,
            idle_grace_seconds=settings.idle_grace_seconds,
            program=DaemonProgram.installed(self._keeper),
        )
        self._publisher = Publisher(
            publications=publications,
            mounts=mounts,
            daemons=self._daemons,
            keeper=self._keeper,
            kubelet_roots=settings.kubelet_roots,
            reports=reports,
        )
        self._datasets = Datasets(
            run_dir=self._run_dir,
            node=settings.node_id,
            keeper=self._keeper,
            daemons=self._daemons,
            publications=publications,
        )
        self._repairer = Repairer(
            publications=publications,
            mounts=mounts,
            daemons=self._daemons,
            keeper=self._keeper,
            reports=reports,
            recorder=recorder,
            serving=self._datasets.sources,
        )
        self._watches: list[asyncio.Task[None]] = []
        self.service = NodeService(
            node_id=settings.node_id,
            publisher=self._publisher,
            kubelet_roots=settings.kubelet_roots,
            allowed_sources=AllowedSources(settings.allowed_sources),
            datasets=self._datasets,
        )

    async def __aenter__(self) -> "NodePlugin":
        await self._publisher.recover()
        self._datasets.recover()
        watches = (self._daemons.watch, self._repairer.watch, self._datasets.watch)
        self._watches = [asyncio.create_task(watch_always(watch)) for watch in watches]
        return self

    async def __aexit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.cancel()
        await self._publisher.finish()  # which may be of Datasets
        await self._datasets.close()
        await self._publisher.close()

    async def is_ready(self) -> bool:
        """Whether the keeper answers, within a second."""
        try:
            await self._keeper.status(limit_seconds=_PROBE_SECONDS_MAX)
        except DriverError:
            return False
        return True

    async def collect(self, page: Page) -> None:
        """Puts all metrics of this process, its publications and the keeper's datasets on ``page``."""
        put_process(page, recorder=self._recorder, children=self._children)
        collectors.put_publications(page, self._publisher.published())
        page.put("efc_operations_in_flight", self._publisher.operations_in_flight)
        await collectors.put_datasets(page, self._keeper, run_dir=self._run_dir)
