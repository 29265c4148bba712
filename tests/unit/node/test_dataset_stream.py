"""A node's connection to a master that is not what it should be, over real TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from csi._proto import dataset_pb2
from csi.master.service import MasterService
from csi.master.serving import Master
from csi.node import dataset_stream
from csi.node.dataset_stream import DatasetStream
from csi.operator import pki
from tests.support.driver import free_port
from tests.support.master import Authority

_LIMIT_S = 20


async def test_orders_without_end_are_taken_five_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flood(self: MasterService, _reports: object, _context: object) -> AsyncIterator[dataset_pb2.Orders]:
        del self
        revision = 0
        while True:
            revision += 1
            yield dataset_pb2.Orders(revision=revision)

    pauses: list[float] = []
    taken: list[int] = []
    real = asyncio.sleep

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(MasterService, "Connect", flood)
    listen = f"127.0.0.1:{free_port()}"
    with Authority.made() as authority:
        folder = authority.signed(pki.NODE)
        files = [(folder / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key")]
        secrets = dataset_pb2.Secrets(authority=files[0], certificate=files[1], private_key=files[2])
        async with Master(listen=listen, tls=authority.signed(pki.MASTER), state=tmp_path / "state"):
            monkeypatch.setattr("csi.node.dataset_stream.asyncio.sleep", pause)
            stream = DatasetStream(
                name="default/data",
                address=listen,
                secrets=lambda: secrets,
                report=lambda: dataset_pb2.NodeReport(node="n"),
                take=lambda orders: taken.append(orders.revision),
            )
            stream.start()
            async with asyncio.timeout(_LIMIT_S):
                while len(taken) < 100:
                    await real(0.01)
            await stream.close()
    assert taken[:3] == [1, 2, 3]
    assert pauses.count(dataset_stream._ORDERS_SECONDS_MIN) >= len(taken) - 1
