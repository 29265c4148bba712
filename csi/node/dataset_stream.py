"""The connection of a node to the master of one Dataset: sends reports and receives orders (proto/dataset.proto).

It is re-established with exponential back-off for as long as it is needed. Nothing waits for it but a first publish,
for a moment. Both sides authenticate with certificates of the Dataset's CA, and the master has a fixed name.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import grpc

from csi._proto import dataset_pb2, dataset_pb2_grpc
from csi.rpc.redaction import redact_text

_LOGGER = logging.getLogger(__name__)
#: The name in every master's certificate.
_MASTER_NAME = "master.efc"
_CONNECT_SECONDS_MAX = 5.0
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 1.0, 10.0
#: A report goes at most so often, and at least so often.
_REPORT_SECONDS, _REPORT_SECONDS_MAX = 1.0, 10.0
#: Between two orders that are taken.
_ORDERS_SECONDS_MIN = 0.2
#: How long a publish waits for a connection, and then for orders.
_CONNECTED_SECONDS, _ORDERS_SECONDS = 0.5, 1.0
_OPTIONS = (
    ("grpc.ssl_target_name_override", _MASTER_NAME),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # Another Dataset's master may have had this address, or this one's another certificate.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 20_000),
    # Of what is sent by TCP, and of a ping: each has a limit of its own.
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class DatasetStream:
    """Connects to a master in a task of its own, from :meth:`start` to :meth:`close`."""

    def __init__(
        self,
        *,
        name: str,
        address: str,
        secrets: Callable[[], dataset_pb2.Secrets | None],
        report: Callable[[], dataset_pb2.NodeReport],
        take: Callable[[dataset_pb2.Orders], None],
    ) -> None:
        """``take`` gets orders as they come. ``name`` is the Dataset's, for people."""
        self._name = name
        self._address = address
        self._secrets = secrets
        self._report = report
        self._take = take
        self._news = asyncio.Event()
        self._connected = asyncio.Event()
        #: Set when a first publish need not wait: there are orders, or there is no way to have some.
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Why there is no connection, "" if there is one.
        self.failure = "connecting to the master"

    @property
    def address(self) -> str:
        """Where the master is, or is looked for."""
        return self._address

    @property
    def is_connected(self) -> bool:
        """Whether the master is there."""
        return self._connected.is_set()

    def start(self) -> None:
        """Connects; that it does already is success."""
        if self._task is None:
            self._task = asyncio.create_task(self._always())

    def stop(self) -> None:
        """Disconnects; no orders are taken any more."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Disconnects, and returns when that is done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def tell(self) -> None:
        """The report may have changed."""
        self._news.set()

    async def first_orders(self) -> None:
        """Waits for the first orders, for a second at most; for less if there is no connection by then."""
        began = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONNECTED_SECONDS):
                await _any(self._connected, self._settled)
        if self._connected.is_set() and not self._settled.is_set():
            left = began + _ORDERS_SECONDS - asyncio.get_running_loop().time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._settled.wait()

    async def _always(self) -> None:
        pause, loop = _PAUSE_SECONDS, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._once()
                reason = "the master has ended the connection"
            except (grpc.RpcError, OSError, ValueError) as error:
                reason = _reason(error)
            except Exception as error:
                # Whatever it is: it is connected to anew in a moment.
                _LOGGER.exception("%s: the connection to its master has failed", self._name)
                reason = type(error).__name__
            if loop.time() - began > _PAUSE_SECONDS_MAX:
                pause = _PAUSE_SECONDS
            self._connected.clear()
            self._settled.set()
            if reason != self.failure:
                _LOGGER.info("%s: no connection to its master at %s: %s", self._name, self._address, reason)
            self.failure = reason
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    async def _once(self) -> None:
        """One connection, from its beginning to its end."""
        secrets = self._secrets()
        if secrets is None:
            raise ValueError("there is no certificate for it on this node")
        credentials = grpc.ssl_channel_credentials(
            root_certificates=secrets.authority,
            private_key=secrets.private_key,
            certificate_chain=secrets.certificate,
        )
        async with grpc.aio.secure_channel(self._address, credentials, options=_OPTIONS) as channel:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS_MAX):
                    await _ready(channel)
            except TimeoutError:
                raise OSError(f"nothing answers within {_CONNECT_SECONDS_MAX:g} s") from None
            self._note_connected()
            call = dataset_pb2_grpc.MasterStub(channel).Connect()  # type: ignore[no-untyped-call]
            reporting = asyncio.create_task(self._report_always(call))
            try:
                while (orders := await call.read()) is not grpc.aio.EOF:
                    if orders is None:  # as gRPC says it
                        raise ValueError("it has sent orders that cannot be read")
                    self._take(orders)
                    self._settled.set()
                    # Each costs files and a look at daemons; whoever reads Secrets of the Dataset's namespace can pass
                    # for its master, and this process is that of all Datasets of the node.
                    await asyncio.sleep(_ORDERS_SECONDS_MIN)
                if (code := await call.code()) is not grpc.StatusCode.OK:
                    raise OSError(f"{code.name}: {await call.details()}")
            finally:
                reporting.cancel()
                call.cancel()
                await asyncio.wait({reporting})

    def _note_connected(self) -> None:
        _LOGGER.debug("%s: connected to its master at %s", self._name, self._address)
        self._connected.set()
        self.failure = ""

    async def _report_always(
        self, call: "grpc.aio.StreamStreamCall[dataset_pb2.NodeReport, dataset_pb2.Orders]"
    ) -> None:
        """Reports until the connection fails, which whoever reads orders is told as well."""
        last: dataset_pb2.NodeReport | None = None
        loop = asyncio.get_running_loop()
        due = 0.0
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                self._news.clear()
                report = self._report()
                if report != last or loop.time() >= due:
                    await call.write(report)
                    last, due = report, loop.time() + _REPORT_SECONDS_MAX
                await asyncio.sleep(_REPORT_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - loop.time())):
                        await self._news.wait()


async def _ready(channel: grpc.aio.Channel) -> None:
    """Returns when it is connected; raises OSError at the first failure, so that nobody waits for a second try."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            raise OSError("nobody answers there, or shows no certificate of the Dataset's master")
        await channel.wait_for_state_change(state)
        state = channel.get_state()


async def _any(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return redact_text(f"{error.code().name}: {error.details()}")
    return redact_text(str(error))
