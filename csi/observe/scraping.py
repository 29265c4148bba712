"""Serves one page of metrics over HTTP, to Prometheus and to nobody who wants more than that.

GET /metrics, one request to a connection. Whoever connects can cost little: a request of 8 KiB at most, 10 seconds from
first to last, eight connections at once; a ninth is closed. There is no password and no encryption: who can reach the
address can read the metrics, which have no secrets but do name NAS directories.

An address that cannot be had does not end the process, whose volumes matter more than its metrics: it is said in the
log, and tried again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from csi.base.addresses import parse_address
from csi.observe.exposition import CONTENT_TYPE

_LOGGER = logging.getLogger(__name__)
CONNECTIONS_MAX = 8
REQUEST_BYTES_MAX = 8192
CONNECTION_SECONDS_MAX = 10.0
RETRY_SECONDS = 30.0
_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}


class MetricsServer:
    """Answers with what ``collect`` makes, anew for each request; a context manager."""

    def __init__(self, address: str, collect: Callable[[], Awaitable[str]]) -> None:
        self._host, self._port = parse_address(address, noun="metrics address")
        self._collect = collect
        self._connections = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "MetricsServer":
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _serve(self) -> None:
        while True:
            try:
                server = await asyncio.start_server(self._answer, self._host, self._port, limit=REQUEST_BYTES_MAX)
            except OSError as error:
                _LOGGER.error("no metrics at %s port %d: %s; trying again", self._host, self._port, error.strerror)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            _LOGGER.info("metrics at %s port %d", self._host, self._port)
            async with server:
                await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            async with asyncio.timeout(CONNECTION_SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._response(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            _LOGGER.debug("a scrape was cut off")
        finally:
            writer.transport.abort()
            self._connections -= 1

    async def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target = rest.partition(b" ")[0].partition(b"?")[0]
        if target != b"/metrics":
            return _encoded(404, "metrics are at /metrics\n")
        if method != b"GET":
            return _encoded(405, "only GET\n")
        try:
            return _encoded(200, await self._collect())
        except Exception:
            _LOGGER.exception("no metrics for this scrape")
            return _encoded(500, "the reason is in the log\n")


def _encoded(status: int, text: str) -> bytes:
    body = text.encode(errors="replace")
    content_type = CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"  # noqa: PLR2004
    head = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
