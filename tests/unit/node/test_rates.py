"""Rates of mounts, from one report of the keeper's to the next."""

from __future__ import annotations

import pytest

from csi._proto import efc_pb2
from csi.cli.top import view_of
from csi.node.rates import Rates, Sampler


def status(
    *, nas: int = 0, workers: int = 0, uptime_ms: int = 1000, pid: int = 7, connection: int = 5
) -> efc_pb2.MountStatus:
    stats = efc_pb2.DaemonStats(
        uptime_ms=uptime_ms,
        nfs=efc_pb2.NfsStats(bytes_read=nas, calls=nas // 10, bytes_written=nas // 2),
        fuse=efc_pb2.FuseStats(requests=nas // 5),
        cache=efc_pb2.CacheStats(workers_bytes=workers, nas_bytes=nas),
    )
    return efc_pb2.MountStatus(target="/m", pid=pid, connection=connection, stats=stats)


def between(first: efc_pb2.MountStatus, second: efc_pb2.MountStatus, *, seconds: float = 2.0) -> Rates | None:
    sampler = Sampler()
    assert sampler.take([first], now=0.0) == {"/m": None}, "one report is no rate"
    return sampler.take([second], now=seconds)["/m"]


def test_rates_are_by_the_daemons_own_clock() -> None:
    rates = between(status(), status(nas=3000, workers=1000, uptime_ms=3000), seconds=99.0)
    assert rates is not None
    assert (rates.bytes_read, rates.bytes_written, rates.calls, rates.requests) == (2000, 750, 150, 300)
    assert rates.shares() == {"memory": 0, "store": 0, "workers": 0.25, "nas": 0.75}
    assert Rates().shares() == {}


def test_what_a_read_took_is_the_average_of_those_in_between() -> None:
    def timed(uptime_ms: int, **took: tuple[int, list[int]]) -> efc_pb2.MountStatus:
        one = status(uptime_ms=uptime_ms)
        for level, (sum_us, buckets) in took.items():
            one.stats.latency.reads.add(of=level, sum_us=sum_us, buckets=buckets)
        return one

    first = timed(1000, nas=(1000, [1, 0]), store=(50, [1, 0]))
    rates = between(first, timed(3000, nas=(9000, [2, 3]), store=(50, [1, 0]), workers=(300, [0, 2])))
    assert rates is not None
    assert rates.level_ms == {"nas": 2.0, "workers": 0.15}
    view = view_of(first, rates, [])
    assert view["level_ms"] == {"nas": 2.0, "workers": 0.15}


@pytest.mark.parametrize("nas", [500, 2000])
def test_a_replaced_daemon_gives_no_negative_rate(nas: int) -> None:
    """It died before it had reported all; its successor's uptime is less."""
    rates = between(status(nas=1000, uptime_ms=9000), status(nas=nas, uptime_ms=10, pid=8))
    assert rates is not None
    assert rates.bytes_read == max(0, nas - 1000) / 2
    assert rates.calls >= 0


def test_a_new_session_at_the_same_target_begins_anew() -> None:
    assert between(status(nas=1000), status(nas=5000, uptime_ms=2000, connection=6)) is None


def test_a_report_that_is_repeated_changes_nothing() -> None:
    sampler = Sampler()
    sampler.take([status()], now=0.0)
    first = sampler.take([status(nas=1000, uptime_ms=2000)], now=1.0)["/m"]
    assert sampler.take([status(nas=1000, uptime_ms=2000)], now=2.0)["/m"] == first
    later = sampler.take([status(nas=5000, uptime_ms=4000)], now=3.0)["/m"]
    assert later is not None
    assert later.bytes_read == 2000, "since the report before"


def test_mounts_come_and_go() -> None:
    sampler = Sampler()
    sampler.take([status()], now=0.0)
    assert sampler.take([], now=1.0) == {}
    assert sampler.take([status(nas=5, uptime_ms=5000)], now=2.0) == {"/m": None}
    starting = efc_pb2.MountStatus(target="/s")
    assert sampler.take([starting], now=3.0) == {"/s": None}
    view = view_of(starting, None, [])
    assert (view["read_bytes_per_second"], view["levels"], view["memory_bytes"]) == (None, None, None)
