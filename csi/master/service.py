"""The Master service (proto/dataset.proto); callers are identified by the common name of their certificates."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import Message

from csi._proto import dataset_pb2
from csi.master.core import Core
from csi.master.signal import Changes

_LOGGER = logging.getLogger(__name__)
OPERATOR, NODE = "operator", "node"
#: Who watches figures is told of changes at most so often.
_FIGURES_INTERVAL_SECONDS = 1.0
#: A master whose figures nobody has watched for so long may not be the one that leads any more: nodes look again.
_UNWATCHED_SECONDS_MAX = 60.0
Context = grpc.aio.ServicerContext[Message, Message]


class MasterService:
    """The service of one Dataset."""

    def __init__(self, core: Core, changes: Changes) -> None:
        self._core = core
        self._changes = changes
        #: When the last one who watched figures went.
        self._unwatched_since = 0.0

    async def Configure(self, request: dataset_pb2.Configuration, context: Context) -> dataset_pb2.ConfigureReply:
        """Takes the operator's configuration."""
        await _require(context, OPERATOR)
        if self._core.configure(request):
            # Its orders hold secrets: nothing of it is logged but what it is.
            workers = len(request.workers)
            _LOGGER.info("revision %d of %s is in force, with %d workers", request.revision, request.dataset, workers)
            self._changes.note()
        return dataset_pb2.ConfigureReply()

    async def WatchFigures(
        self, _request: dataset_pb2.WatchFiguresRequest, context: Context
    ) -> AsyncIterator[dataset_pb2.Figures]:
        """Figures at once, and whenever they have changed."""
        await _require(context, OPERATOR)
        self._core.watchers += 1
        self._changes.note()
        try:
            async for figures in self._figures():
                yield figures
        finally:
            self._core.watchers -= 1
            self._unwatched_since = time.monotonic()

    async def _figures(self) -> AsyncIterator[dataset_pb2.Figures]:
        last: dataset_pb2.Figures | None = None
        while True:
            count, now = self._changes.count, time.time()
            figures = self._core.figures(now)
            if figures != last:
                last = figures
                yield figures
                await asyncio.sleep(_FIGURES_INTERVAL_SECONDS)
            next_change = self._core.next_change(now)
            limit = None if next_change is None else max(_FIGURES_INTERVAL_SECONDS, next_change - time.time())
            await self._changes.after(count, limit_seconds=limit)

    async def Connect(
        self, reports: AsyncIterator[dataset_pb2.NodeReport], context: Context
    ) -> AsyncIterator[dataset_pb2.Orders]:
        """A node's reports, and its orders."""
        await _require(context, NODE)
        connection, began = object(), time.monotonic()
        taking = asyncio.create_task(self._take(reports, connection))
        taking.add_done_callback(lambda _: self._changes.note())
        try:
            last: dataset_pb2.Orders | None = None
            while not taking.done() and not self._is_abandoned(began):
                count = self._changes.count
                orders = self._core.orders()
                if orders is not None and orders != last:
                    last = orders
                    yield orders
                    continue
                await self._changes.after(count, limit_seconds=_UNWATCHED_SECONDS_MAX)
        finally:
            taking.cancel()
            self._core.lost(connection, now=time.time())
            self._changes.note()

    def _is_abandoned(self, began: float) -> bool:
        """Whether nobody has watched figures for long, since a connection ``began`` at least."""
        since = max(began, self._unwatched_since)
        return self._core.watchers == 0 and time.monotonic() - since > _UNWATCHED_SECONDS_MAX

    async def _take(self, reports: AsyncIterator[dataset_pb2.NodeReport], connection: object) -> None:
        async for report in reports:
            self._core.report(report, connection, now=time.time())
            self._changes.note()


async def _require(context: Context, caller: str) -> None:
    """Ends the call with PERMISSION_DENIED unless ``caller``, or the operator, makes it."""
    names = [name.decode(errors="replace") for name in context.auth_context().get("x509_common_name", ())]
    if names not in ([caller], [OPERATOR]):
        shown = names[0][:64] if names else ""
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            f"this call is for the {caller}: the certificate's common name is {shown!r}",
        )
