"""The operator's side of the channel to each Dataset's master (proto/dataset.proto): sends orders, receives figures.

There is one task for each master. It connects, sends the configuration, watches figures, and sends the configuration
again whenever that has changed; after any failure it starts over with back-off. Nothing waits for it: while a master is
away the figures become stale, and nodes go on with what they know.
"""

import asyncio
import datetime
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import grpc.aio

from csi._proto import dataset_pb2, dataset_pb2_grpc
from csi.operator import pki
from csi.operator.names import MASTER_HOST

_LOGGER = logging.getLogger(__name__)
CALL_SECONDS_MAX = 5.0
_RETRY_SECONDS_MIN = 0.5
_RETRY_SECONDS_MAX = 20.0
#: Between two figures of a master that are looked at.
_FIGURES_SECONDS_MIN = 0.5
#: Between pings, by which a connection is noticed that died unseen. That a master's pod or node is gone its pod says
#: sooner, and pings of a thousand masters are half of what an operator does at rest. After two without data gRPC would
#: send no more, and at rest there is none.
_KEEPALIVE_MS = 90_000
#: Longest wait for the answer to a ping, which gRPC's own keepalive timeout does not shorten.
_PING_MS_MAX = 10_000
_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
#: Of the figures that are kept of a Dataset, of which nodes' words are left out first. Its objects may be larger.
_KEPT_BYTES_MAX = 2 << 20
#: As proto/dataset.proto has it.
_CHECKPOINT_BYTES_MAX = 64 << 10
#: What makes a connection take a tenth less memory: no notes for channelz, no copies of calls to be made again, which
#: is done here, and TLS records of 1 KiB, since little is said.
_SMALL = (("grpc.enable_channelz", 0), ("grpc.enable_retries", 0), ("grpc.tsi.max_frame_size", 1024))


@dataclass(frozen=True, kw_only=True)
class Master:
    """Where a master is (HOST:PORT), the Dataset's authority, and what it shall know; its revision is ours to set."""

    address: str
    authority: pki.Files
    configuration: dataset_pb2.Configuration


class Masters:
    """Connections to masters, by the UID of the Dataset.

    ``changed`` is called with the UID when figures came, and whether they say more than that figures grew or shrank.
    """

    def __init__(self, changed: Callable[[str, bool], None]) -> None:
        self._changed = changed
        self._connections: dict[str, _Connection] = {}
        #: The latest figures of each Dataset.
        self.figures: dict[str, dataset_pb2.Figures] = {}
        #: Where a count of totals stood, for the next master.
        self._checkpoints: dict[str, bytes] = {}
        self._revision = 0
        # Who we are at each master; made by the Dataset's authority, and in no Secret.
        self._identities: dict[str, pki.Files] = {}

    def set(self, uid: str, master: Master | None) -> None:
        """Has a master told what is said here from now on; None: there is none that could be told."""
        identity: pki.Files = {}
        if master is not None:
            identity = self._identity(uid, master.authority)
        connection = self._connections.get(uid)
        if connection is not None and (master is None or not connection.is_for(master.address, identity)):
            connection.cancel()
            del self._connections[uid]
            connection = None
        if master is None:
            return
        if connection is None:
            connection = _Connection(uid, master.address, identity, master.configuration, self)
            self._connections[uid] = connection
        connection.set(master.configuration)

    def _identity(self, uid: str, authority: pki.Files) -> pki.Files:
        now = datetime.datetime.now(datetime.UTC)
        found = pki.operator_identity(authority, self._identities.get(uid, {}), now=now, random=os.urandom)
        self._identities[uid] = found
        return found

    def forget(self, uid: str) -> None:
        """Drops all about a Dataset that is no more."""
        self.set(uid, None)
        self.figures.pop(uid, None)
        self._checkpoints.pop(uid, None)
        self._identities.pop(uid, None)

    def is_connected(self, uid: str) -> bool:
        """Whether the master has answered, and its figures come."""
        connection = self._connections.get(uid)
        return connection is not None and connection.connected

    def checkpoint(self, uid: str) -> bytes:
        """Where the count of totals stood when it was last told."""
        return self._checkpoints.get(uid, b"")

    def close(self) -> None:
        """Ends all connections."""
        for uid in list(self._connections):
            self.set(uid, None)

    def came(self, uid: str, figures: dataset_pb2.Figures) -> None:
        """Notes figures; what a worker held that does not answer just now it is taken to hold still.

        Those of a master that passes all measure are not kept: they would take memory from all other Datasets.
        """
        if len(figures.totals.checkpoint) > _CHECKPOINT_BYTES_MAX:
            figures.totals.ClearField("checkpoint")
        if figures.ByteSize() > _KEPT_BYTES_MAX:
            for node in figures.nodes:
                node.ClearField("conditions")
        if figures.ByteSize() > _KEPT_BYTES_MAX:
            _LOGGER.warning("master of %s: its figures are too large, and are not looked at", uid)
            return
        held = {worker.name: worker.cached_bytes for worker in self.figures.get(uid, figures).workers}
        for worker in figures.workers:
            if not worker.reachable:
                worker.cached_bytes = held.get(worker.name, 0)
        if figures.totals.checkpoint:
            self._checkpoints[uid] = figures.totals.checkpoint
        before = self.figures.get(uid)
        self.figures[uid] = figures
        if before != figures:
            self._changed(uid, _without_figures(before) != _without_figures(figures))

    def next_revision(self) -> int:
        """A number that is greater than all before, also than those of an operator before this one."""
        self._revision = max(self._revision + 1, time.time_ns() // 1_000_000)
        return self._revision

    def connection_changed(self, uid: str) -> None:
        """Notes that a master answers, or no more."""
        self._changed(uid, True)  # noqa: FBT003


def _without_figures(figures: dataset_pb2.Figures | None) -> tuple[object, ...]:
    """What is to be known at once: nodes, but for what they say in words, the source, and whether totals are known."""
    if figures is None:
        return ()
    nodes = [(node.node, node.volumes, node.serving, node.connected, node.sources) for node in figures.nodes]
    return nodes, figures.source.SerializeToString(), figures.totals.known, figures.totals.reason


class _Connection:
    """One master, for as long as its address and our identity stay."""

    def __init__(
        self,
        uid: str,
        address: str,
        identity: pki.Files,
        configuration: dataset_pb2.Configuration,
        owner: Masters,
    ) -> None:
        self._uid, self._owner = uid, owner
        self._address, self._identity = address, identity
        self._wanted = configuration
        self._said: dataset_pb2.Configuration | None = None
        self._new = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.connected = False

    def is_for(self, address: str, identity: pki.Files) -> bool:
        return address == self._address and identity == self._identity

    def set(self, configuration: dataset_pb2.Configuration) -> None:
        self._wanted = configuration
        if self._said != configuration:
            self._new.set()

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        delay = _RETRY_SECONDS_MIN
        while True:
            began = time.monotonic()
            try:
                async with self._channel() as channel:
                    await self._serve(dataset_pb2_grpc.MasterStub(channel))  # type: ignore[no-untyped-call]  # generated
            except grpc.aio.AioRpcError as error:
                _LOGGER.info("master of %s at %s: %s", self._uid, self._address, error.details() or error.code().name)
            except Exception:
                _LOGGER.exception("master of %s at %s", self._uid, self._address)
            self._note(connected=False)
            self._said = None
            if time.monotonic() - began > _RETRY_SECONDS_MAX:
                delay = _RETRY_SECONDS_MIN
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_SECONDS_MAX)

    def _channel(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._identity[pki.AUTHORITY],
            private_key=self._identity[pki.PRIVATE_KEY],
            certificate_chain=self._identity[pki.CERTIFICATE],
        )
        options = [
            ("grpc.ssl_target_name_override", MASTER_HOST),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.http2.ping_timeout_ms", _PING_MS_MAX),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.enable_http_proxy", 0),
            # One connection for each channel: channels to one address would share a broken one otherwise.
            ("grpc.use_local_subchannel_pool", 1),
            *_SMALL,
        ]
        return grpc.aio.secure_channel(self._address, credentials, options=options)

    async def _serve(self, stub: dataset_pb2_grpc.MasterStub) -> None:
        await self._tell(stub)
        parts = {asyncio.create_task(self._keep_telling(stub)), asyncio.create_task(self._listen(stub))}
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _keep_telling(self, stub: dataset_pb2_grpc.MasterStub) -> None:
        while True:
            await self._new.wait()
            if self._said != self._wanted:
                await self._tell(stub)
            else:
                self._new.clear()

    async def _tell(self, stub: dataset_pb2_grpc.MasterStub) -> None:
        self._new.clear()
        wanted = self._wanted
        message = dataset_pb2.Configuration()
        message.CopyFrom(wanted)
        message.revision = self._owner.next_revision()
        message.checkpoint = self._owner.checkpoint(self._uid)
        await stub.Configure(message, timeout=CALL_SECONDS_MAX)
        self._said = wanted

    async def _listen(self, stub: dataset_pb2_grpc.MasterStub) -> None:
        async for figures in stub.WatchFigures(dataset_pb2.WatchFiguresRequest()):
            self._note(connected=True)
            known = {worker.name for worker in self._wanted.workers}
            workers = [worker for worker in figures.workers if worker.name in known]
            del figures.workers[:]
            figures.workers.extend(workers)
            self._owner.came(self._uid, figures)
            # A master says them once a second; whoever reads Secrets of its namespace can pass for one, and say more.
            await asyncio.sleep(_FIGURES_SECONDS_MIN)

    def _note(self, *, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            self._owner.connection_changed(self._uid)
