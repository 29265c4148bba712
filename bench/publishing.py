"""How fast volumes are published and unpublished on one node, and what a pair costs, with a daemon that runs.

`python -m bench publishing`, as root, in tests/support/sandbox as `make bench` does.

Over the real sockets, as kubelet calls: NodePublishVolume, then NodeUnpublishVolume, of one volume at ever new targets,
so and so many pairs in flight. CPU time is that of all that works for it: the node plugin with its helpers, the keeper
with its own, the daemon.

One after another, a call is a dozen hand-overs between processes, and each wakes a processor if it sleeps. On a virtual
machine that takes longer than the work itself, so the round of one in flight is measured twice: on a machine where
nothing else runs, and with processors that something of lowest priority keeps awake, as pods do on a node.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from csi._proto import csi_pb2
from tests.support.driver import Driver, capability, static_volume
from tests.support.nas import Nas
from tests.support.processes import awake_processors

#: In flight -> pairs.
ROUNDS = {1: 300, 10: 600, 100: 1_000}
_CALL_LIMIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round took."""

    in_flight: int
    pairs_per_minute: int
    publish_p50_ms: float
    publish_p99_ms: float
    unpublish_p50_ms: float
    unpublish_p99_ms: float
    cpu_ms_per_pair: float
    cpu_ms_per_pair_node_plugin: float


class _Client:
    """kubelet's part, on one connection and one event loop, so that it costs as little as it can."""

    def __init__(self, channel: grpc.aio.Channel, volume: csi_pb2.Volume) -> None:
        service = "/csi.v1.Node"
        self._volume = volume
        self._publish = channel.unary_unary(
            f"{service}/NodePublishVolume",
            request_serializer=csi_pb2.NodePublishVolumeRequest.SerializeToString,
            response_deserializer=csi_pb2.NodePublishVolumeResponse.FromString,
        )
        self._unpublish = channel.unary_unary(
            f"{service}/NodeUnpublishVolume",
            request_serializer=csi_pb2.NodeUnpublishVolumeRequest.SerializeToString,
            response_deserializer=csi_pb2.NodeUnpublishVolumeResponse.FromString,
        )

    async def publish(self, target: Path) -> float:
        """Milliseconds."""
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=self._volume.volume_id, target_path=str(target), volume_capability=capability(),
            volume_context=self._volume.volume_context,
        )  # fmt: skip
        began = time.monotonic()
        await self._publish(request, timeout=_CALL_LIMIT_S)
        return (time.monotonic() - began) * 1000

    async def unpublish(self, target: Path) -> float:
        """Milliseconds."""
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=self._volume.volume_id, target_path=str(target))
        began = time.monotonic()
        await self._unpublish(request, timeout=_CALL_LIMIT_S)
        return (time.monotonic() - began) * 1000


async def _pairs(
    driver: Driver, volume: csi_pb2.Volume, targets: Sequence[Path], *, in_flight: int
) -> list[list[float]]:
    """Milliseconds of all publishes, and of all unpublishes; `in_flight` pairs are under way at any time."""
    publish_ms: list[float] = []
    unpublish_ms: list[float] = []
    left = iter(targets)
    async with grpc.aio.insecure_channel(f"unix:{driver.socket('node')}") as channel:
        client = _Client(channel, volume)

        async def work() -> None:
            for target in left:
                publish_ms.append(await client.publish(target))
                unpublish_ms.append(await client.unpublish(target))

        await asyncio.gather(*(work() for _ in range(in_flight)))
    return [publish_ms, unpublish_ms]


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of those of its children that have ended (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)


def measure() -> Iterator[tuple[str, Round]]:
    """All rounds, with their names."""
    with Nas() as nas, Driver(source=nas.url) as driver:
        yield "1 in flight, processors asleep between", _round(driver, nas, in_flight=1)
        for in_flight in ROUNDS:
            with awake_processors():
                result = _round(driver, nas, in_flight=in_flight)
            yield f"{in_flight} in flight", result


def _round(driver: Driver, nas: Nas, *, in_flight: int) -> Round:
    volume, first = static_volume("rate", nas.url), driver.target()
    driver.publish(volume, first)  # the daemon runs
    (daemon,) = driver.daemons()
    others = (driver.pid("keeper"), daemon.pid)
    asyncio.run(_pairs(driver, volume, [driver.target() for _ in range(in_flight * 5)], in_flight=in_flight))  # warm
    targets = [driver.target() for _ in range(ROUNDS[in_flight])]
    node_s, others_s = _cpu_s(driver.pid("node")), sum(map(_cpu_s, others))
    began = time.monotonic()
    publish_ms, unpublish_ms = asyncio.run(_pairs(driver, volume, targets, in_flight=in_flight))
    duration_s = time.monotonic() - began
    node_s, others_s = _cpu_s(driver.pid("node")) - node_s, sum(map(_cpu_s, others)) - others_s
    assert [mount.target for mount in driver.published()] == [first]
    driver.unpublish(volume, first)
    return Round(
        in_flight=in_flight,
        pairs_per_minute=round(len(targets) / duration_s * 60),
        publish_p50_ms=_percentile(publish_ms, 50),
        publish_p99_ms=_percentile(publish_ms, 99),
        unpublish_p50_ms=_percentile(unpublish_ms, 50),
        unpublish_p99_ms=_percentile(unpublish_ms, 99),
        cpu_ms_per_pair=round((node_s + others_s) / len(targets) * 1000, 2),
        cpu_ms_per_pair_node_plugin=round(node_s / len(targets) * 1000, 2),
    )
