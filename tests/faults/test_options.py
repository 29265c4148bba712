"""Options of a mounted dataset change under its applications: `efc upgrade -o`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.node import keeper as csi_keeper
from csi.node.sessions import REFRESH_SECONDS
from tests.support.driver import Driver, static_volume
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import wait_until

ROLLOUTS = 12
LOOKS = 20
ENDS_OF_DAEMONS = 9


def connections(pid: int, port: int) -> int:
    """TCP connections to the NAS that this process has."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{line[9]}]" in sockets and line[2].endswith(f":{port:04X}") for line in lines)


def use_all_connections(folder: Path) -> None:
    """A daemon's connections are made as they are needed, and a file belongs to one of them."""
    for number in range(64):
        path = folder / f"some-{number}"
        path.write_text("content")
        path.chmod(0o640)  # a call about the file itself, not about its directory


def test_files_stay_open_and_the_next_daemon_serves_with_them(nas: Nas, keeper: Keeper) -> None:
    folder = nas.export_folder()
    target = keeper.mount(nas.url, options=["connections=2", "attr-ttl=60m"])
    with (target / "open").open("w", buffering=1) as file:
        file.write("before\n")
        (folder / "old").write_text("12345")
        assert (target / "old").stat().st_size == 5
        former = keeper.daemon_pid(target)
        use_all_connections(target)
        wait_until(lambda: connections(former, nas.port) == 2, what="both connections")
        keeper.efc("upgrade", str(target), "-o", "connections=5,attr-ttl=0s")
        file.write("and after\n")
    status = keeper.status(target)
    assert status["pid"] != former
    assert (status["options"]["connections"], status["options"].get("attr_ttl_ms", 0)) == (5, 0)
    use_all_connections(target)
    wait_until(lambda: connections(status["pid"], nas.port) == 5, what="all connections")
    assert (target / "open").read_text() == "before\nand after\n"
    # From now on nothing is trusted unasked; what the kernel was told before is, as long as it was told.
    (folder / "new").write_text("1")
    assert (target / "new").stat().st_size == 1
    (folder / "new").write_text("123")
    assert (target / "new").stat().st_size == 3

    keeper.replace_daemon(target)
    assert keeper.status(target)["options"]["connections"] == 5, "they stay with the mount, not the daemon"
    keeper.unmount(target)


def calls_of_stats(keeper: Keeper, target: Path, name: str) -> int:
    """How many calls to the NAS it takes to look at one file again and again."""
    (target / name).write_text("content")
    (target / name).stat()
    before = keeper.status(target)["stats"]["nfs"]["calls"]
    for _ in range(LOOKS):
        (target / name).stat()
    return int(keeper.status(target)["stats"]["nfs"]["calls"]) - before


def test_a_running_daemon_takes_live_options_and_stays(nas: Nas, keeper: Keeper) -> None:
    nas.export_folder()
    target = keeper.mount(nas.url, options=["attr-ttl=0s", "entry-ttl=0s"])
    first = keeper.status(target)
    assert calls_of_stats(keeper, target, "asked") >= LOOKS
    keeper.efc("upgrade", str(target), "-o", "attr-ttl=60m,entry-ttl=60m,log-level=debug")
    status = keeper.status(target)
    assert (status["pid"], status["restarts"]) == (first["pid"], 0)
    assert (status["options"]["attr_ttl_ms"], status["options"]["log_level"]) == (3_600_000, "debug")
    assert calls_of_stats(keeper, target, "trusted") < LOOKS
    assert Path(f"/proc/{first['pid']}/environ").stat().st_uid != 0, "with debug it may be traced by its own user"

    # The next keeper hears of them from the daemon, the next daemon from that keeper.
    keeper.kill()
    keeper.start()
    assert keeper.status(target)["options"]["attr_ttl_ms"] == 3_600_000
    keeper.replace_daemon(target)
    assert calls_of_stats(keeper, target, "trusted-by-the-next") < LOOKS

    successor = keeper.status(target)
    keeper.efc("upgrade", str(target), "-o", "attr-ttl=0s,entry-ttl=0s,log-level=info")
    status = keeper.status(target)
    assert (status["pid"], status["restarts"]) == (successor["pid"], 1)
    assert calls_of_stats(keeper, target, "asked-again") >= LOOKS
    assert Path(f"/proc/{successor['pid']}/environ").stat().st_uid == 0
    # Without options another daemon is what is wanted.
    keeper.efc("upgrade", str(target))
    assert keeper.status(target)["restarts"] == 2
    keeper.unmount(target)


class Counters:
    """The counters of a mount, which may never go down."""

    def __init__(self, keeper: Keeper, target: Path) -> None:
        self._keeper, self._target = keeper, target
        self.last: dict[str, int] = {}

    def look(self) -> None:
        """Fails if one has gone down."""
        stats = self._keeper.status(self._target)["stats"]
        if stats is None:
            return  # the next daemon has not reported
        gauges = {"responding", "oldest_call_ms"}
        now = {name: count for part in ("fuse", "nfs") for name, count in stats[part].items() if name not in gauges}
        assert all(now[name] >= count for name, count in self.last.items()), f"{now} after {self.last}"
        self.last = now


def test_counters_go_on_from_daemon_to_daemon(nas: Nas, keeper: Keeper) -> None:
    nas.export_folder()
    target = keeper.mount(nas.url)
    counters = Counters(keeper, target)
    for number in range(ENDS_OF_DAEMONS):
        for part in range(8):
            (target / f"file-{number}-{part}").write_bytes(bytes(1 << 16))
        counters.look()
        written = counters.last["bytes_written"]
        if number % 3 == 2:
            keeper.kill()
            keeper.start()
        elif number % 3 == 1:
            keeper.efc("upgrade", str(target))
        else:
            keeper.replace_daemon(target)
        counters.look()
        assert counters.last["bytes_written"] >= written >= (number + 1) * 8 << 16
    keeper.unmount(target)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("ro", "'ro' in -o cannot change while mounted"),
        ("idmap", "'idmap' in -o cannot change while mounted"),
        ("timeout=5s", "needs 'soft'"),
        ("threads=0", "allowed is a whole number, 1 to 64"),
        ("thread=3", "did you mean 'threads'"),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_touched(nas: Nas, keeper: Keeper, options: str, reason: str) -> None:
    target = keeper.mount(nas.url)
    before = keeper.status(target)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        keeper.efc("upgrade", str(target), "-o", options)
    assert reason in refused.value.stderr
    assert keeper.status(target)["pid"] == before["pid"]
    keeper.unmount(target)


@pytest.mark.parametrize("in_place", [False, True], ids=["by a new daemon", "in place"])
def test_options_change_beside_a_rollout(nas: Nas, keeper: Keeper, *, in_place: bool) -> None:
    """An OK means that the options are in force, and each wish has its turn."""
    target = keeper.mount(nas.url)
    keepers = csi_keeper.Keeper(str(keeper.run_dir))

    async def both(attr_ttl_ms: int) -> tuple[int, int]:
        [mount] = (await keepers.status(str(target))).mounts
        base = csi_keeper.options_of(mount)
        options = efc_pb2.DaemonConfig()
        options.CopyFrom(base)
        options.attr_ttl_ms = attr_ttl_ms
        changed, _ = await asyncio.gather(
            keepers.upgrade(target=str(target), options=options, base=base, in_place=in_place),
            keepers.upgrade(target=str(target)),
        )
        [mount] = (await keepers.status(str(target))).mounts
        return csi_keeper.options_of(changed).attr_ttl_ms, csi_keeper.options_of(mount).attr_ttl_ms

    for attr_ttl_ms in range(1, ROLLOUTS + 1):
        assert asyncio.run(both(attr_ttl_ms)) == (attr_ttl_ms, attr_ttl_ms)
    assert keeper.status(target)["restarts"] == ROLLOUTS * (1 if in_place else 2)
    keeper.unmount(target)


def change(driver: Driver, options: str) -> None:
    """Changes options of all mounts of the node."""
    command = [program("efc"), "upgrade", "--all", "-o", options, "--run-dir", driver.run_dir]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def connections_after_loss(driver: Driver, target: Path, *, port: int) -> int:
    """Kills keeper and daemon; what the daemon has that the next keeper starts from the node plugin's copy."""
    [daemon] = driver.daemons()
    driver.kill("keeper")
    os.kill(daemon.pid, signal.SIGKILL)
    driver.start("keeper")
    (target / "file").write_text("after")
    [successor] = driver.daemons()
    assert successor.pid != daemon.pid
    use_all_connections(target)
    return connections(successor.pid, port)


def test_a_volume_is_published_as_before_and_its_options_outlive_keeper_and_daemon(nas: Nas) -> None:
    """The same volume is published again after the change: by the options that it was mounted with it is found."""
    with Driver(source=nas.url) as driver:
        volume, targets = static_volume("live", nas.url), [driver.target(), driver.target()]
        driver.publish(volume, targets[0])
        change(driver, "connections=3")
        [changed] = driver.daemons()
        driver.publish(volume, targets[1])
        assert [daemon.pid for daemon in driver.daemons()] == [changed.pid], "one daemon serves both"
        assert connections_after_loss(driver, targets[0], port=nas.port) == 3

        change(driver, "connections=5")
        time.sleep(2 * REFRESH_SECONDS)  # without another publish the node plugin knows them by then
        assert connections_after_loss(driver, targets[0], port=nas.port) == 5
        for target in targets:
            driver.unpublish(volume, target)
