"""The table of metrics, the text that is made by it, and its HTTP server."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.node import collectors
from csi.node.keeper import Keeper, KeeperStatus
from csi.node.statistics import SUBSYSTEMS
from csi.observe import scraping
from csi.observe.exposition import Page, Recorder
from csi.observe.metrics import METRICS, Kind, Section, markdown
from csi.observe.process import counted_children
from csi.observe.scraping import CONNECTIONS_MAX, MetricsServer
from tests.support.driver import free_port
from tests.support.metrics import parsed
from tests.support.paths import ROOT


def test_the_document_has_the_table_of_the_code() -> None:
    assert markdown() in (ROOT / "docs" / "METRICS.md").read_text(), "python -m csi.observe.metrics"


def test_names_are_as_prometheus_wants_them() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"(efc|process)_[a-z_]+", name)
        assert name.endswith("_total") is (metric.kind is Kind.COUNTER), name
        assert not metric.unit or metric.unit in name, name
        assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM), name
        assert list(metric.buckets) == sorted(metric.buckets)
        assert "\\" not in metric.help, "HELP has an escape of its own"
        assert "\n" not in metric.help


#: Of datasets, before metrics had the names of subsystems.
FIRST_NAMES = {
    "efc_keeper_reachable", "efc_keeper_info", "efc_daemon_info", "efc_daemon_state", "efc_daemon_restarts_total",
    "efc_mount_created_timestamp_seconds", "efc_daemon_uptime_seconds", "efc_fuse_requests_total",
    "efc_nfs_calls_total", "efc_nfs_retransmits_total", "efc_nfs_reconnects_total", "efc_nfs_read_bytes_total",
    "efc_nfs_written_bytes_total", "efc_nfs_spliced_bytes_total", "efc_nfs_pipe_misfits_total", "efc_inodes",
    "efc_open_files", "efc_uncommitted_bytes", "efc_nas_responding", "efc_nfs_oldest_call_age_seconds",
}  # fmt: skip


def test_names_of_the_first_release_stay_and_later_ones_have_their_subsystem() -> None:
    names = {name for name, metric in METRICS.items() if metric.section is Section.DATASET}
    assert names >= FIRST_NAMES
    for name in names - FIRST_NAMES:
        assert name.startswith(tuple(f"efc_{subsystem}_" for subsystem in ("keeper", "daemon", *SUBSYSTEMS))), name


def test_a_page_is_what_prometheus_reads() -> None:
    recorder, page = Recorder(), Page()
    for seconds in (0.0025, 0.003, 1000.0):
        recorder.observe("efc_csi_call_duration_seconds", seconds, method="Probe")
    recorder.write(page)
    page.put("efc_nfs_read_bytes_total", 2**60 + 1, dataset="a\\b", source='x"y\nz')
    samples = parsed(page.text())
    assert samples["efc_nfs_read_bytes_total", (("dataset", "a\\b"), ("source", 'x"y\nz'))] == 2**60 + 1
    bucket = {dict(labels)["le"]: value for (name, labels), value in samples.items() if name.endswith("_bucket")}
    assert (bucket["0.0025"], bucket["0.005"], bucket["120"], bucket["+Inf"]) == (1, 2, 2, 3)
    method = (("method", "Probe"),)
    assert samples["efc_csi_call_duration_seconds_count", method] == 3
    assert samples["efc_csi_call_duration_seconds_sum", method] == pytest.approx(1000.0055)


def test_what_is_not_in_the_table_is_refused() -> None:
    page, recorder = Page(), Recorder()
    with pytest.raises(KeyError):
        page.put("efc_other", 1)
    with pytest.raises(TypeError):
        page.put("efc_children", 1, program="x")
    with pytest.raises(TypeError):
        recorder.count("efc_csi_calls_total", method="Probe")
    with pytest.raises(TypeError):
        recorder.observe("efc_children", 1)


async def test_outcomes() -> None:
    recorder, page = Recorder(), Page()
    metrics = ("efc_csi_calls_total", "efc_csi_call_duration_seconds")
    with recorder.outcome(*metrics, method="m"):
        pass
    for error in (DriverError(Code.ABORTED, "x"), ValueError(), asyncio.CancelledError()):
        with pytest.raises(type(error)), recorder.outcome(*metrics, method="m"):
            raise error
    recorder.write(page)
    samples = parsed(page.text())
    for code in ("OK", "ABORTED", "INTERNAL", "CANCELLED"):
        assert samples["efc_csi_calls_total", (("code", code), ("method", "m"))] == 1
    assert samples["efc_csi_call_duration_seconds_count", (("method", "m"),)] == 4


def test_datasets() -> None:
    source = efc_pb2.Source(host="nas", path="/x")
    mounts = [
        efc_pb2.MountStatus(
            target="/run/efc/mnt/0123456789abcdef", config=efc_pb2.DaemonConfig(source=source), version="1",
            state=efc_pb2.MountStatus.UNRESPONSIVE_NAS, restarts=3, mounted_at_unix_ms=1500,
            stats=efc_pb2.DaemonStats(
                uptime_ms=2500, nfs=efc_pb2.NfsStats(bytes_read=7, responding=False, oldest_call_ms=500)
            ),
        ),
        efc_pb2.MountStatus(target="/mnt/by-hand", config=efc_pb2.DaemonConfig(source=source)),
    ]  # fmt: skip
    page = Page()
    collectors.put_status(page, KeeperStatus(pid=1, version="1", mounts=mounts), run_dir="/run/efc")
    samples = parsed(page.text())
    labels = (("dataset", "0123456789abcdef"), ("source", "nfs://nas/x"))
    assert samples["efc_nfs_read_bytes_total", labels] == 7
    assert samples["efc_daemon_restarts_total", labels] == 3
    assert samples["efc_daemon_uptime_seconds", labels] == 2.5
    assert samples["efc_nfs_oldest_call_age_seconds", labels] == 0.5
    assert samples["efc_nas_responding", labels] == 0
    states = {dict(found)["state"]: value for (name, found), value in samples.items() if name == "efc_daemon_state"
              and dict(found)["dataset"] == "0123456789abcdef"}  # fmt: skip
    assert [state for state, value in states.items() if value] == ["unresponsive_nas"]
    assert len(states) == 5
    of_one = [pairs for _, pairs in samples if dict(pairs).get("dataset") == "0123456789abcdef"]
    assert f"{len(of_one)} for a dataset" in (ROOT / "docs" / "METRICS.md").read_text()
    by_hand = (("dataset", "/mnt/by-hand"), ("source", "nfs://nas/x"))
    assert samples["efc_daemon_restarts_total", by_hand] == 0
    assert ("efc_nfs_read_bytes_total", by_hand) not in samples, "it has not reported"


def test_times_are_of_the_buckets_that_daemons_have() -> None:
    source = (ROOT / "efc" / "cache" / "src" / "histogram.rs").read_text()
    bounds = re.search(r"BOUNDS_US: \[u64; [0-9]+\] = \[([^]]*)\]", source)
    assert bounds
    bounds_us = [int(bound.replace("_", "")) for bound in bounds[1].split(",")]
    buckets = [2, *[0] * (len(bounds_us) - 2), 3, 4]
    latency = efc_pb2.LatencyStats(
        bounds_us=bounds_us,
        reads=[
            efc_pb2.Latency(of="nas", sum_us=2_500_000, buckets=buckets),
            efc_pb2.Latency(of="store", buckets=[0] * 9),
        ],
        operations=[efc_pb2.Latency(of="open", sum_us=7, buckets=buckets)],
    )
    config = efc_pb2.DaemonConfig(source=efc_pb2.Source(host="nas", path="/x"))
    mount = efc_pb2.MountStatus(target="/m", config=config, stats=efc_pb2.DaemonStats(latency=latency))

    def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        page = Page()
        collectors.put_status(page, KeeperStatus(pid=1, version="1", mounts=[mount]), run_dir="/run/efc")
        return parsed(page.text())

    found = samples()
    labels = (("dataset", "/m"), ("source", "nfs://nas/x"), ("level", "nas"))
    assert found["efc_latency_read_seconds_sum", tuple(sorted(labels))] == 2.5
    assert found["efc_latency_read_seconds_count", tuple(sorted(labels))] == 9
    cumulative = {
        dict(pairs)["le"]: value for (name, pairs), value in found.items() if name.endswith("read_seconds_bucket")
    }
    assert (cumulative["5e-05"], cumulative["2.5"], cumulative["+Inf"]) == (2, 5, 9)
    assert not [pairs for _, pairs in found if dict(pairs).get("level") == "store"], "of which there was none"
    mount.stats.latency.bounds_us[0] += 1
    assert not [name for name, _ in samples() if name.startswith("efc_latency")], "of another release"


async def test_a_keeper_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectors, "KEEPER_SECONDS_MAX", 0.1)
    page = Page()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mute:
        mute.bind(str(tmp_path / "keeper.sock"))
        mute.listen()
        await asyncio.wait_for(collectors.put_datasets(page, Keeper(str(tmp_path)), run_dir=str(tmp_path)), 5)
    assert parsed(page.text()) == {("efc_keeper_reachable", ()): 0}


async def test_killed_children_are_counted_from_the_start() -> None:
    recorder = Recorder()
    children = counted_children(recorder, program="efc-fs")
    with pytest.raises(DriverError):
        await children.run(["/bin/sleep", "60"], deadline_seconds=0.1)
    page = Page()
    recorder.write(page)
    name = "efc_children_killed_total"
    assert parsed(page.text()) == {(name, (("program", "efc-fs"),)): 0, (name, (("program", "sleep"),)): 1}


# ---------------------------------------------------------------- HTTP


async def answer(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def page() -> str:
    return "efc_children 1\n"


@asynccontextmanager
async def serving(collect: object = page) -> AsyncIterator[int]:
    port = free_port()
    async with MetricsServer(f"127.0.0.1:{port}", collect):  # type: ignore[arg-type]
        for _ in range(100):
            if await answer_or_nothing(port):
                break
            await asyncio.sleep(0.02)
        yield port


async def answer_or_nothing(port: int) -> bytes:
    try:
        return await answer(port, b"GET / HTTP/1.1\r\n\r\n")
    except ConnectionRefusedError:
        return b""


async def test_requests() -> None:
    async with serving() as port:
        reply = await answer(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
        assert reply.endswith(b"Content-Length: 15\r\nConnection: close\r\n\r\nefc_children 1\n")
        assert (await answer(port, b"GET /metrics?x=y HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert (await answer(port, b"GET /other HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert (await answer(port, b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        assert await answer(port, b"x" * 20_000) == b"", "longer than a request may be"
        assert (await answer(port, b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")


async def test_a_bug_costs_one_scrape(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> str:
        raise ValueError("details")

    async with serving(broken) as port:
        reply = await answer(port, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 500 ")
        assert b"details" not in reply
        assert (await answer(port, b"GET /x HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
    assert "ValueError: details" in caplog.text


async def test_connections_that_say_nothing_are_few_and_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "CONNECTION_SECONDS_MAX", 0.5)
    async with serving() as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        assert await answer(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        for reader, writer in silent:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 10)
            writer.close()
        assert (await answer(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_an_address_that_is_taken_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scraping, "RETRY_SECONDS", 0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = int(taken.getsockname()[1])
        server = MetricsServer(f"127.0.0.1:{port}", page)
        await server.__aenter__()
        await asyncio.sleep(0.2)
    try:
        assert "trying again" in caplog.text
        for _ in range(100):
            if reply := await answer_or_nothing(port):
                break
            await asyncio.sleep(0.05)
        assert reply.startswith(b"HTTP/1.1 404 ")
    finally:
        await server.__aexit__()
