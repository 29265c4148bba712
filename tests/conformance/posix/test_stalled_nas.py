"""A NAS that does not answer: nobody waits uninterruptibly for ever, and everything goes on when it is back."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import wait_until

pytestmark = pytest.mark.timeout(120)


def start(action: Callable[[], object]) -> int:
    """Forks a child that does `action` and ends with status 0; its pid."""
    pid = os.fork()
    if not pid:
        try:
            action()
        finally:
            os._exit(0)
    return pid


def ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG) != (0, 0)


REQUESTS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: (path / "file").read_bytes(),
    "write and close": lambda path: (path / "written").write_bytes(bytes(3 << 20)),
    "stat": lambda path: (path / "absent").exists(),
    "list": lambda path: os.listdir(path),
    "mkdir": lambda path: (path / "directory").mkdir(),
    "statvfs": lambda path: os.statvfs(path),
    "unlink": lambda path: (path / "file").unlink(),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_killed_process_dies_with_its_request_outstanding(paused_nas: Nas, keeper: Keeper, name: str) -> None:
    with keeper.mounted(paused_nas.url) as path:
        time.sleep(1.2)  # beyond the time that attributes are trusted
        paused_nas.pause()
        pid = start(lambda: REQUESTS[name](path))
        time.sleep(0.5)
        assert not ended(pid), "the request did not need the NAS"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ended(pid), what=f"the killed process to end (it waits in {name})", limit_s=5)
        paused_nas.resume()
        assert path.joinpath("file").exists() or name == "unlink"


def test_killed_process_dies_with_unsynced_data_in_an_open_file(paused_nas: Nas, keeper: Keeper) -> None:
    """Its exit closes the file, and waits for that where no signal arrives any more."""
    data = os.urandom(1 << 20)
    with keeper.mounted(paused_nas.url) as path:

        def write_and_wait() -> None:
            with (path / "open").open("wb", buffering=0) as file:
                file.write(data)
                (paused_nas.folder / "written").touch()
                time.sleep(60)

        pid = start(write_and_wait)
        wait_until((paused_nas.folder / "written").exists, what="the data to be written", limit_s=10)
        paused_nas.pause()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ended(pid), what="the killed process to end (it closes its file)", limit_s=5)
        paused_nas.resume()
        assert (path / "open").read_bytes() == data


def test_request_goes_on_when_the_nas_is_back(paused_nas: Nas, keeper: Keeper) -> None:
    with keeper.mounted(paused_nas.url) as path:
        expected = (paused_nas.export_folder() / "file").read_bytes()
        paused_nas.pause()
        pid = start(lambda: (path / "copy").write_bytes((path / "file").read_bytes()))
        time.sleep(2)
        assert not ended(pid)
        paused_nas.resume()
        wait_until(lambda: ended(pid), what="the process to end", limit_s=30)
        assert (path / "copy").read_bytes() == expected


def test_soft_mount_gives_up(paused_nas: Nas, keeper: Keeper) -> None:
    with keeper.mounted(paused_nas.url, options=("soft", "timeout=1500ms")) as path:
        paused_nas.pause()
        begin = time.monotonic()
        with pytest.raises(OSError) as failure:
            (path / "file").read_bytes()
        assert failure.value.errno in (errno.EIO, errno.ETIMEDOUT)
        assert 1 < time.monotonic() - begin < 60
        paused_nas.resume()
        wait_until(lambda: (path / "file").exists(), what="the mount to work again", limit_s=20)


def test_ipv6(keeper: Keeper) -> None:
    with Nas(address="::1") as nas, keeper.mounted(nas.url) as path:
        (path / "file").write_text("over IPv6")
        assert (nas.export_folder() / "file").read_text() == "over IPv6"
