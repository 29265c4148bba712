"""The metrics of a real driver at work: all that are documented are there, they move, and nothing stops a scrape."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from csi.observe.metrics import METRICS, Section
from tests.support.driver import Driver, static_volume
from tests.support.environment import clean_environment
from tests.support.metrics import Samples, families, parsed, scrape, total
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import stop_process, wait_until
from tests.support.workers import new_key

MIB = 1 << 20
FILE_BYTES = 8 * MIB
SCRAPE_S_MAX = 30.0  # what they must not wait for takes for ever


def names(*sections: Section) -> set[str]:
    return {name for name, metric in METRICS.items() if metric.section in sections}


def samples_of(driver: Driver, service: str = "node") -> Samples:
    return parsed(scrape(driver.metrics_ports[service]))


@contextmanager
def scraped_in_time(driver: Driver, limit_s: float = SCRAPE_S_MAX) -> Iterator[Samples]:
    began = time.monotonic()
    samples = samples_of(driver)
    assert time.monotonic() - began < limit_s
    yield samples


def test_every_documented_metric_is_served(driver: Driver, nas: Nas, tmp_path: Path) -> None:
    """Those of caches need a dataset that has workers, if they answer or not, and a local store; some need a read."""
    volume = driver.create("documented")
    target, with_caches = driver.target(), driver.target()
    driver.publish(volume, target)
    options = {"workers": "127.0.0.1:1", "workers-key": str(new_key(tmp_path)), "consistency": "sealed"}
    store = {"cache-dir": str(tmp_path), "cache-size": "64MiB"}
    driver.publish(static_volume("caches", nas.url, **options, **store), with_caches)
    (target / "file").write_text("content")
    (nas.export_folder() / "read").write_text("content")
    assert (with_caches / "read").read_text() == "content"
    node, controller = (scrape(driver.metrics_ports[name]) for name in ("node", "controller"))
    assert families(node) == names(Section.DATASET, Section.NODE, Section.SERVICE, Section.PROCESS)
    assert families(controller) == names(Section.CONTROLLER, Section.SERVICE, Section.PROCESS)
    by_hand = subprocess.run(
        [program("efc"), "metrics", "--run-dir", driver.run_dir], env=clean_environment(), capture_output=True,
        text=True, check=True, timeout=20,
    )  # fmt: skip
    assert families(by_hand.stdout) == names(Section.DATASET)
    assert set(parsed(by_hand.stdout)) <= set(parsed(node)), "the same series under the same names"
    driver.unpublish(static_volume("caches", nas.url), with_caches)
    driver.unpublish(volume, target)
    driver.delete(volume.volume_id)


def test_values_move_with_the_work(driver: Driver, nas: Nas) -> None:
    (nas.export_folder() / "moves").mkdir(mode=0o777)
    source = nas.url_of("export/moves")
    volume, target = static_volume("moves", source), driver.target()
    before = samples_of(driver)
    driver.publish(volume, target)
    data = os.urandom(FILE_BYTES)
    (target / "written").write_bytes(data)
    (nas.export_folder() / "moves" / "read").write_bytes(data)
    with (target / "read").open("rb") as file:
        assert file.read() == data
        after = samples_of(driver)
    (dataset,) = {dict(labels)["dataset"] for (_, labels) in after if dict(labels).get("source") == source}
    assert os.listdir(driver.run_dir / "mnt").count(dataset) == 1

    def value(name: str, **labels: str) -> float:
        return total(after, name, dataset=dataset, **labels)

    assert value("efc_nfs_read_bytes_total") >= FILE_BYTES
    assert value("efc_nfs_written_bytes_total") >= FILE_BYTES
    assert value("efc_nfs_spliced_bytes_total") > 0
    assert value("efc_fuse_requests_total") > 10
    assert value("efc_nfs_calls_total") > 10
    assert value("efc_inodes") >= 3
    assert value("efc_open_files") >= 1
    assert value("efc_nas_responding") == 1
    assert value("efc_daemon_uptime_seconds") > 0
    assert value("efc_daemon_state", state="serving") == value("efc_daemon_state") == 1
    assert abs(value("efc_mount_created_timestamp_seconds") - time.time()) < 60
    assert value("efc_volume_publications", volume_id="moves") == 1
    called = {"method": "NodePublishVolume"}
    calls = [total(samples, "efc_csi_calls_total", **called, code="OK") for samples in (before, after)]
    assert calls[1] == calls[0] + 1
    assert total(after, "efc_csi_call_duration_seconds_count", **called) == total(
        after, "efc_csi_calls_total", **called
    )
    assert total(after, "process_resident_memory_bytes") > MIB
    assert 0 < time.time() - total(after, "process_start_time_seconds") < 3600
    driver.unpublish(volume, target)
    assert total(samples_of(driver), "efc_volume_publications", volume_id="moves") == 0


def test_refused_calls_are_counted_by_code(driver: Driver, nas: Nas) -> None:
    volume = static_volume("refused", nas.url, path="../x")
    with suppress(grpc.RpcError):
        driver.publish(volume, driver.target())
    assert total(samples_of(driver), "efc_csi_calls_total", method="NodePublishVolume", code="INVALID_ARGUMENT") >= 1


def test_restarts_grow_and_counters_go_on_with_the_next_daemon(driver: Driver, nas: Nas) -> None:
    volume, target = static_volume("restarts", nas.url), driver.target()
    wait_until(lambda: not driver.daemons(), what="earlier daemons to be released")
    driver.publish(volume, target)
    with open(target / "log", "wb", buffering=0) as log:
        for _ in range(200):
            log.write(b"a line\n")
            os.fsync(log)
    before = samples_of(driver)
    (daemon,) = driver.daemons()
    os.kill(daemon.pid, signal.SIGKILL)
    wait_until(lambda: total(samples_of(driver), "efc_daemon_state", state="serving") == 1, what="the next daemon")
    os.listdir(target)
    after = samples_of(driver)
    assert total(after, "efc_daemon_restarts_total") == total(before, "efc_daemon_restarts_total") + 1
    for counter in ("efc_fuse_requests_total", "efc_nfs_calls_total"):
        assert total(after, counter) > total(before, counter) > 200
    driver.unpublish(volume, target)


def test_nothing_that_hangs_stops_a_scrape() -> None:
    """First the NAS, then a daemon, then the keeper."""
    with Nas() as nas, Driver(source=nas.url) as driver:
        volume, target = static_volume("hangs", nas.url), driver.target()
        driver.publish(volume, target)
        nas.pause()
        # Something has to wait for the NAS before the daemon can say that it does not answer.
        with subprocess.Popen(["stat", str(target / str(uuid.uuid4()))], stderr=subprocess.DEVNULL) as waiting:
            try:
                wait_until(
                    lambda: total(samples_of(driver), "efc_nas_responding") == 0,
                    what="efc_nas_responding 0", limit_s=60, interval_s=0.5,
                )  # fmt: skip
                with scraped_in_time(driver) as samples:
                    assert total(samples, "efc_daemon_state", state="unresponsive_nas") == 1
                    assert total(samples, "efc_nfs_oldest_call_age_seconds") > 1
                    assert total(samples, "efc_keeper_reachable") == 1
            finally:
                nas.resume()
            waiting.wait(60)
        (daemon,) = driver.daemons()
        read = total(samples_of(driver), "efc_nfs_calls_total")
        with stopped(daemon.pid), scraped_in_time(driver) as samples:
            assert total(samples, "efc_nfs_calls_total") >= read, "its last report"
        with stopped(driver.pid("keeper")), scraped_in_time(driver) as samples:
            assert total(samples, "efc_keeper_reachable") == 0
            assert families_of(samples) & names(Section.DATASET) == {"efc_keeper_reachable"}
            assert total(samples, "efc_publications") == 1
        wait_until(lambda: total(samples_of(driver), "efc_keeper_reachable") == 1, what="the keeper to be back")
        driver.unpublish(volume, target)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    stop_process(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def families_of(samples: Samples) -> set[str]:
    return {name for name, _ in samples}


def test_no_secret_is_served(driver: Driver, nas: Nas) -> None:
    secret = f"planted-{uuid.uuid4().hex}"
    volume = driver.create("secret", secrets={"password": secret})
    target = driver.target()
    tokens = {"csi.storage.k8s.io/serviceAccount.tokens": secret}
    driver.publish(volume, target, secrets={"k": secret}, volume_context={**volume.volume_context, **tokens})
    with suppress(grpc.RpcError):
        driver.publish(static_volume("bad", f"nfs://user:{secret}@127.0.0.1:1/x"), driver.target())
    for service in ("node", "controller"):
        assert secret not in scrape(driver.metrics_ports[service])
    driver.unpublish(volume, target)
    driver.delete(volume.volume_id, secrets={"password": secret})


def test_the_trash_is_counted(driver: Driver, nas: Nas) -> None:
    volume = driver.create("trash")
    driver.delete(volume.volume_id)
    samples = samples_of(driver, "controller")
    assert ("efc_trash_entries", (("source", nas.url),)) in samples
    wait_until(lambda: total(samples_of(driver, "controller"), "efc_trash_entries") == 0, what="the trash to be empty")
    assert total(samples, "efc_nas_operations_total", operation="mv", code="OK") >= 2


@pytest.mark.timeout(60)
def test_a_taken_port_does_not_stop_the_driver(driver: Driver, nas: Nas) -> None:
    """The node plugin of another run directory wants the same port."""
    with Driver(source=nas.url, metrics_ports=driver.metrics_ports) as other:
        volume, target = static_volume("port", nas.url), other.target()
        other.publish(volume, target)
        other.unpublish(volume, target)
        assert "trying again" in other.log("node").read_text()
