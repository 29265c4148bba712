"""``efc csi node`` and ``efc csi controller``: puts a service together, and serves it until SIGTERM."""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from csi.base.errors import Code, DriverError
from csi.config.paths import check_components
from csi.config.sources import Source
from csi.observe.exposition import Page, Recorder
from csi.rpc.identity import IdentityService
from csi.rpc.server import Server, StopSignal, configure_logging

if TYPE_CHECKING:
    from csi.observe.scraping import MetricsServer

#: mallopt(3)'s parameter M_ARENA_MAX, of <malloc.h>.
_M_ARENA_MAX = -8
#: Longest node id in bytes (the CSI specification, NodeGetInfo).
_NODE_ID_LENGTH_MAX = 256


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc csi node`` or ``efc csi controller`` until a signal."""
    if parsed.service == "node":
        from csi.node import privileges

        # Each thread drops its own: done before there are others.
        privileges.drop_unneeded()
    _use_one_heap()
    configure_logging(parsed.log_level)
    asyncio.run(_node(parsed) if parsed.service == "node" else _controller(parsed))
    return 0


def _use_one_heap() -> None:
    """One malloc arena for all threads of gRPC, which are many but idle: 4 MB less after a thousand calls.

    Best effort: another C library than glibc has no such knob.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


async def _node(parsed: argparse.Namespace) -> None:
    from csi.node.plugin import NodePlugin, Settings
    from csi.node.targets import KUBELET_ROOT, KubeletRoots

    if not parsed.node_id or len(parsed.node_id.encode()) > _NODE_ID_LENGTH_MAX:
        raise DriverError(Code.INVALID_ARGUMENT, f"--node-id must be 1 to {_NODE_ID_LENGTH_MAX} bytes long")
    settings = Settings(
        node_id=parsed.node_id,
        run_dir=os.path.abspath(parsed.run_dir),
        kubelet_roots=KubeletRoots([_checked_root(root) for root in parsed.kubelet_root or [KUBELET_ROOT]]),
        idle_grace_seconds=parsed.idle_grace,
        allowed_sources=parsed.allowed_sources,
    )
    recorder = Recorder()
    async with NodePlugin(settings, recorder=recorder) as plugin:
        server = Server(parsed.endpoint, recorder=recorder)
        server.add("Identity", IdentityService(plugin.is_ready))
        server.add("Node", plugin.service)
        async with _metrics(parsed, plugin.collect):
            if parsed.registration_dir is None:
                await _serve(server, until=StopSignal().wait)
            else:
                await _serve_registered(server, registration_dir=os.path.abspath(parsed.registration_dir))


async def _controller(parsed: argparse.Namespace) -> None:
    from csi.controller.plugin import ControllerPlugin

    recorder = Recorder()
    async with ControllerPlugin([Source.parse(url) for url in parsed.source], recorder=recorder) as plugin:
        server = Server(parsed.endpoint, recorder=recorder)
        server.add("Identity", IdentityService(plugin.is_ready))
        server.add("Controller", plugin.service)
        async with _metrics(parsed, plugin.collect):
            await _serve(server, until=StopSignal().wait)


def _metrics(
    parsed: argparse.Namespace, collect: Callable[[Page], Awaitable[None]]
) -> "MetricsServer | contextlib.nullcontext[None]":
    """A context manager that serves metrics at --metrics-address, or does nothing without one."""
    if parsed.metrics_address is None:
        return contextlib.nullcontext()
    from csi.observe.scraping import MetricsServer

    async def page_text() -> str:
        page = Page()
        await collect(page)
        return page.text()

    return MetricsServer(parsed.metrics_address, page_text)


async def _serve(*servers: Server, until: Callable[[], Awaitable[None]]) -> None:
    """Starts the servers in this order, and stops them in the opposite one when ``until`` ends or raises."""
    async with contextlib.AsyncExitStack() as stopping:
        for server in servers:
            await server.start()
            stopping.push_async_callback(server.stop)
        # Objects that start-up has made stay for good; the garbage collector need not look at them again.
        gc.freeze()
        await until()


async def _serve_registered(server: Server, *, registration_dir: str) -> None:
    """Serves as ``_serve`` does, registered with kubelet; raises FAILED_PRECONDITION when kubelet refuses that."""
    from csi._proto import pluginregistration_pb2
    from csi.node import registration

    stop_signal = StopSignal()
    service = registration.RegistrationService(plugin_path=server.path)
    registrar = Server(registration.socket_endpoint(registration_dir))
    registrar.add("Registration", service, contract=pluginregistration_pb2.DESCRIPTOR)

    async def until() -> None:
        ends = [asyncio.ensure_future(end) for end in (stop_signal.wait(), service.until_refused())]
        ended, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in pending:
            end.cancel()
        for end in ended:
            end.result()

    await _serve(server, registrar, until=until)


def _checked_root(root: str) -> str:
    path = os.path.normpath(root)
    if not path.startswith("/") or path == "/":
        raise DriverError(Code.INVALID_ARGUMENT, f"--kubelet-root {root!r} is not an absolute path below /")
    check_components(path.lstrip("/"))
    return path
