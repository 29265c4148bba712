"""Keeper, node plugin and daemons die at once: containers that run go on with new opens, and nobody restarts them.

The programs are started again at once, as kubelet does it; times are from the kill, that included.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.containers import Bind, Container
from tests.support.driver import Driver, static_volume
from tests.support.keeper import Keeper
from tests.support.mounts import all_mounts, mounts_below
from tests.support.nas import Nas
from tests.support.processes import wait_until

FIRST_ID = 1_000_000
CONTENT = "as it was before"
#: What a request gets that finds nobody, and one that was under way.
DEAD = "not connected|connection abort"


def kill_all(driver: Driver, *, start: Sequence[str] = ("keeper", "node")) -> float:
    """SIGKILL of everybody who holds a session, at once; and a new start. Returns when that was."""
    daemons = driver.daemons()
    assert daemons, "there is no daemon, so this proves nothing"
    killed_at = time.monotonic()
    for pid in [driver.pid("node"), driver.pid("keeper"), *(daemon.pid for daemon in daemons)]:
        os.kill(pid, signal.SIGKILL)
    for name in ("node", "keeper"):
        driver.kill(name)  # reaps it
    for name in start:
        driver.start(name)
    return killed_at


def await_opens(containers: Sequence[Container], *, since: float) -> list[float]:
    """Waits until each container has opened its file for a while without an error; how long each had none, in s."""
    ready_at = []
    for container in containers:

        def is_back(container: Container = container) -> bool:
            polled = container.polled()
            return polled.last_error_at > since and polled.last_open_at > polled.last_error_at + 0.5

        wait_until(is_back, what=f"new opens in container {containers.index(container)}", limit_s=60)
        ready_at.append(container.polled().last_error_at - since)
    return ready_at


@pytest.fixture
def place(driver: Driver) -> Iterator[Path]:
    """A folder for the places of containers, in which they have `data` (a directory) and `file`; nothing is mounted."""
    wait_until(lambda: not driver.daemons(), what="earlier daemons to be released", limit_s=15)
    path = driver.folder / f"places-{uuid.uuid4()}"
    (path / "data").mkdir(parents=True)
    (path / "file").touch()
    for folder in (driver.folder, path, path / "data"):
        folder.chmod(0o755)
    yield path
    (path / "data").rmdir()
    (path / "file").unlink()
    path.rmdir()


@pytest.fixture
def export(nas: Nas) -> Path:
    """A folder of the NAS for one test, with a file and a folder with one."""
    path = nas.export_folder() / f"data-{uuid.uuid4()}"
    (path / "sub").mkdir(parents=True)
    for folder in (path, path / "sub"):
        folder.chmod(0o777)
    (path / "file").write_text(CONTENT)
    (path / "sub" / "file").write_text(CONTENT)
    return path


def test_running_containers_get_the_new_mount(driver: Driver, nas: Nas, export: Path, place: Path) -> None:
    """Without HostToContainer: a whole volume, subPaths, read-only, a user namespace, one that stands inside."""
    volume = static_volume(f"all-{uuid.uuid4()}", nas.url_of(f"export/{export.name}"))
    target, read_only, id_mapped = driver.target(), driver.target(), driver.target()
    driver.publish(volume, target)
    driver.publish(volume, read_only, readonly=True)
    driver.publish(volume, id_mapped, mount_flags=["idmap"])
    # As kubelet does it for a subPath, on the node.
    sub_path = driver.kubelet_root / "pods" / "p" / "volume-subpaths" / "data" / "main" / "0"
    sub_path.mkdir(parents=True)
    subprocess.run(["mount", "--bind", target / "sub", sub_path], check=True)
    data, file = place / "data", place / "file"
    options = ("ro", "nosuid", "nodev", "noexec", "noatime")
    with contextlib.ExitStack() as stack:
        whole, sub, sub_file, restricted, published_read_only, inside = containers = [
            stack.enter_context(Container(binds=[bind]))
            for bind in (
                Bind(source=str(target), place=str(data)),
                Bind(source=str(sub_path), place=str(data)),
                Bind(source=str(target / "sub" / "file"), place=str(file)),
                Bind(source=str(target), place=str(data), options=options),
                Bind(source=str(read_only), place=str(data)),
                Bind(source=str(target), place=str(data)),
            )
        ]
        pod = stack.enter_context(Container(binds=[Bind(source=str(id_mapped), place=str(data))], first_id=FIRST_ID))
        containers.append(pod)
        inside.change_directory(data / "sub")
        whole.hold(data / "file")
        for container in containers:
            container.poll(file if container is sub_file else data / "file", CONTENT)
        before = [container.mounts() for container in containers]
        assert all(len(mounts) == 1 for mounts in before), before
        devices = {mount.device for mount in mounts_below(driver.folder)}

        killed_at = kill_all(driver)
        times = await_opens(containers, since=killed_at)
        print("new opens after", [round(seconds, 2) for seconds in times], "s")

        assert [container.mounts() for container in containers] == before, "stacked, or other flags or places"
        wait_until(
            lambda: not devices & {mount.device for mount in all_mounts()}, what="dead mounts to go from the node"
        )
        for container in containers:
            polled = container.polled()
            assert set(polled.errors) <= {"ENOTCONN", "ECONNABORTED"}, (
                f"an empty or a wrong directory was seen: {polled}"
            )
        whole.write(data / "new", "by the whole")
        sub.write(data / "new", "by the sub path")
        pod.write(data / "by-a-pod", "root of the pod")
        assert (export / "new").read_text() == "by the whole"
        assert (export / "sub" / "new").read_text() == "by the sub path"
        assert (export / "by-a-pod").stat().st_uid == 0
        for container in (restricted, published_read_only):
            with pytest.raises(OSError, match="Read-only"):
                container.write(data / "refused", "x")
        assert inside.names(data) == ["by-a-pod", "file", "new", "sub"]
        # What cannot be saved says so, here and to the administrator.
        with pytest.raises(OSError, match=DEAD) as caught:
            whole.read_held()
        assert caught.value.errno == errno.ENOTCONN
        condition = driver.stats(volume, target).volume_condition
        assert not condition.abnormal, condition.message
        assert f"python ({whole.pid}): 1" in condition.message or f"({whole.pid}): 1" in condition.message
        assert f"({inside.pid}): its working directory" in condition.message

        subprocess.run(["umount", sub_path], check=True)
        for path in (target, read_only, id_mapped):
            driver.unpublish(volume, path)
            assert not path.exists()
        assert driver.published() == []
    wait_until(lambda: not driver.daemons(), what="the daemons to be released", limit_s=15)


def test_it_happens_again(driver: Driver, nas: Nas, export: Path, place: Path) -> None:
    """The new mount is as good as the old one, and so is the next."""
    volume, target = static_volume(f"again-{uuid.uuid4()}", nas.url_of(f"export/{export.name}")), driver.target()
    driver.publish(volume, target)
    data = place / "data"
    with Container(binds=[Bind(source=str(target), place=str(data))]) as container:
        container.poll(data / "file", CONTENT)
        for _ in range(3):
            await_opens([container], since=kill_all(driver))
        assert len(container.mounts()) == 1
    driver.unpublish(volume, target)


@pytest.mark.parametrize("moment_s", [0.4, 0.6, 0.8, 1.0])
def test_the_node_plugin_dies_in_between(driver: Driver, nas: Nas, export: Path, place: Path, moment_s: float) -> None:
    """Killed so long after its start, before, within or after a repair: the next one finishes it."""
    volume, target = static_volume(f"between-{uuid.uuid4()}", nas.url_of(f"export/{export.name}")), driver.target()
    driver.publish(volume, target)
    data, file = place / "data", place / "file"
    with (
        Container(binds=[Bind(source=str(target), place=str(data))]) as whole,
        Container(binds=[Bind(source=str(target / "sub" / "file"), place=str(file))]) as part,
    ):
        whole.poll(data / "file", CONTENT)
        part.poll(file, CONTENT)
        killed_at = kill_all(driver, start=["keeper"])
        killer = threading.Timer(moment_s, lambda: os.kill(driver.pid("node"), signal.SIGKILL))
        killer.start()
        with contextlib.suppress(RuntimeError):  # it ended before it could be asked
            driver.start("node")
        killer.join()
        driver.stop("node")  # it is dead; who started it takes note
        driver.start("node")
        await_opens([whole, part], since=killed_at)
        assert len(whole.mounts()) == len(part.mounts()) == 1
        assert (target / "file").read_text() == CONTENT
    driver.unpublish(volume, target)
    assert driver.published() == []


def test_a_volume_in_a_volume(driver: Driver, nas: Nas, export: Path, place: Path) -> None:
    """The inner one is found on the new outer one; a mount that is no volume of ours keeps the outer one as it is."""
    (export / "inner").mkdir()
    outer = static_volume(f"outer-{uuid.uuid4()}", nas.url_of(f"export/{export.name}"))
    inner = static_volume(f"inner-{uuid.uuid4()}", nas.url_of(f"export/{export.name}/sub"))
    outer_target, inner_target = driver.target(), driver.target()
    # Names and attributes that the kernel trusts: it drops a mount whose mount point it looks up in vain.
    driver.publish(outer, outer_target, mount_flags=["attr-ttl=3600s", "entry-ttl=3600s"])
    driver.publish(inner, inner_target)
    data = place / "data"
    nested = [
        Bind(source=str(outer_target), place=str(data)),
        Bind(source=str(inner_target), place=str(data / "inner")),
    ]
    with (
        Container(binds=nested) as container,
        Container(binds=nested[:1], tmpfs_at=str(data / "inner")) as foreign,
    ):
        container.poll(data / "inner" / "file", CONTENT)
        before = container.mounts()
        killed_at = kill_all(driver)
        await_opens([container], since=killed_at)
        assert container.mounts() == before
        assert container.read(data / "file") == CONTENT

        def is_reported() -> bool:
            condition = driver.stats(outer, outer_target).volume_condition
            return condition.abnormal and f"process {foreign.pid} at {data}" in condition.message

        wait_until(is_reported, what="the condition to say what stays dead", interval_s=0.2)
        with pytest.raises(OSError, match=DEAD):
            foreign.read(data / "file")
    driver.unpublish(outer, outer_target)
    driver.unpublish(inner, inner_target)


def test_a_sub_path_that_is_gone(driver: Driver, nas: Nas, export: Path, place: Path) -> None:
    """Removed on the NAS meanwhile: told, and no reason to fail the others."""
    volume, target = static_volume(f"gone-{uuid.uuid4()}", nas.url_of(f"export/{export.name}")), driver.target()
    driver.publish(volume, target)
    data = place / "data"
    with (
        Container(binds=[Bind(source=str(target / "sub"), place=str(data))]) as gone,
        Container(binds=[Bind(source=str(target), place=str(data))]) as whole,
    ):
        assert gone.names(data) == ["file"]
        whole.poll(data / "file", CONTENT)
        (export / "sub").rename(export / "renamed")
        await_opens([whole], since=kill_all(driver))

        def is_reported() -> bool:
            condition = driver.stats(volume, target).volume_condition
            return condition.abnormal and "No such file" in condition.message and str(gone.pid) in condition.message

        wait_until(is_reported, what="the condition to name the sub path", interval_s=0.2)
    driver.unpublish(volume, target)


def test_an_aborted_connection(driver: Driver, nas: Nas, export: Path, place: Path) -> None:
    """All holders live, and the session is over all the same: as when somebody frees a hung mount by hand."""
    volume, target = static_volume(f"abort-{uuid.uuid4()}", nas.url_of(f"export/{export.name}")), driver.target()
    driver.publish(volume, target)
    (device,) = {mount.device for mount in mounts_below(driver.folder)}
    data = place / "data"
    with Container(binds=[Bind(source=str(target), place=str(data))]) as container:
        container.poll(data / "file", CONTENT)
        aborted_at = time.monotonic()
        Path(f"/sys/fs/fuse/connections/{device.partition(':')[2]}/abort").write_text("1")
        await_opens([container], since=aborted_at)  # no new keeper draws attention to it
        assert len(container.mounts()) == 1
    driver.unpublish(volume, target)


def test_a_living_session_is_let_alone(driver: Driver, nas: Nas, export: Path, place: Path) -> None:
    """Restarts of keeper and node plugin, while the daemon serves, replace nothing; nor does one of the node plugin."""
    volume, target = static_volume(f"live-{uuid.uuid4()}", nas.url_of(f"export/{export.name}")), driver.target()
    driver.publish(volume, target)
    data = place / "data"
    with Container(binds=[Bind(source=str(target), place=str(data))]) as container:
        container.hold(data / "file")
        before = [(mount.target, mount.device) for mount in mounts_below(driver.folder)]
        for names in (("node",), ("keeper",), ("node", "keeper")):
            for name in names:
                driver.kill(name)
            for name in names:
                driver.start(name)
            time.sleep(1.5)
            assert [(mount.target, mount.device) for mount in mounts_below(driver.folder)] == before, names
            assert container.read_held() == CONTENT
        assert "after all processes that held" not in driver.stats(volume, target).volume_condition.message
    driver.unpublish(volume, target)


def test_efc_mount_again(keeper: Keeper, nas: Nas, export: Path) -> None:
    """Without Kubernetes: the same command mounts anew, and so does what containers have of the target."""
    target, place = keeper.mount(nas.url_of(f"export/{export.name}")), keeper.folder / "place"
    place.mkdir()
    with Container(binds=[Bind(source=str(target), place=str(place))]) as container:
        container.change_directory(place)
        before = container.mounts()
        for pid in (keeper.pid, keeper.daemon_pid(target)):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError, match=DEAD):
            container.read(place / "file")
        keeper.efc("mount", nas.url_of(f"export/{export.name}"), str(target))
        assert container.read(place / "file") == CONTENT
        assert container.mounts() == before
        assert [mount.target for mount in mounts_below(keeper.folder)] == [target]
        assert keeper.status(target)["repair"]["replaced"] == 1
        assert f"({container.pid}): its working directory" in keeper.efc("status")
        # A mount that is served stays, whatever is asked.
        pid = keeper.daemon_pid(target)
        keeper.efc("mount", nas.url_of(f"export/{export.name}"), str(target))
        assert keeper.daemon_pid(target) == pid
        os.kill(int(keeper.status(target)["keeper_pid"]), signal.SIGTERM)  # it ends with its last mount
    keeper.unmount(target)
    place.rmdir()
