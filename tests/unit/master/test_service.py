"""A master's service by real processes and certificates: who may call what, and what changes while it serves."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi._proto import dataset_pb2, dataset_pb2_grpc
from csi.cli import main
from csi.master.core import Core
from csi.master.service import MasterService
from csi.master.serving import Master
from csi.master.signal import Changes
from tests.support.driver import free_port
from tests.support.master import Authority, DatasetMaster, channel_to


@pytest.fixture
def authority() -> Iterator[Authority]:
    """A Dataset's authority."""
    with Authority.made() as made:
        yield made


@pytest.fixture
def master(authority: Authority) -> Iterator[DatasetMaster]:
    """A master of that Dataset."""
    with DatasetMaster(authority=authority) as running:
        yield running


@contextmanager
def called(master: DatasetMaster, folder: Path) -> Iterator[Any]:
    """The service, called with the certificate in this folder."""
    with channel_to(master.port, folder) as channel:
        yield dataset_pb2_grpc.MasterStub(channel)  # type: ignore[no-untyped-call]


def codes(stub: Any) -> list[grpc.StatusCode]:
    """What becomes of each call."""

    def code_of(call: Any) -> grpc.StatusCode:
        try:
            call()
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def connect() -> None:
        next(stub.Connect(iter([dataset_pb2.NodeReport(node="x")]), timeout=5))

    return [
        code_of(lambda: stub.Configure(dataset_pb2.Configuration(revision=1), timeout=5)),
        code_of(lambda: next(stub.WatchFigures(dataset_pb2.WatchFiguresRequest(), timeout=5))),
        code_of(connect),
    ]


def test_who_may_call_what(master: DatasetMaster, authority: Authority) -> None:
    ok, denied, unavailable = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
    master.configure()
    callers = {"operator": [ok] * 3, "node": [denied, denied, ok], "worker": [denied] * 3, "master": [denied] * 3}
    for name, expected in callers.items():
        with called(master, authority.signed(name, folder=f"as-{name}")) as stub:
            assert codes(stub) == expected, name
    with Authority.made() as stranger:
        folder = stranger.signed("operator")
        (folder / "ca.crt").write_bytes((authority.folder / "ca.crt").read_bytes())
        with called(master, folder) as stub:
            assert codes(stub) == [unavailable] * 3
    with grpc.insecure_channel(f"127.0.0.1:{master.port}") as channel:
        assert codes(dataset_pb2_grpc.MasterStub(channel)) == [unavailable] * 3  # type: ignore[no-untyped-call]


def served(master: DatasetMaster, authority: Authority) -> bytes:
    """The certificate that the master shows."""
    context = ssl.create_default_context(cafile=authority.folder / "ca.crt")
    context.load_cert_chain(authority.folder / "node" / "tls.crt", authority.folder / "node" / "tls.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", master.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="master.efc") as sealed,
    ):
        assert sealed.version() == "TLSv1.3"
        return sealed.getpeercert(binary_form=True) or b""


def test_certificates_are_read_again_when_they_change(master: DatasetMaster, authority: Authority) -> None:
    former = served(master, authority)
    assert served(master, authority) == former
    (authority.folder / "master" / "tls.crt").write_text("nonsense")
    assert served(master, authority) == former, "what cannot be used is not"
    authority.signed("master")
    assert served(master, authority) != former


def test_a_node_gets_orders_at_once_and_whenever_they_change(master: DatasetMaster, authority: Authority) -> None:
    ended = threading.Event()

    def reports() -> Iterator[dataset_pb2.NodeReport]:
        yield dataset_pb2.NodeReport(node="n", volumes=1)
        ended.wait(30)

    with called(master, authority.folder / "node") as stub:
        orders = stub.Connect(reports(), timeout=30)
        master.configure(orders=dataset_pb2.Orders(options={"attr-ttl": "1s"}))
        assert dict(next(orders).options) == {"attr-ttl": "1s"}
        master.configure(walk_every_ms=1)  # no news for nodes
        master.configure(orders=dataset_pb2.Orders(options={"attr-ttl": "2s"}))
        assert dict(next(orders).options) == {"attr-ttl": "2s"}
        master.await_figures(lambda figures: [node.connected for node in figures.nodes] == [True], what="the node")
        ended.set()
        assert list(orders) == []
    master.await_figures(lambda figures: [node.connected for node in figures.nodes] == [False], what="its end")


def test_a_source_that_cannot_be_reached_is_told(master: DatasetMaster) -> None:
    master.configure(mounts=[dataset_pb2.SourceMount(source="nfs://127.0.0.1:1/data?mountport=1", path="/")])
    figures = master.await_figures(
        lambda figures: figures.source.known and figures.totals.reason != "", what="a reason"
    )
    assert not figures.source.reachable
    assert "127.0.0.1" in figures.source.reason
    assert not figures.totals.known


def test_a_worker_that_hangs_delays_no_other(master: DatasetMaster) -> None:
    with master.worker() as worker, socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = dataset_pb2.Worker(name="hangs", address=f"127.0.0.1:{silent.getsockname()[1]}")
        master.configure(workers=[worker, hanging])
        figures = master.await_figures(lambda figures: figures.workers[0].reachable, what="an answer", limit_s=10)
        assert not figures.workers[1].reachable


def test_what_cannot_work_is_refused(authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tls = authority.signed("master")
    arguments = ["master", "--listen", "127.0.0.1:1", "--state", str(tmp_path), "--tls"]
    assert main([*arguments, str(tmp_path)]) == 1
    assert "cannot be used for TLS" in capsys.readouterr().err
    (tls / "tls.key").write_bytes(authority.signed("node").joinpath("tls.key").read_bytes())
    assert main([*arguments, str(tls)]) == 1
    assert "KEY_VALUES_MISMATCH" in capsys.readouterr().err


async def test_nodes_look_again_for_a_master_that_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose figures nobody watches ends their connections; one that is watched does not."""
    monkeypatch.setattr("csi.master.service._UNWATCHED_SECONDS_MAX", 0.3)
    core, context = Core(), Caller()
    service = MasterService(core, Changes())

    async def reports() -> AsyncIterator[dataset_pb2.NodeReport]:
        yield dataset_pb2.NodeReport(node="n")
        await asyncio.sleep(30)

    figures = service.WatchFigures(dataset_pb2.WatchFiguresRequest(), context)  # type: ignore[arg-type]
    await anext(figures)
    watched = asyncio.create_task(anext(service.Connect(reports(), context), None))  # type: ignore[arg-type]
    await asyncio.sleep(1)
    assert not watched.done()
    assert core.figures(time.time()).nodes[0].connected
    await figures.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        assert await watched is None
    assert not core.figures(time.time()).nodes[0].connected


class Caller:
    """The context of a call by somebody who may call everything."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_common_name": [b"operator"]}


async def test_a_disk_that_takes_nothing_costs_the_state_alone(authority: Authority, tmp_path: Path) -> None:
    """A full one, for example: nodes are told all the same."""
    full = tmp_path / "full"
    full.write_bytes(b"")
    listen = f"127.0.0.1:{free_port()}"
    async with Master(listen=listen, tls=authority.signed("master"), state=full / "state") as master:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await master.failed()


def test_its_state_is_written_when_it_ends(master: DatasetMaster) -> None:
    master.configure()
    master.stop()
    assert json.loads((master.folder / "state" / "master.json").read_bytes())["dataset"] == master.uid
