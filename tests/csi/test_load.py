"""Many calls at once, calls that hang, and what the processes take. How fast calls are: `make bench`."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from csi._proto import csi_pb2
from tests.support.driver import Driver, static_volume
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import memory_bytes, processes, wait_until

MIB = 1 << 20
SIDE_BY_SIDE = 100
HUNG = 10
NODE_PLUGIN_BYTES_MAX = 50_000_000
IDLE_DAEMON_BYTES_MAX = 16 * MIB


def test_a_hundred_publishes_side_by_side(driver: Driver, nas: Nas) -> None:
    volume, first = static_volume("side-by-side", nas.url), driver.target()
    driver.publish(volume, first)  # the daemon runs
    targets = [driver.target() for _ in range(SIDE_BY_SIDE)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(lambda target: driver.publish(volume, target), targets))
        assert {mount.target for mount in driver.published()} == {first, *targets}
        assert len(driver.daemons()) == 1
        list(pool.map(lambda target: driver.unpublish(volume, target), [first, *targets]))
    assert driver.published() == []


#: Runs in place of efc-mount-helper: waits, a second at most, until so many are there at once; then it is the helper.
_MEETING = """#!/bin/sh
echo "$1" >> {folder}/log
touch {folder}/meeting/$$
turns=0
while [ ! -e {folder}/met ] && [ $turns -lt 20 ]; do
    [ "$(ls {folder}/meeting | wc -l)" -lt {meet} ] || touch {folder}/met
    sleep 0.05
    turns=$((turns + 1))
done
rm -f {folder}/meeting/$$
exec {helper} "$@"
"""
MEET = 8


def test_publishes_run_side_by_side_with_one_helper_each(nas: Nas, tmp_path: Path) -> None:
    """What makes them fast, counted: none waits for another's bind mount, and each takes one process."""
    programs, folder = tmp_path / "programs", tmp_path / "helpers"
    programs.mkdir()
    (folder / "meeting").mkdir(parents=True)
    helper = program("efc-mount-helper").resolve()
    for path in helper.parent.glob("efc*"):
        if path.is_file() and path.stat().st_mode & 0o100 and path.name != helper.name:
            (programs / path.name).symlink_to(path)
    (programs / helper.name).write_text(_MEETING.format(folder=folder, meet=MEET, helper=helper))
    (programs / helper.name).chmod(0o755)
    with Driver(source=nas.url, node_programs=programs) as driver:
        volume, first = static_volume("meet", nas.url), driver.target()
        driver.publish(volume, first)  # the daemon runs
        (folder / "log").write_text("")
        targets = [driver.target() for _ in range(2 * MEET)]
        with ThreadPoolExecutor(len(targets)) as pool:
            list(pool.map(lambda target: driver.publish(volume, target), targets))
            assert (folder / "met").exists(), f"{MEET} publishes never had a helper at the same time"
            assert _words(folder / "log") == {"bind": len(targets)}
            (folder / "log").write_text("")
            list(pool.map(lambda target: driver.unpublish(volume, target), targets))
            assert _words(folder / "log") == {"unmount": len(targets)}
        driver.unpublish(volume, first)


def _words(log: Path) -> Counter[str]:
    """What helpers were started for; surveys, which go on by themselves, are left out."""
    words = Counter(log.read_text().split())
    del words["survey"]
    return words


def test_a_hundred_first_publishes_start_one_daemon(driver: Driver, nas: Nas) -> None:
    """None runs yet: whoever comes first launches it, all others wait for the same."""
    wait_until(lambda: not driver.daemons(), what="earlier daemons to be released")
    volume = static_volume("first", nas.url)
    targets = [driver.target() for _ in range(SIDE_BY_SIDE)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(lambda target: driver.publish(volume, target), targets))
        assert len(driver.daemons()) == 1
        list(pool.map(lambda target: driver.unpublish(volume, target), targets))


def test_one_target_published_many_times_at_once(driver: Driver, nas: Nas) -> None:
    """Each call succeeds or is ABORTED because another works on the target; there is one mount in the end."""
    volume, target = static_volume("same-target", nas.url), driver.target()

    def publish(_number: int) -> grpc.StatusCode:
        try:
            driver.publish(volume, target)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(publish, range(20)))
    assert grpc.StatusCode.OK in codes
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}
    assert [mount.target for mount in driver.published()] == [target]
    driver.unpublish(volume, target)
    assert driver.published() == []


def test_memory(driver: Driver, nas: Nas, measured: dict[str, object]) -> None:
    """After everything above: what the node plugin and an idle daemon take."""
    volume, target = static_volume("memory", nas.url), driver.target()
    wait_until(lambda: not driver.daemons(), what="earlier daemons to be released")
    driver.publish(volume, target)
    (daemon,) = driver.daemons()
    node_bytes, daemon_bytes = memory_bytes(driver.pid("node")), memory_bytes(daemon.pid)
    driver.unpublish(volume, target)
    measured |= {"node_plugin_mb": round(node_bytes / 1e6, 1), "idle_daemon_mib": round(daemon_bytes / MIB, 1)}
    assert node_bytes <= NODE_PLUGIN_BYTES_MAX
    assert daemon_bytes <= IDLE_DAEMON_BYTES_MAX


@pytest.mark.timeout(300)
def test_ten_hung_publishes_do_not_block_probe() -> None:
    """The NAS freezes: publishes of ten datasets hang, everything else is answered, and in the end nothing is left."""
    with Nas() as nas, Driver(source=nas.url) as driver:
        for number in range(HUNG):
            (nas.export_folder() / f"dataset-{number}").mkdir()
        volumes = [static_volume(f"hung-{number}", nas.url_of(f"export/dataset-{number}")) for number in range(HUNG)]
        targets = [driver.target() for _ in volumes]
        nas.pause()
        with ThreadPoolExecutor(HUNG) as pool:
            calls = [pool.submit(_error_of_publish, driver, *pair) for pair in zip(volumes, targets, strict=True)]
            for _ in range(30):
                driver.call("node", "Probe", csi_pb2.ProbeRequest(), limit_s=20)
                time.sleep(0.05)
            # Each probe was answered before any of them.
            assert not any(call.done() for call in calls), "they did not hang, so this proves nothing"
            codes = {call.result(timeout=120) for call in calls}
        assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        assert driver.published() == []
        assert [path for path in targets if path.exists()] == []
        wait_until(lambda: not driver.daemons(), what="the daemons of hung publishes to be gone", limit_s=20)
        assert [process for process in processes() if process.name == "efc-mount-helper"[:15]] == []
        nas.resume()
        target = driver.target(str(uuid.uuid4()))
        driver.publish(volumes[0], target)
        driver.unpublish(volumes[0], target)


def _error_of_publish(driver: Driver, volume: csi_pb2.Volume, target: Path) -> grpc.StatusCode:
    try:
        driver.publish(volume, target, limit_s=110)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_published_volume_of_a_hung_nas(driver: Driver, nas: Nas) -> None:
    """Stats are answered, with the condition that says why; unpublish works and leaves nothing."""
    volume, target = static_volume("hangs", nas.url), driver.target()
    driver.publish(volume, target)
    nas.pause()
    try:
        answer = driver.stats(volume, target)
        assert answer.volume_condition.abnormal
        assert "the NAS does not answer" in answer.volume_condition.message
        driver.unpublish(volume, target)
        assert not target.exists()
    finally:
        nas.resume()
    assert driver.published() == []
