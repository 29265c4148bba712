"""``efc csi node`` and ``efc csi controller``: puts a service together, and serves it until SIGTERM."""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from csi.base import programs
from csi.base.errors import Code, DriverError
from csi.config.paths import KUBELET_ROOT, KubeletRoots, check_components
from csi.config.sources import Source
from csi.node import collectors, privileges
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper
from csi.node.mounts import Mounts
from csi.node.program import DaemonProgram
from csi.node.publishing import Publisher
from csi.node.records import Publications
from csi.node.repair import Repairer, Reports
from csi.observe.exposition import Page, Recorder
from csi.observe.process import counted_children, put_process
from csi.rpc.identity import IdentityService
from csi.rpc.server import Server, StopSignal, configure_logging

if TYPE_CHECKING:
    from csi.observe.scraping import MetricsServer

#: <malloc.h>
_M_ARENA_MAX = -8
#: The CSI specification, NodeGetInfo.
_NODE_ID_LENGTH_MAX = 256
_PROBE_SECONDS_MAX = 1.0


def run(parsed: argparse.Namespace) -> int:
    """Serves until a signal."""
    if parsed.service == "node":
        # The calls are per thread: before there are others.
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
    from csi.node.inline import AllowedSources
    from csi.node.service import NodeService

    programs.find(programs.MOUNT_HELPER)
    if not parsed.node_id or len(parsed.node_id.encode()) > _NODE_ID_LENGTH_MAX:
        raise DriverError(Code.INVALID_ARGUMENT, f"--node-id must be 1 to {_NODE_ID_LENGTH_MAX} bytes long")
    roots = KubeletRoots([_checked_root(root) for root in parsed.kubelet_root or [KUBELET_ROOT]])
    run_dir = os.path.abspath(parsed.run_dir)
    os.makedirs(run_dir, mode=0o700, exist_ok=True)
    keeper = Keeper(run_dir)
    program = DaemonProgram.installed(keeper)
    recorder = Recorder()
    children = counted_children(recorder, program=programs.MOUNT_HELPER)
    publications, mounts, reports = Publications(run_dir), Mounts(children=children), Reports(run_dir)
    daemons = Daemons(
        run_dir=run_dir, keeper=keeper, mounts=mounts, idle_grace_seconds=parsed.idle_grace, program=program
    )
    publisher = Publisher(
        publications=publications,
        mounts=mounts,
        daemons=daemons,
        keeper=keeper,
        kubelet_roots=roots,
        reports=reports,
    )
    await publisher.recover()
    repairer = Repairer(
        publications=publications,
        mounts=mounts,
        daemons=daemons,
        keeper=keeper,
        reports=reports,
        recorder=recorder,
    )

    async def is_ready() -> bool:
        try:
            await keeper.status(limit_seconds=_PROBE_SECONDS_MAX)
        except DriverError:
            return False
        return True

    async def collect(page: Page) -> None:
        put_process(page, recorder=recorder, children=children)
        collectors.put_publications(page, publisher.published())
        page.put("efc_operations_in_flight", publisher.operations_in_flight)
        await collectors.put_datasets(page, keeper, run_dir=run_dir)

    server = Server(parsed.endpoint, recorder=recorder)
    server.add("Identity", IdentityService(is_ready))
    node = NodeService(
        node_id=parsed.node_id,
        publisher=publisher,
        kubelet_roots=roots,
        allowed_sources=AllowedSources(parsed.allowed_sources),
    )
    server.add("Node", node)
    watching = [asyncio.create_task(watch) for watch in (daemons.watch(), repairer.watch())]
    try:
        async with _metrics(parsed, collect):
            if parsed.registration_dir is None:
                await _serve(server, until=StopSignal().wait)
            else:
                await _serve_registered(server, registration_dir=os.path.abspath(parsed.registration_dir))
    finally:
        for watch in watching:
            watch.cancel()
        await publisher.close()


async def _controller(parsed: argparse.Namespace) -> None:
    from csi.controller.nas import Nas
    from csi.controller.provisioning import Provisioner
    from csi.controller.service import ControllerService

    programs.find(programs.NAS_CLIENT)
    recorder = Recorder()
    children = counted_children(recorder, program=programs.NAS_CLIENT)
    provisioner = Provisioner([Nas(Source.parse(url), children=children, recorder=recorder) for url in parsed.source])

    async def is_ready() -> bool:
        # A NAS that is away is reported by the calls that need it; restarting this process would not bring it back.
        return True

    async def collect(page: Page) -> None:
        put_process(page, recorder=recorder, children=children)
        for source, count in provisioner.trash().items():
            page.put("efc_trash_entries", count, source=source)

    server = Server(parsed.endpoint, recorder=recorder)
    server.add("Identity", IdentityService(is_ready))
    server.add("Controller", ControllerService(provisioner))
    collection = asyncio.create_task(provisioner.collect())
    async with _metrics(parsed, collect):
        await _serve(server, until=StopSignal().wait)
    collection.cancel()
    await provisioner.close()


def _metrics(
    parsed: argparse.Namespace, collect: Callable[[Page], Awaitable[None]]
) -> "MetricsServer | contextlib.nullcontext[None]":
    """What serves metrics at --metrics-address, if there is one."""
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
        # What start-up has made stays for good; the collector need not look at it again.
        gc.freeze()
        await until()


async def _serve_registered(server: Server, *, registration_dir: str) -> None:
    """As ``_serve``, known to kubelet meanwhile; raises FAILED_PRECONDITION when kubelet refuses that."""
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
