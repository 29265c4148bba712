"""Assembles the controller: everything that the Controller service needs, for the sources that it may use."""

import asyncio
from collections.abc import Sequence

from csi.base import programs
from csi.config.sources import Source
from csi.controller.nas import Nas
from csi.controller.provisioning import Provisioner
from csi.controller.service import ControllerService
from csi.observe.exposition import Page, Recorder
from csi.observe.process import counted_children, put_process


class ControllerPlugin:
    """All parts; a context manager, during which what earlier deletions have left on the NAS is removed."""

    def __init__(self, sources: Sequence[Source], *, recorder: Recorder) -> None:
        """Raises FAILED_PRECONDITION if a program is missing, INVALID_ARGUMENT if sources lie beneath each other."""
        programs.find(programs.NAS_CLIENT)
        self._recorder = recorder
        self._children = counted_children(recorder, program=programs.NAS_CLIENT)
        self._provisioner = Provisioner([Nas(url, children=self._children, recorder=recorder) for url in sources])
        self._collection: asyncio.Task[None] | None = None
        self.service = ControllerService(self._provisioner)

    async def __aenter__(self) -> "ControllerPlugin":
        self._collection = asyncio.create_task(self._provisioner.collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._collection is not None:
            self._collection.cancel()
        await self._provisioner.close()

    async def is_ready(self) -> bool:
        """True always: calls report a NAS that is away, and a new process would not bring it back."""
        return True

    async def collect(self, page: Page) -> None:
        """Puts all metrics of this process, and what has yet to be removed from each source, on ``page``."""
        put_process(page, recorder=self._recorder, children=self._children)
        for source, count in self._provisioner.trash().items():
            page.put("efc_trash_entries", count, source=source)
