"""The webhook as the API server meets it: over TLS, with AdmissionReviews."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from csi.base.errors import Code, DriverError
from csi.operator import pki
from csi.operator.webhook import serving
from csi.operator.webhook.affinity import CLAIMS_MAX, PLACED_LABEL, SIDECAR_LABEL
from csi.operator.webhook.serving import Listening, answer, serve
from tests.support.driver import free_port

HOST = "efc-webhook.efc-system.svc"


class Datasets:
    """The part of the API server that has Datasets."""

    def __init__(self) -> None:
        self.objects: dict[str, Mapping[str, Any]] = {}
        self.asked: list[str] = []
        self.is_away = self.is_closed = False

    async def get(self, path: str) -> Mapping[str, Any] | None:
        self.asked.append(path)
        if self.is_away:
            raise DriverError(Code.UNAVAILABLE, "the API server does not answer")
        return self.objects.get(path)

    async def close(self) -> None:
        self.is_closed = True

    def add(self, name: str, *runtimes: str) -> None:
        status = {"runtimes": [{"name": name, "type": kind} for kind in runtimes]}
        path = f"/apis/data.fluid.io/v1alpha1/namespaces/team/datasets/{name}"
        self.objects[path] = {"metadata": {"uid": f"uid-{name}"}, "status": status}


def question(labels: Mapping[str, str], *claims: str) -> dict[str, Any]:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": name}} for name in claims]
    pod = {"metadata": {"generateName": "p-", "labels": labels}, "spec": {"volumes": volumes}}
    return {
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "question-1", "namespace": "team", "operation": "CREATE", "object": pod},
    }  # fmt: skip


async def test_an_answer_has_the_patch_of_the_pods_datasets() -> None:
    objects = Datasets()
    objects.add("data", "efc")
    objects.add("fresh")
    objects.add("theirs", "alluxio")
    review = await answer(question({PLACED_LABEL: "true"}, "data", "fresh", "theirs", "none", "../data"), objects)
    response = review["response"]
    assert (review["kind"], response["uid"], response["allowed"]) == ("AdmissionReview", "question-1", True)
    assert response["patchType"] == "JSONPatch"
    (operation,) = json.loads(base64.b64decode(response["patch"]))
    (terms,) = operation["value"]["podAffinity"].values()
    found = [term["podAffinityTerm"]["labelSelector"]["matchLabels"]["release"] for term in terms]
    assert found == ["data", "fresh"]
    assert len(objects.asked) == 4, "what is no name is not asked for"


async def test_pods_that_ask_for_nothing_cost_no_request() -> None:
    objects = Datasets()
    response = (await answer(question({}, "data"), objects))["response"]
    assert response == {"uid": "question-1", "allowed": True}
    assert not objects.asked


async def test_a_refusal_has_the_reason() -> None:
    response = (await answer(question({SIDECAR_LABEL: "true"}, "data"), Datasets()))["response"]
    assert response["allowed"] is False
    assert "no sidecars" in response["status"]["message"]
    assert response["status"]["code"] == 403


async def test_a_pod_of_more_claims_than_are_looked_up_is_refused_and_costs_no_request() -> None:
    """Thousands fit into one pod, and the questions of all others would wait for theirs."""
    objects = Datasets()
    names = [f"c{number}" for number in range(CLAIMS_MAX + 1)]
    assert (await answer(question({PLACED_LABEL: "true"}, *names[1:]), objects))["response"]["allowed"] is True
    objects.asked.clear()
    response = (await answer(question({PLACED_LABEL: "true"}, *names), objects))["response"]
    assert response["allowed"] is False
    assert "101 claims" in response["status"]["message"]
    assert not objects.asked
    assert (await answer(question({}, *names), objects))["response"]["allowed"] is True


# ------------------------------------------------------------ over TLS


def write(folder: Path, authority: pki.Files) -> None:
    files = pki.server_identity(authority, "efc-webhook", HOST, now=datetime.now(UTC), random=os.urandom)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def new_authority() -> pki.Files:
    return pki.server_authority({}, now=datetime.now(UTC), random=os.urandom)


class Server:
    """`efc webhook` in this process, and a client that trusts as the API server does."""

    def __init__(self, folder: Path, objects: Datasets) -> None:
        self.folder, self.objects, self.port = folder, objects, free_port()

    async def ask(self, authority: pki.Files, body: object, path: str = "/mutate") -> tuple[int, str]:
        trusted = ssl.create_default_context(cadata=authority[pki.AUTHORITY].decode())
        connector = aiohttp.TCPConnector(ssl=trusted, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(
                f"https://127.0.0.1:{self.port}{path}",
                data=io.BytesIO(json.dumps(body).encode()),
                server_hostname=HOST,
                headers={"Content-Type": "application/json"},
            ) as response,
        ):
            return response.status, await response.text()

    async def await_trust(self, authority: pki.Files) -> None:
        async with asyncio.timeout(20):
            while True:
                try:
                    await self.ask(authority, question({}))
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
                else:
                    return


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.05)
    running = Server(tmp_path, Datasets())
    listening = Listening(host="127.0.0.1", port=running.port, certificate=tmp_path)
    task = asyncio.create_task(serve(listening, running.objects))  # type: ignore[arg-type]
    yield running
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await task
    assert running.objects.is_closed


async def test_certificates_change_while_it_serves(server: Server) -> None:
    first, second = new_authority(), new_authority()
    await asyncio.sleep(0.2)  # not there yet: it waits
    write(server.folder, first)
    await server.await_trust(first)
    # Halves that do not belong together change nothing.
    good = {name: (server.folder / name).read_bytes() for name in (pki.CERTIFICATE, pki.PRIVATE_KEY)}
    write(server.folder, second)
    (server.folder / pki.CERTIFICATE).write_bytes(good[pki.CERTIFICATE])
    for _ in range(10):
        assert (await server.ask(first, question({})))[0] == 200
        await asyncio.sleep(0.03)
    write(server.folder, second)
    await server.await_trust(second)
    with pytest.raises(aiohttp.ClientError):
        await server.ask(first, question({}))
    for name in good:
        (server.folder / name).unlink()
    await asyncio.sleep(0.2)
    assert (await server.ask(second, question({})))[0] == 200


async def test_what_it_does_not_know_it_does_not_allow(server: Server) -> None:
    authority = new_authority()
    write(server.folder, authority)
    await server.await_trust(authority)
    server.objects.is_away = True
    status, said = await server.ask(authority, question({PLACED_LABEL: "true"}, "data"))
    assert (status, said) == (503, "the API server does not answer")
    questions: tuple[object, ...] = (
        {}, [], {"request": None}, {"request": {"uid": "u", "namespace": "n", "object": []}}, "x",
    )  # fmt: skip
    for wrong in questions:
        assert (await server.ask(authority, wrong))[0] == 400
    assert (await server.ask(authority, {}, path="/"))[0] == 404
    assert (await server.ask(authority, {"x": "y" * (5 << 20)}))[0] == 413
