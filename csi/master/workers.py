"""Asks each worker how much it holds (memcached's ``stats``), and to reload its certificates, over TLS.

Each worker has a task of its own: none waits for one that hangs.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping

from csi._proto import dataset_pb2
from csi.base import workers
from csi.master.certificates import WORKERS_NAME, Certificates
from csi.master.core import Core
from csi.master.signal import Changes

_LOGGER = logging.getLogger(__name__)
INTERVAL_SECONDS = 2.0
#: A worker reads its certificate, key and authorities again so often: kubelet renews the files.
_REFRESH_SECONDS = 60.0
#: Longest wait for one answer, the connection included.
_ANSWER_SECONDS_MAX = 1.8
#: A worker that has failed to answer so often is not reachable.
_FAILURES_MAX = 2
_LINES_MAX = 1000
#: A block of 1 MiB, and what memcached counts for it: the block with its seal, padded to whole chunks of 16 KiB less
#: their heads (efc/workers/src/slabs.rs), and the head of the item.
_BLOCK_BYTES, _BLOCK_ITEM_BYTES = 1 << 20, 65 * (16384 - 64) + 96


class Workers:
    """The workers of the configuration in force."""

    def __init__(self, core: Core, changes: Changes, certificates: Certificates) -> None:
        self._core = core
        self._changes = changes
        self._certificates = certificates

    async def watch(self) -> None:
        """Asks them for as long as they are configured; never returns."""
        asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        try:
            while True:
                count = self._changes.count
                configuration = self._core.configuration or dataset_pb2.Configuration()
                wanted = {(worker.name, worker.address) for worker in configuration.workers}
                for gone in asking.keys() - wanted:
                    asking.pop(gone).cancel()
                for name, address in wanted - asking.keys():
                    asking[name, address] = asyncio.create_task(self._ask_always(name, address))
                await self._changes.after(count)
        finally:
            for task in asking.values():
                task.cancel()

    async def _ask_always(self, name: str, address: str) -> None:
        loop, failures, before = asyncio.get_running_loop(), 0, -1
        connection = _Connection(address, self._certificates)
        try:
            while True:
                began = loop.time()
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                        held = cached_bytes(await connection.stats())
                    failures = 0
                    self._core.worker_answered(name, held)
                except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
                    await connection.close()
                    failures, held = failures + 1, -1
                    if failures == _FAILURES_MAX:
                        _LOGGER.warning("worker %s at %s does not answer: %s", name, address, _reason(error))
                        self._core.worker_silent(name)
                if held != before:
                    before = held
                    self._changes.note()
                await asyncio.sleep(max(0.0, began + INTERVAL_SECONDS - loop.time()))
        finally:
            await connection.close()


class _Connection:
    """A connection to a worker, made when it is first needed, and anew after a failure."""

    def __init__(self, address: str, certificates: Certificates) -> None:
        self._address = address
        self._certificates = certificates
        self._context: ssl.SSLContext | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._refreshed = -_REFRESH_SECONDS

    async def stats(self) -> dict[str, str]:
        """The answer of memcached to ``stats``. Raises OSError, EOFError or ValueError."""
        context = self._certificates.workers_context()
        if context is not self._context:
            await self.close()
            self._context = context
        if self._streams is None:
            host, _, port = self._address.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
            self._streams = await asyncio.open_connection(
                host, int(port), ssl=context, server_hostname=WORKERS_NAME, ssl_handshake_timeout=_ANSWER_SECONDS_MAX
            )
        reader, writer = self._streams
        if (now := asyncio.get_running_loop().time()) >= self._refreshed + _REFRESH_SECONDS:
            self._refreshed = now
            # Files that do not belong together for a moment are read again the next time.
            writer.write(b"refresh_certs\r\n")
            await reader.readuntil(b"\n")
        writer.write(b"stats\r\n")
        await writer.drain()
        stats: dict[str, str] = {}
        for _ in range(_LINES_MAX):
            line = await reader.readuntil(b"\n")
            if line.startswith(b"END"):
                return stats
            _, name, value = line.decode("ascii").split(" ", 2)
            stats[name] = value.strip()
        raise ValueError("an answer without an end")

    async def close(self) -> None:
        """Closes it, without waiting for the other side."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await asyncio.sleep(0)


def cached_bytes(stats: Mapping[str, str]) -> int:
    """Bytes of blocks that a worker holds: what memcached counts, less what it and padding add. Raises ValueError."""
    try:
        return workers.held_bytes(stats) * _BLOCK_BYTES // _BLOCK_ITEM_BYTES
    except KeyError:
        raise ValueError("an answer that does not say how much there is") from None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came within {_ANSWER_SECONDS_MAX:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
