"""The process ``efc master``: its tasks, its state on disk, and the gRPC server."""

import asyncio
import contextlib
import logging
import os
from pathlib import Path

import grpc

from csi._proto import dataset_pb2_grpc
from csi.base.errors import Code, DriverError
from csi.master.certificates import Certificates
from csi.master.core import Core
from csi.master.service import MasterService
from csi.master.signal import Changes
from csi.master.walking import Walking
from csi.master.workers import Workers

_LOGGER = logging.getLogger(__name__)
_STATE_FILE = "master.json"
_STATE_BYTES_MAX = 16 << 20
#: The state is written at most so often.
_SAVE_INTERVAL_SECONDS = 5.0
_STOP_SECONDS_MAX = 2.0
#: Of a master's gRPC server.
OPTIONS = (
    ("grpc.so_reuseport", 0),
    # Nodes and operators find out by pings of their own that a master is gone. A master takes a node that says nothing
    # for gone long before: its pings are for what those leave behind who died unseen, and rare, since an operator has
    # to answer those of all masters.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class Master:
    """Serves one Dataset inside an ``async with`` block."""

    def __init__(self, *, listen: str, tls: Path, state: Path) -> None:
        """Raises FAILED_PRECONDITION for certificates that cannot be used, and if efc-fs is missing."""
        self._listen = listen
        self._certificates = Certificates(tls)
        self._state = state / _STATE_FILE
        self._core = Core()
        self._changes = Changes()
        self._walking = Walking(self._core, self._changes)
        self._workers = Workers(self._core, self._changes, self._certificates)
        self._tasks: list[asyncio.Task[None]] = []
        self._saved = b""

    async def __aenter__(self) -> "Master":
        self._restore()
        self._server = grpc.aio.server(options=OPTIONS)
        service = MasterService(self._core, self._changes)
        dataset_pb2_grpc.add_MasterServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        try:
            self._server.add_secure_port(self._listen, self._certificates.server_credentials())
        except RuntimeError as error:
            raise DriverError(Code.FAILED_PRECONDITION, f"cannot listen at {self._listen}: {error}") from None
        await self._server.start()
        watches = (self._walking.watch(), self._walking.probe(), self._workers.watch(), self._save_always())
        self._tasks = [asyncio.create_task(watch) for watch in watches]
        _LOGGER.info("serving at %s", self._listen)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=_STOP_SECONDS_MAX)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._save()

    async def failed(self) -> None:
        """Raises what one of the tasks has failed with, none of which ever ends otherwise."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _restore(self) -> None:
        """What cannot be read is lost: whoever is told, and counts, begins anew."""
        try:
            self._state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError), self._state.open("rb") as file:
                self._core.restore(file.read(_STATE_BYTES_MAX))
        except OSError as error:
            _LOGGER.warning("the state %s is not read: %s", self._state, error.strerror)

    async def _save_always(self) -> None:
        while True:
            count = self._changes.count
            self._save()
            await asyncio.sleep(_SAVE_INTERVAL_SECONDS)
            await self._changes.after(count)

    def _save(self) -> None:
        saved = self._core.saved()
        if saved == self._saved:
            return
        new = self._state.with_suffix(".new")
        try:
            new.write_bytes(saved)
            os.replace(new, self._state)
        except OSError as error:
            _LOGGER.warning("the state %s is not written: %s", self._state, error.strerror)
            return
        self._saved = saved
