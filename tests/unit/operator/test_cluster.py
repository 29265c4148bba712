"""What answers of an API server, and of what stands before it, are taken for."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiohttp import web

from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster
from csi.operator.watching import Resource, Watching
from tests.unit.operator.api import Handler, Leases, connected, served

_OBJECT = {"metadata": {"name": "a", "namespace": "default", "uid": "a", "resourceVersion": "7"}}


def _answering(body: str, status: int = 200) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=body, status=status)

    return answer


@pytest.mark.parametrize("body", ["<html>maintenance</html>", "", "[]", '"a"', '{"items": [', "null"])
async def test_what_is_no_answer_of_an_api_server_is_none(body: str) -> None:
    """A page of a proxy is no object, and no list without objects: what uses a Dataset would count as gone."""
    async with served(Leases(), {"/thing": _answering(body)}) as url, connected(Cluster(), url) as cluster:
        for call in (cluster.get("/thing"), cluster.list("/thing"), cluster.create("/thing", {})):
            with pytest.raises(DriverError) as raised:
                await call
            assert raised.value.code is Code.UNAVAILABLE


async def test_a_list_that_does_not_say_as_of_when_it_is_is_none() -> None:
    async with served(Leases(), {"/thing": _answering('{"items": []}')}) as url, connected(Cluster(), url) as cluster:
        with pytest.raises(DriverError) as raised:
            await cluster.list("/thing")
        assert raised.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (403, '{"message": "denied"}', Code.PERMISSION_DENIED),
        (404, '{"message": "none"}', Code.NOT_FOUND),
        (409, '{"reason": "AlreadyExists"}', Code.ALREADY_EXISTS),
        (409, '{"reason": "Conflict"}', Code.ABORTED),
        (410, '{"reason": "Expired"}', Code.OUT_OF_RANGE),
        (422, '{"message": "invalid"}', Code.INVALID_ARGUMENT),
        (429, "slow down", Code.UNAVAILABLE),
        (500, "<html>oops</html>", Code.UNAVAILABLE),
        (504, "", Code.UNAVAILABLE),
    ],
)
async def test_errors(status: int, body: str, code: Code) -> None:
    async with served(Leases(), {"/thing": _answering(body, status)}) as url, connected(Cluster(), url) as cluster:
        with pytest.raises(DriverError) as raised:
            await cluster.create("/thing", {})
        assert raised.value.code is code


async def test_a_page_of_a_proxy_makes_nothing_go_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csi.operator.watching._RETRY_SECONDS_MIN", 0.01)
    lists = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal lists
        if request.query.get("watch"):
            return web.json_response({"reason": "Expired"}, status=410)
        lists += 1
        if lists in (2, 3):
            return web.Response(text="<html>maintenance</html>")
        return web.json_response({"metadata": {"resourceVersion": "8"}, "items": [_OBJECT]})

    gone: list[object] = []
    async with served(Leases(), {"/things": answer}) as url, connected(Cluster(), url) as cluster:
        watching = Watching(
            Resource(name="things", path="/things"),
            reduce=lambda found: found,
            changed=lambda old, new: gone.append(old) if new is None else None,
        )
        task = asyncio.create_task(watching.run(cluster))
        async with asyncio.timeout(20):
            while lists < 5:
                assert not task.done()
                await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert gone == []
    assert [*watching.objects] == [("default", "a")]
