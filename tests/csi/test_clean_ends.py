"""A mount that hangs or is lost is got rid of within a stated time, whoever uses it, and the data on the NAS stays.

Three ways not to answer: the daemon is stopped (and not replaced: `hang-limit`), the NAS is, or all who held the
session have died. Three users: nobody, a process that has a file open, and one that waits for an answer just now. That
one gets an error when its mount has gone, and never stays behind in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from csi.node.keeper import Keeper as KeeperClient
from tests.support.driver import Driver, static_volume
from tests.support.keeper import Keeper
from tests.support.mounts import mounts_below
from tests.support.nas import Nas
from tests.support.processes import Process, processes, stop_process, wait_until

#: What ends each of these by itself takes ten minutes (hang-limit) or for ever, so the limits need not be short:
#: an unpublish waits for nothing, `efc umount` for what the daemon may take to flush (5 s), with --force for nothing.
UNPUBLISH_LIMIT_S, UMOUNT_LIMIT_S, FORCE_LIMIT_S = 40.0, 40.0, 40.0
#: From an unpublish to the end of the dataset's mount: its grace (2 s here), what a daemon may take to flush, its kill.
RELEASE_LIMIT_S = 60.0
CONTENT = "precious"


@dataclass(kw_only=True)
class User:
    """A process that uses a file of the mount; none at all if `process` is None."""

    process: subprocess.Popen[str] | None = None
    #: Makes it wait for an answer, once the mount does not give one.
    block: Callable[[], None] = field(default=lambda: None)
    is_blocked: bool = False


@contextlib.contextmanager
def user(kind: str, file: Path) -> Iterator[User]:
    """`nobody`, `open` or `blocked`."""
    if kind == "nobody":
        yield User()
        return
    script = 'exec 3<"$1"; echo open; read go; exec cat "$2"'
    with subprocess.Popen(
        ["sh", "-c", script, "user", file, file.with_name("other")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            using = User(process=process)
            if kind == "blocked":
                using.block = lambda: _block(using)
            yield using
        finally:
            process.kill()


def _block(using: User) -> None:
    assert using.process is not None
    assert using.process.stdin is not None
    using.process.stdin.write("go\n")
    using.process.stdin.flush()
    time.sleep(1)  # to get into the kernel
    using.is_blocked = using.process.poll() is None


def await_error(using: User) -> None:
    """Who was blocked has got an error, and is gone."""
    if using.process is not None and using.is_blocked:
        _, errors = using.process.communicate(timeout=RELEASE_LIMIT_S)
        assert using.process.returncode != 0
        assert "not connected" in errors or "connection abort" in errors, errors


def _lives(pid: int) -> bool:
    return any(process.pid == pid and process.state != "Z" for process in processes())


def stuck() -> list[Process]:
    """Processes that the kernel does not let go."""
    return [process for process in processes() if process.state == "D"]


def daemon_of(driver: Driver, export: Path) -> int:
    """Process id of the daemon that serves `export`.

    It may have company: the node plugin mounts what it finds lost anew, also while that is being unpublished, and
    releases it when its grace is over.
    """
    mounts = asyncio.run(KeeperClient(str(driver.run_dir)).status()).mounts
    (pid,) = (mount.pid for mount in mounts if mount.config.source.path.endswith(f"/{export.name}"))
    return pid


@pytest.fixture
def export(nas: Nas) -> Path:
    """A folder of the NAS for one test, with two files."""
    path = nas.export_folder() / f"data-{uuid.uuid4()}"
    path.mkdir()
    for name in ("file", "other"):
        (path / name).write_text(CONTENT)
    return path


@contextlib.contextmanager
def not_answering(how: str, *, nas: Nas, daemon_pid: int, kill_all: Callable[[], None]) -> Iterator[None]:
    """The block runs with a stopped daemon, a stopped NAS, or without anybody who serves."""
    if how == "lost":
        kill_all()
        yield
    elif how == "daemon stopped":
        stop_process(daemon_pid)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon_pid, signal.SIGCONT)
    else:
        nas.pause()
        try:
            yield
        finally:
            nas.resume()


HOW = pytest.mark.parametrize("how", ["daemon stopped", "NAS stopped", "lost"])
WHO = pytest.mark.parametrize("who", ["nobody", "open", "blocked"])


@HOW
@WHO
@pytest.mark.timeout(180)
def test_unpublish(driver: Driver, nas: Nas, export: Path, how: str, who: str) -> None:
    wait_until(lambda: not driver.daemons(), what="earlier daemons to be released", limit_s=RELEASE_LIMIT_S)
    volume, target = static_volume(f"end-{uuid.uuid4()}", nas.url_of(f"export/{export.name}")), driver.target()
    driver.publish(volume, target, mount_flags=["hang-limit=600s"])
    daemon_pid = daemon_of(driver, export)

    def kill_all() -> None:
        for pid in (driver.pid("node"), driver.pid("keeper"), daemon_pid):
            os.kill(pid, signal.SIGKILL)
        for name in ("node", "keeper"):
            driver.kill(name)

    with user(who, target / "file") as using:
        with not_answering(how, nas=nas, daemon_pid=daemon_pid, kill_all=kill_all):
            using.block()
            if how == "lost":
                nas.pause()  # or it would be mounted anew, and be lost no more
                driver.start("keeper")
                driver.start("node")
            began = time.monotonic()
            driver.unpublish(volume, target)
            unpublish_s = time.monotonic() - began
            assert not target.exists()
            assert driver.published() == []
            if how == "lost":
                nas.resume()
            # The dataset's mount goes, although the file is open still in what was detached.
            wait_until(lambda: not mounts_below(driver.folder), what="no mount to be left", limit_s=RELEASE_LIMIT_S)
            wait_until(lambda: not driver.daemons(), what="the daemon to be gone", limit_s=RELEASE_LIMIT_S)
            release_s = time.monotonic() - began
            await_error(using)
            wait_until(lambda: not stuck(), what="nobody to be stuck in the kernel")
        print(f"{how}, {who}: unpublish {unpublish_s:.2f} s, release {release_s:.2f} s")
        assert unpublish_s < UNPUBLISH_LIMIT_S
    assert [(export / name).read_text() for name in ("file", "other")] == [CONTENT, CONTENT]


@HOW
@WHO
@pytest.mark.timeout(180)
def test_efc_umount(keeper: Keeper, nas: Nas, export: Path, how: str, who: str) -> None:
    """What is in use is refused, saying by whom, unless it is forced."""
    target = keeper.mount(nas.url_of(f"export/{export.name}"), options=["hang-limit=600s"])
    daemon_pid = keeper.daemon_pid(target)

    def kill_all() -> None:
        for pid in (keeper.pid, daemon_pid):
            os.kill(pid, signal.SIGKILL)

    hung = not_answering(how, nas=nas, daemon_pid=daemon_pid, kill_all=kill_all)
    with user(who, target / "file") as using, hung:
        using.block()
        # A lost mount keeps nobody waiting, so who would wait has got an error and is gone.
        is_used = who == "open" or using.is_blocked
        began = time.monotonic()
        try:
            keeper.efc("umount", str(target))
        except subprocess.CalledProcessError as error:
            assert is_used, error.stderr
            assert f"in use by {'cat' if using.is_blocked else 'sh'} (" in error.stderr, error.stderr
            is_refused = True
        else:
            is_refused = False
        seconds = time.monotonic() - began
        assert is_refused == is_used
        if is_refused:
            keeper.efc("umount", "--force", str(target))
            forced_s = time.monotonic() - began - seconds
            print(f"{how}, {who}: refused {seconds:.2f} s, forced {forced_s:.2f} s")
            assert forced_s < FORCE_LIMIT_S
        assert seconds < UMOUNT_LIMIT_S
        assert mounts_below(keeper.folder) == []
        await_error(using)
        wait_until(lambda: not stuck(), what="nobody to be stuck in the kernel")
        wait_until(lambda: not _lives(daemon_pid), what="the daemon to be gone", limit_s=RELEASE_LIMIT_S)
    assert [(export / name).read_text() for name in ("file", "other")] == [CONTENT, CONTENT]
    target.rmdir()
