"""A process dies between any two steps: the next call finds or mends what is there, and nothing is lost or left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import pytest

from csi.config.mount_options import MountOptions
from csi.config.sources import Source
from csi.node.daemon_keys import daemon_key
from csi.node.keeper import Keeper
from tests.support.driver import SINGLE_WRITER, Driver, refused, static_volume
from tests.support.mounts import remove_mounts, small_disk
from tests.support.nas import Nas
from tests.support.processes import processes, wait_until

ALL = ("node", "controller")


def volumes_on(nas: Nas) -> set[str]:
    """What volumes there are on the NAS, records and what waits to be removed included.

    A directory that a cut-off creation was making may stay for an hour, when nobody can be making it any more; empty.
    """
    root = nas.export_folder()
    unfinished = (root / ".efc" / "new").glob("*")
    assert [path for path in unfinished if any(path.iterdir())] == []
    own = {
        str(path.relative_to(root)) for folder in ("volumes", "trash") for path in (root / ".efc" / folder).glob("*")
    }
    return own | {path.name for path in root.iterdir() if path.name != ".efc"}


def test_restart_between_any_two_calls(driver: Driver, nas: Nas) -> None:
    """SIGKILL of node plugin and controller before each call of a volume's life; mounts and daemons go on."""
    name, target = f"restarts-{uuid.uuid4()}", driver.target()
    driver.crash(*ALL)
    volume = driver.create(name)
    driver.crash(*ALL)
    assert driver.create(name) == volume
    driver.publish(volume, target)
    daemons = [daemon.pid for daemon in driver.daemons()]
    with (target / "file").open("w") as file:
        driver.crash(*ALL)
        file.write("open over the restart")
    driver.publish(volume, target)
    driver.crash(*ALL)
    assert driver.stats(volume, target).usage
    assert [daemon.pid for daemon in driver.daemons()] == daemons, "the daemon was restarted"
    driver.crash(*ALL)
    other = driver.target()
    driver.publish(volume, other)
    assert (other / "file").read_text() == "open over the restart"
    driver.crash(*ALL)
    driver.unpublish(volume, target)
    driver.crash(*ALL)
    driver.unpublish(volume, target)
    driver.unpublish(volume, other)
    driver.crash(*ALL)
    assert driver.published() == []
    driver.delete(volume.volume_id)
    driver.crash(*ALL)
    driver.delete(volume.volume_id)
    assert volumes_on(nas) == set()
    wait_until(lambda: not driver.daemons(), what="the idle daemon to be released")


def test_records_of_another_release_and_damaged_ones(driver: Driver, nas: Nas) -> None:
    """A key less, no JSON, a folder in their place: the pods' volumes go on for longer than the idle grace."""
    volume = driver.create(f"records-{uuid.uuid4()}")
    targets = [driver.target() for _ in range(3)]
    for target in targets:
        driver.publish(volume, target)
    files = sorted((driver.run_dir / "csi" / "published").iterdir())
    assert len(files) == len(targets)
    fields = json.loads(files[0].read_bytes()) | {"of_a_later_release": 1}
    del fields["read_only"]
    files[0].write_text(json.dumps(fields))
    files[1].write_bytes(b"[" * 100_000)
    files[2].unlink()
    files[2].mkdir()
    driver.crash("node")
    wait_until(lambda: "not released yet" in driver.log("node").read_text(), what="the end of a grace")
    for target in targets:
        (target / "file").write_text("served")
    daemons = [daemon.pid for daemon in driver.daemons()]
    for target in targets:
        driver.publish(volume, target)
        assert (target / "file").read_text() == "served"
        driver.unpublish(volume, target)
    assert [daemon.pid for daemon in driver.daemons()] in (daemons, [])
    driver.delete(volume.volume_id)
    wait_until(lambda: not driver.daemons(), what="the idle daemon to be released")
    assert driver.published() == []


def test_a_daemon_with_the_defaults_of_another_release_is_shared(driver: Driver, nas: Nas) -> None:
    """One more default in a release: its pods use the daemon that runs, and end nobody's."""
    source = Source.parse(nas.url)
    (nas.export_folder() / "file").write_text("data")
    dataset = driver.run_dir / "mnt" / daemon_key(source, MountOptions())
    wait_until(lambda: not dataset.exists(), what="the end of the last test's daemon")
    dataset.mkdir(parents=True)
    config = MountOptions(threads=3).daemon_config(source)
    asyncio.run(Keeper(str(driver.run_dir)).mount(target=str(dataset), config=config))
    (daemon,) = driver.daemons()
    volume, target = static_volume("shared", nas.url), driver.target()
    with (dataset / "file").open() as file:
        driver.publish(volume, target)
        assert [one.pid for one in driver.daemons()] == [daemon.pid]
        assert file.read() == (target / "file").read_text() == "data"
    driver.unpublish(volume, target)
    (nas.export_folder() / "file").unlink()
    wait_until(lambda: not driver.daemons(), what="the idle daemon to be released")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.timeout(180)
def test_controller_killed_within_create_and_delete(driver: Driver, nas: Nas, seed: int) -> None:
    """The controller dies at a random moment within the call; the next try succeeds."""
    moments = random.Random(seed)
    name = f"cut-off-{uuid.uuid4()}"
    for _ in range(2):
        _killed_within(driver, lambda: driver.create(name), after_s=moments.uniform(0, 0.12))
    volume = driver.create(name)
    assert (nas.export_folder() / volume.volume_context["path"]).is_dir()
    (nas.export_folder() / volume.volume_context["path"] / "file").write_text("content")
    for _ in range(2):
        _killed_within(driver, lambda: driver.delete(volume.volume_id), after_s=moments.uniform(0, 0.12))
    driver.delete(volume.volume_id)
    # What a killed one has moved to the trash the next one removes when it starts, and nobody waits for that.
    wait_until(lambda: volumes_on(nas) == set(), what="the trash to be empty", limit_s=30)


def _killed_within(driver: Driver, call: Callable[[], object], *, after_s: float) -> None:
    def attempt() -> None:
        with contextlib.suppress(grpc.RpcError):
            call()

    thread = threading.Thread(target=attempt)
    thread.start()
    time.sleep(after_s)
    driver.kill("controller")
    wait_until(lambda: not _nas_clients(), what="efc-fs to end with its controller, or by its own limit", limit_s=20)
    driver.start("controller")
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("seed", range(4))
def test_nas_client_killed_within_create_and_delete(driver: Driver, nas: Nas, seed: int) -> None:
    """efc-fs is killed again and again during calls: each ends in an error or in success, not in half of it."""
    moments = random.Random(seed)
    name, done = f"cut-off-{uuid.uuid4()}", threading.Event()

    def killer() -> None:
        while not done.is_set():
            time.sleep(moments.uniform(0, 0.05))
            for pid in _nas_clients():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        for _ in range(8):
            with contextlib.suppress(grpc.RpcError):
                driver.create(name)
    finally:
        done.set()
        thread.join(10)
    volume = driver.create(name)
    driver.delete(volume.volume_id)
    assert volumes_on(nas) == set()


def _nas_clients() -> list[int]:
    return [process.pid for process in processes() if process.name == "efc-fs" and process.state != "Z"]


def test_node_killed_within_publish_and_unpublish(driver: Driver) -> None:
    """After each cut-off call the CO repeats it, and then there is one mount, or none."""
    volume, moments = driver.create(f"cut-off-{uuid.uuid4()}"), random.Random(1)
    for _ in range(5):
        target = driver.target()
        _node_killed_within(driver, partial(driver.publish, volume, target), after_s=moments.uniform(0, 0.03))
        driver.publish(volume, target)
        assert [mount.target for mount in driver.published()] == [target]
        _node_killed_within(driver, partial(driver.unpublish, volume, target), after_s=moments.uniform(0, 0.03))
        driver.unpublish(volume, target)
        assert driver.published() == []
        assert not target.exists()
    driver.delete(volume.volume_id)


def _node_killed_within(driver: Driver, call: Callable[[], object], *, after_s: float) -> None:
    def attempt() -> None:
        with contextlib.suppress(grpc.RpcError):
            call()

    thread = threading.Thread(target=attempt)
    thread.start()
    time.sleep(after_s)
    driver.kill("node")
    driver.start("node")
    thread.join(30)
    assert not thread.is_alive()


def test_deletion_never_follows_a_mount(tmp_path: Path) -> None:
    """Another file system mounted below a volume's directory on the NAS keeps its files when the volume is deleted."""
    with Nas() as nas, small_disk(tmp_path / "disk", size_mib=16) as disk, Driver(source=nas.url) as driver:
        (disk / "precious").write_text("content")
        volume = driver.create("holds-a-mount")
        directory = nas.export_folder() / volume.volume_context["path"]
        (directory / "ours").write_text("content")
        below = directory / "sub" / "mounted"
        below.mkdir(parents=True)
        subprocess.run(["mount", "--bind", disk, below], check=True)
        try:
            with contextlib.suppress(grpc.RpcError):
                driver.delete(volume.volume_id)
            assert (disk / "precious").read_text() == "content"
        finally:
            mounted = [path for path in nas.export_folder().rglob("mounted") if os.path.ismount(path)]
            subprocess.run(["umount", *mounted], check=True)
        # With the mount out of the way the next deletion finishes the work.
        driver.delete(volume.volume_id)
        driver.crash("controller")
        wait_until(lambda: volumes_on(nas) == set(), what="the trash to be emptied")


def test_deletion_never_follows_a_symlink(driver: Driver, nas: Nas, tmp_path: Path) -> None:
    outside = nas.export_folder() / "outside"
    outside.mkdir()
    (outside / "precious").write_text("content")
    volume = driver.create(f"holds-links-{uuid.uuid4()}")
    directory = nas.export_folder() / volume.volume_context["path"]
    (directory / "relative").symlink_to("../outside")
    (directory / "absolute").symlink_to(outside)
    (directory / "elsewhere").symlink_to(tmp_path)
    driver.delete(volume.volume_id)
    assert (outside / "precious").read_text() == "content"
    assert volumes_on(nas) == {"outside"}
    (outside / "precious").unlink()
    outside.rmdir()


def test_without_a_keeper(driver: Driver, nas: Nas) -> None:
    """What is published is served on and can be unpublished; a new dataset is refused, at once and saying why."""
    volume, target = static_volume("served", nas.url), driver.target()
    (nas.export_folder() / "other").mkdir()
    other, other_target = static_volume("other", nas.url_of("export/other")), driver.target()
    driver.publish(volume, target)
    driver.kill("keeper")
    (target / "file").write_text("content")
    assert (nas.export_folder() / "file").read_text() == "content"
    with refused(grpc.StatusCode.UNAVAILABLE, limit_s=10) as message:
        driver.publish(other, other_target)
    assert "keeper" in message[0]
    assert not other_target.exists()
    driver.unpublish(volume, target)
    assert driver.published() == []
    driver.start("keeper")
    driver.publish(other, other_target)
    driver.unpublish(other, other_target)


@contextlib.contextmanager
def open_elsewhere(path: Path) -> Iterator[Callable[[], str]]:
    """Another process has the file open during the block; calling the result makes it read it.

    This process must not have it open itself: a child that it starts would close its copy, and wait for an answer that
    the very daemon gives that is being started.
    """
    script = 'exec 3<"$1"; echo open; read go; cat <&3'
    with subprocess.Popen(
        ["sh", "-c", script, "reader", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        yield lambda: reader.communicate("go\n", timeout=30)[0]


def test_a_new_keeper_takes_over(driver: Driver, nas: Nas) -> None:
    """The daemon stays, new pods of the dataset share it, and the new keeper replaces it when it dies."""
    wait_until(lambda: not driver.daemons(), what="earlier daemons to be released")
    volume, old, new = static_volume("shared", nas.url), driver.target(), driver.target()
    driver.publish(volume, old)
    (before,) = driver.daemons()
    with (old / "open").open("w+") as held:
        driver.kill("keeper")
        driver.start("keeper")
        driver.publish(volume, new)
        held.write("content")
        held.flush()
        assert (new / "open").read_text() == "content"
    assert [daemon.pid for daemon in driver.daemons()] == [before.pid]
    os.kill(before.pid, signal.SIGKILL)
    (new / "by-the-next").write_text("more")
    assert (old / "by-the-next").read_text() == "more"
    driver.unpublish(volume, old)
    driver.unpublish(volume, new)


def test_keeper_and_daemon_die_at_once(driver: Driver, nas: Nas) -> None:
    """The node plugin holds the session too, and gives it to the next keeper; open files stay open."""
    volume, target = static_volume("held", nas.url), driver.target()
    driver.publish(volume, target)
    (target / "file").write_text("content")
    with open_elsewhere(target / "file") as read:
        for _ in range(3):
            daemons = driver.daemons()
            driver.kill("keeper")
            for daemon in daemons:
                os.kill(daemon.pid, signal.SIGKILL)
            driver.start("keeper")
            assert (target / "file").read_text() == "content"
        assert read() == "content"
    driver.unpublish(volume, target)


def test_keeper_and_node_plugin_die_at_once(driver: Driver, nas: Nas) -> None:
    """The daemon has the session; the next ones of both get it, and each holds it again."""
    wait_until(lambda: not driver.daemons(), what="earlier daemons to be released")
    volume, target = static_volume("both", nas.url), driver.target()
    driver.publish(volume, target)
    (target / "file").write_text("content")
    (daemon,) = driver.daemons()
    with open_elsewhere(target / "file") as read:
        driver.kill("node")
        driver.kill("keeper")
        driver.start("keeper")
        driver.start("node")
        assert [found.pid for found in driver.daemons()] == [daemon.pid]
        # Now the node plugin alone has it.
        wait_until(lambda: holds_session(driver.pid("node")), what="the node plugin to hold the session")
        driver.kill("keeper")
        os.kill(daemon.pid, signal.SIGKILL)
        driver.start("keeper")
        assert read() == "content"
    driver.unpublish(volume, target)


def test_children_of_the_node_plugin_have_no_session(driver: Driver, nas: Nas) -> None:
    """One that hangs would keep a mount alive that everybody else has given up."""
    volume, target = static_volume("children", nas.url), driver.target()
    driver.publish(volume, target)
    node = driver.pid("node")
    wait_until(lambda: holds_session(node), what="the node plugin to hold the session")
    nas.pause()
    try:
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(driver.stats, volume, target)  # a statvfs that hangs
            wait_until(lambda: helpers_of(node), what="the statvfs helper")
            assert not any(holds_session(helper) for helper in helpers_of(node))
            nas.resume()
            asking.result(timeout=30)
    finally:
        nas.resume()
    driver.unpublish(volume, target)


def helpers_of(pid: int) -> list[int]:
    """The mount helpers that a process has started."""
    return [found.pid for found in processes() if found.parent_pid == pid and found.name == "efc-mount-helpe"]


def holds_session(pid: int) -> bool:
    """Whether a process has a FUSE session open."""
    return any(os.readlink(link) == "/dev/fuse" for link in Path(f"/proc/{pid}/fd").iterdir())


def test_everybody_dies_at_once(driver: Driver, nas: Nas) -> None:
    """Nobody has the session any more: the dead mount makes way for a new one, where it is published, too."""
    volume, old, new = static_volume("shared", nas.url), driver.target(), driver.target()
    driver.publish(volume, old)
    daemons = driver.daemons()
    for name in ("node", "keeper"):
        driver.kill(name)
    for daemon in daemons:
        os.kill(daemon.pid, signal.SIGKILL)
    wait_until(lambda: not os.path.isdir(old), what="the mount to be dead, also to the kernel's cache", limit_s=10)
    driver.start("keeper")
    driver.start("node")
    driver.publish(volume, new)
    (new / "file").write_text("content")
    assert (nas.export_folder() / "file").read_text() == "content"
    wait_until(lambda: os.path.isdir(old), what="the published mount to be replaced")
    assert (old / "file").read_text() == "content"
    driver.unpublish(volume, old)
    driver.unpublish(volume, new)
    assert driver.published() == []


def test_an_orderly_end_leaves_no_idle_daemon(driver: Driver, nas: Nas) -> None:
    """As when a node shuts down: what is in use stays, what waits for its grace to end is released."""
    (nas.export_folder() / "idle").mkdir()
    idle, used = static_volume("idle", nas.url_of("export/idle")), static_volume("used", nas.url)
    idle_target, used_target = driver.target(), driver.target()
    driver.publish(used, used_target)
    (daemon,) = driver.daemons()
    driver.publish(idle, idle_target)
    driver.unpublish(idle, idle_target)
    assert len(driver.daemons()) == 2, "its grace is over, so this proves nothing"
    driver.stop("node")
    assert [found.pid for found in driver.daemons()] == [daemon.pid]
    driver.start("node")
    driver.unpublish(used, used_target)


@contextlib.contextmanager
def another_boot(folder: Path) -> Iterator[None]:
    """Processes that start in the block see another boot_id."""
    file = folder / "boot_id"
    file.write_text(f"{uuid.uuid4()}\n")
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    subprocess.run(["mount", "--bind", file, boot_id], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", boot_id], check=True)


def test_a_reboot(nas: Nas, tmp_path: Path) -> None:
    """All processes and mounts are gone at once; the run directory is there still, which /run would not be."""
    with Driver(source=nas.url) as driver:
        volume, target = static_volume("reboot", nas.url), driver.target()
        driver.publish(volume, target, mode=SINGLE_WRITER)
        (target / "file").write_text("of the boot before")
        daemons = driver.daemons()
        for name in ("node", "keeper"):
            driver.kill(name)
        for daemon in daemons:
            os.kill(daemon.pid, signal.SIGKILL)
        remove_mounts(driver.folder)
        with another_boot(tmp_path):
            driver.start("keeper")
            driver.start("node")
        assert "removed a void record" in driver.log("node").read_text()
        after = driver.target()
        driver.publish(volume, after, mode=SINGLE_WRITER)  # nobody else has it
        assert (after / "file").read_text() == "of the boot before"
        for path in (after, target):
            driver.unpublish(volume, path)
            assert not path.exists()
