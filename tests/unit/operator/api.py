"""An API server by HTTP that has one Lease, and whatever handlers a test gives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import kopf
from aiohttp import web

from csi.operator.cluster import Cluster

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


class Leases:
    """The Lease, as last written, and how often it was."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.writes = 0

    async def get(self, _request: web.Request) -> web.Response:
        return web.json_response(self.lease or {}, status=200 if self.lease else 404)

    async def create(self, request: web.Request) -> web.Response:
        self.lease = await request.json()
        return self._written(201)

    async def merge(self, request: web.Request) -> web.Response:
        assert self.lease is not None
        changes = await request.json()
        self.lease = {**self.lease, "spec": {**self.lease["spec"], **changes["spec"]}}
        return self._written(200)

    def _written(self, status: int) -> web.Response:
        assert self.lease is not None
        self.writes += 1
        self.lease["metadata"]["resourceVersion"] = str(self.writes)
        return web.json_response(self.lease, status=status)


@asynccontextmanager
async def served(leases: Leases, handlers: Mapping[str, Handler]) -> AsyncIterator[str]:
    """Serves for the time of an `async with`: its URL. ``handlers`` are by path, for all methods."""
    application = web.Application()
    application.router.add_get(f"{_LEASES}/{{name}}", leases.get)
    application.router.add_post(_LEASES, leases.create)
    application.router.add_patch(f"{_LEASES}/{{name}}", leases.merge)
    for path, handler in handlers.items():
        application.router.add_route("*", path, handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(cluster: Cluster, url: str) -> AsyncIterator[Cluster]:
    """``cluster`` with this server, for the time of an `async with`."""
    cluster._login = kopf.ConnectionInfo(server=url)
    try:
        yield cluster
    finally:
        await cluster.close()
