"""``efc csi node`` and ``efc csi controller``: puts a service together, and serves it until SIGTERM."""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Awaitable, Callable

from csi import programs
from csi.children import Children
from csi.daemons import Daemons
from csi.errors import Code, DriverError
from csi.identity import IdentityService
from csi.keeper import Keeper
from csi.mounts import Mounts
from csi.paths import check_components
from csi.publishing import Publisher
from csi.records import Publications
from csi.server import Server, configure_logging, until_signal
from csi.sources import Source

#: <malloc.h>
_M_ARENA_MAX = -8
_KUBELET_ROOT = "/var/lib/kubelet"
#: The CSI specification, NodeGetInfo.
_NODE_ID_LENGTH_MAX = 256
_PROBE_SECONDS_MAX = 1.0


def run(parsed: argparse.Namespace) -> int:
    """Serves until a signal."""
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
    from csi.node import NodeService

    programs.find(programs.MOUNT_HELPER)
    if not parsed.node_id or len(parsed.node_id.encode()) > _NODE_ID_LENGTH_MAX:
        raise DriverError(Code.INVALID_ARGUMENT, f"--node-id must be 1 to {_NODE_ID_LENGTH_MAX} bytes long")
    roots = [_checked_root(root) for root in parsed.kubelet_root or [_KUBELET_ROOT]]
    run_dir = os.path.abspath(parsed.run_dir)
    os.makedirs(run_dir, mode=0o700, exist_ok=True)
    keeper = Keeper(run_dir)
    publisher = Publisher(
        publications=Publications(run_dir),
        mounts=Mounts(children=Children()),
        daemons=Daemons(run_dir=run_dir, keeper=keeper, idle_grace_seconds=parsed.idle_grace),
        keeper=keeper,
        kubelet_roots=roots,
    )
    await publisher.recover()

    async def is_ready() -> bool:
        try:
            await keeper.status(limit_seconds=_PROBE_SECONDS_MAX)
        except DriverError:
            return False
        return True

    server = Server(parsed.endpoint)
    server.add("Identity", IdentityService(is_ready))
    node = NodeService(node_id=parsed.node_id, publisher=publisher, kubelet_roots=roots)
    server.add("Node", node)
    try:
        if parsed.registration_dir is None:
            await _serve(server, until=until_signal)
        else:
            await _serve_registered(server, registration_dir=os.path.abspath(parsed.registration_dir))
    finally:
        await publisher.close()


async def _controller(parsed: argparse.Namespace) -> None:
    from csi.controller import ControllerService
    from csi.nas import Nas
    from csi.provisioning import Provisioner

    programs.find(programs.NAS_CLIENT)
    children = Children()
    provisioner = Provisioner([Nas(Source.parse(url), children=children) for url in parsed.source])

    async def is_ready() -> bool:
        # A NAS that is away is reported by the calls that need it; restarting this process would not bring it back.
        return True

    server = Server(parsed.endpoint)
    server.add("Identity", IdentityService(is_ready))
    server.add("Controller", ControllerService(provisioner))
    collection = asyncio.create_task(provisioner.collect())
    await _serve(server, until=until_signal)
    collection.cancel()
    await provisioner.close()


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
    from csi import registration
    from csi._proto import pluginregistration_pb2

    service = registration.RegistrationService(plugin_path=server.path)
    registrar = Server(registration.socket_endpoint(registration_dir))
    registrar.add("Registration", service, contract=pluginregistration_pb2.DESCRIPTOR)

    async def until() -> None:
        ends = [asyncio.ensure_future(end) for end in (until_signal(), service.until_refused())]
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
