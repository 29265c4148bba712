"""Who leads goes on leading while requests about Datasets hang, and writes nothing once it may lead no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from csi.base.errors import DriverError
from csi.operator import lease, running
from csi.operator.cluster import REQUESTS_MAX, Cluster
from csi.operator.lease import Leadership
from csi.operator.objects.settings import Settings
from csi.operator.running import Datasets
from tests.unit.operator.api import Leases, connected, served

_LIMIT_S = 20


def _kubeconfig(folder: Path, url: str) -> str:
    named = {
        "clusters": ("cluster", {"server": url}),
        "users": ("user", {}),
        "contexts": ("context", {"cluster": "a", "user": "a"}),
    }
    entries = {plural: [{"name": "a", kind: value}] for plural, (kind, value) in named.items()}
    file = folder / "config"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "a", **entries}))
    return str(file)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not condition():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)


async def test_requests_that_hang_keep_nobody_from_leading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An admission webhook of somebody else that does not answer has the API server wait for 30 s."""
    monkeypatch.setattr(lease, "PERIOD_SECONDS", 0.05)
    leases, hanging, released = Leases(), 0, asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        nonlocal hanging
        hanging += 1
        await released.wait()
        return web.json_response({})

    class Busy:
        def __init__(self, cluster: Cluster, *_given: object, **_named: object) -> None:
            self._cluster = cluster

        async def run(self) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(2 * REQUESTS_MAX):
                    group.create_task(self._cluster.create("/hang", {}))

    monkeypatch.setattr(running, "Reconciler", Busy)
    async with served(leases, {"/hang": hang}) as url:
        monkeypatch.setenv("KUBECONFIG", _kubeconfig(tmp_path, url))
        serving = running._Serving(running.logged_in(Cluster()))
        datasets = Datasets(settings=Settings(image="efc-csi:1"), namespace="efc-system")
        task = asyncio.create_task(running._serve_datasets(serving, datasets, asyncio.Event()))
        await _until(lambda: hanging >= REQUESTS_MAX)
        before = leases.writes
        await _until(lambda: leases.writes >= before + 3)
        released.set()
        task.cancel()
        await asyncio.wait({task})
        await serving.of_datasets.close()
        await serving.cluster.close()


async def test_a_process_that_was_paused_for_too_long_writes_nothing_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(lease, "RENEW_SECONDS_MAX", 0.5)
    held, released, late = 0, asyncio.Event(), 0
    leaderships: list[Leadership] = []

    async def write(_request: web.Request) -> web.Response:
        nonlocal held, late
        if released.is_set():
            late += not leaderships[0].leads()
        else:
            held += 1
            await released.wait()
        return web.json_response({})

    async with (
        served(Leases(), {"/write": write}) as url,
        connected(Cluster(), url) as of_lease,
        connected(Cluster(may_write=lambda: leaderships[0].leads()), url) as of_datasets,
    ):
        leadership = Leadership(of_lease, namespace="efc-system", name="efc-operator", identity="me")
        leaderships.append(leadership)

        async def always() -> None:
            while True:
                with contextlib.suppress(DriverError):
                    await of_datasets.create("/write", {})
                await asyncio.sleep(0)

        async def duties() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(REQUESTS_MAX):
                    group.create_task(always())

        task = asyncio.create_task(leadership.run(duties))
        await _until(lambda: held >= REQUESTS_MAX)
        released.set()
        time.sleep(1)  # noqa: ASYNC251  # the whole process stands still
        assert not leadership.leads()
        await _until(leadership.leads)
        assert late == 0
        task.cancel()
        await asyncio.wait({task})


async def test_who_does_not_lead_reads_and_writes_nothing() -> None:
    async def there(_request: web.Request) -> web.Response:
        return web.json_response({"metadata": {}})

    async with (
        served(Leases(), {"/one": there}) as url,
        connected(Cluster(may_write=lambda: False), url) as cluster,
    ):
        assert await cluster.get("/one") is not None
        for write in (cluster.create("/one", {}), cluster.apply("/one", {}), cluster.delete("/one", uid="a")):
            with pytest.raises(DriverError, match="may lead by now"):
                await write


async def test_where_datasets_are_off_nobody_is_missing_who_leads() -> None:
    """The alert EfcOperatorMissing goes by this, and an operator may be there for startup taints alone."""
    serving = running._Serving(Cluster())
    assert "efc_operator_leads" not in await serving.page_text()
    serving.leadership = Leadership(serving.cluster, namespace="efc", name="lease", identity="one")
    assert "efc_operator_leads 0" in await serving.page_text()
