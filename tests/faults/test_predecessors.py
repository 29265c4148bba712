"""A daemon that has a successor and is not dead: it holds nobody up, and does no harm.

Two ways lead there. A killed daemon stays in the kernel while a thread of it waits there for something that only an
answer ends, and that has to come from its successor. And a daemon that hangs when its keeper dies is out of everybody's
reach: the next keeper starts its successor, and then it goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.proxy import Procedure, Proxy
from tests.faults.test_exactly_once import Outcome
from tests.support.driver import Driver, static_volume
from tests.support.keeper import Keeper
from tests.support.mounts import remove_mounts
from tests.support.nas import Nas
from tests.support.processes import TimeLimitError, stop_process, thread_states, wait_until

PAGE = 4096
#: More than an open reads by itself.
PAGES = 32


@pytest.fixture
def proxied(nas: Nas) -> Iterator[tuple[Proxy, Keeper, Path]]:
    """A mount through a proxy, which trusts what it knows for long."""
    with Proxy(nas.port) as proxy, Keeper() as keeper:
        url = nas.url_of("export", port=proxy.port)
        yield proxy, keeper, keeper.mount(url, options=["connections=2", "entry-ttl=60s", "attr-ttl=60s"])


@contextmanager
def opened(keeper: Keeper, path: Path, *flags: int) -> Iterator[list[int]]:
    """The file, open once with each of `flags`. When a test fails, its mount is aborted: closing would hang in it."""
    files = [os.open(path, flag) for flag in flags]
    try:
        yield files
    except BaseException:
        remove_mounts(keeper.folder)
        raise
    finally:
        for file in files:
            with suppress(OSError):  # aborted
                os.close(file)


@pytest.mark.timeout(90)
def test_one_that_cannot_die_holds_nobody_up(nas: Nas, proxied: tuple[Proxy, Keeper, Path]) -> None:
    """Its notifier waits for a page that its own unanswered READ has locked."""
    proxy, keeper, mount = proxied
    folder = nas.export_folder()
    behind = folder / "file"
    behind.write_bytes(bytes(PAGES * PAGE))
    [daemon] = keeper.daemon_pids()
    with (
        opened(keeper, mount / "file", os.O_RDONLY, os.O_WRONLY | os.O_APPEND) as (reading, appending),
        proxy.held(Procedure.READ, reply=True, aside=True) as first,
        proxy.held(Procedure.READ, reply=True, aside=True) as second,
    ):
        os.posix_fadvise(reading, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.fstat(reading).st_size == PAGES * PAGE
        os.truncate(behind, PAGE)  # unknown to the kernel, which appends elsewhere
        read = Outcome(lambda: os.pread(reading, PAGE, PAGE))
        first.wait()
        # It goes to the page that is being read, of which the kernel is told.
        assert Outcome(lambda: os.write(appending, b"appended")).result() == 8
        wait_until(lambda: "D" in thread_states(daemon), what="the notifier to wait in the kernel")
        os.kill(daemon, signal.SIGKILL)
        Outcome((mount / "made").mkdir).result()
        second.wait()
        assert "D" in thread_states(daemon), "the predecessor has died: this shows nothing"
        second.released.set()
        assert read.result()[:8] == b"appended"  # zeros follow: the kernel knows the former size
        wait_until(lambda: not Path(f"/proc/{daemon}").exists(), what="the predecessor's end")
    assert behind.read_bytes() == bytes(PAGE) + b"appended"
    assert (folder / "made").is_dir()
    (folder / "made").rmdir()
    assert "has ended at last" in keeper.log.read_text()


#: A process of its own: whoever starts a keeper may have no file of a mount open.
_APPENDER = """
import os, sys
log = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
print("ready", flush=True)
for line in map(str.strip, sys.stdin):
    if line == "truncate":
        os.ftruncate(log, 0)
    else:
        assert os.write(log, line.encode()) == len(line)
    print("done", flush=True)
"""


class Appender:
    """Has a log open for appending."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", _APPENDER, str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._expect("ready")

    def begin(self, word: str) -> None:
        """Appends it, or empties the log if it is "truncate"."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """What was begun is done, without an error."""
        Outcome(lambda: self._expect("done")).result(40)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n", "it has failed"


@contextmanager
def appender(driver: Driver, path: Path) -> Iterator[Appender]:
    """When a test fails, the mount is aborted: nobody may stay stuck in it."""
    running = Appender(path)
    try:
        yield running
    except BaseException:
        remove_mounts(driver.folder)
        raise
    finally:
        running.close()


@contextmanager
def published(nas: Nas, port: int) -> Iterator[tuple[Driver, Path]]:
    """A volume of the driver's, by way of a port."""
    with Driver(source=nas.url) as driver:
        volume, target = static_volume("v", nas.url_of("export", port=port)), driver.target()
        driver.publish(volume, target, mount_flags=["connections=2", "entry-ttl=60s", "attr-ttl=60s"])
        yield driver, target
        driver.unpublish(volume, target)


def put_out_of_reach(driver: Driver) -> int:
    """The daemon hangs, and its keeper is replaced by one that does not know it. Returns its process id."""
    [daemon] = driver.daemons()
    stop_process(daemon.pid)
    driver.kill("keeper")
    driver.start("keeper")
    return daemon.pid


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.timeout(120)
def test_one_that_was_out_of_reach_does_no_harm(nas: Nas) -> None:
    """It has a successor, and goes on with an append in hand that is long done."""
    with (
        Proxy(nas.port) as proxy,
        published(nas, proxy.port) as (driver, target),
        appender(driver, target / "log") as log,
        proxy.held(Procedure.GETATTR, reply=True, aside=True) as end_of_file,
        proxy.held(Procedure.MKDIR, reply=True, aside=True) as mkdir,
    ):
        log.begin("appended")
        end_of_file.wait()  # where the file ends
        made = Outcome((target / "made").mkdir)
        mkdir.wait()
        daemon = put_out_of_reach(driver)
        assert made.result(40) is None
        log.end()
        for word in ("truncate", "anew"):
            log.begin(word)
            log.end()
        mkdir.released.set()
        end_of_file.released.set()
        os.kill(daemon, signal.SIGCONT)
        with suppress(TimeLimitError):
            wait_until(lambda: is_gone(daemon), what="the predecessor's end", limit_s=5)
        stored = nas.export_folder() / "log"
        wait_until(lambda: stored.stat().st_size > 0, what="what the successor has held back")
        assert stored.read_bytes() == b"anew", "it has appended"
        assert (nas.export_folder() / "made").is_dir()
        assert is_gone(daemon), "it does not notice that it has a successor"


@pytest.mark.timeout(120)
def test_one_that_was_out_of_reach_keeps_no_request(nas: Nas) -> None:
    """When it goes on it reads requests that are its successor's."""
    with published(nas, nas.port) as (driver, target):
        daemon = put_out_of_reach(driver)
        Outcome((target / "first").mkdir).result(40)
        work = Outcome(lambda: make_and_remove(target / "other", count=500))
        os.kill(daemon, signal.SIGCONT)
        try:
            work.result(40)
            wait_until(lambda: is_gone(daemon), what="the predecessor to notice")
        except BaseException:
            remove_mounts(driver.folder)
            raise
        assert "another daemon has taken this session over" in driver.log("keeper").read_text()


def make_and_remove(folder: Path, *, count: int) -> None:
    """Each must be executed once, or it fails."""
    for _ in range(count):
        folder.mkdir()
        folder.rmdir()
