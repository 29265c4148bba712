"""A daemon with few descriptors: its callers keep their groups, or are told that something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas

GROUP, USER = 4242, 1234
READERS = """
import os, sys, threading
os.setgroups([4242]); os.setgid(1234); os.setuid(1234)
errors = []
barrier = threading.Barrier(150)
def read():
    barrier.wait()
    try:
        assert open(sys.argv[1]).read() == "data"
        assert open(sys.argv[1]).read() == "data"
    except OSError as error:
        errors.append(error.errno)
    barrier.wait()
threads = [threading.Thread(target=read) for _ in range(150)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(*errors)
"""


@pytest.mark.parametrize("limit", [64, 128])
def test_callers_keep_their_groups_with_few_descriptors(nas: Nas, limit: int) -> None:
    folder = nas.export_folder()
    (folder / "file").write_text("data")
    os.chown(folder / "file", 0, GROUP)
    (folder / "file").chmod(0o640)
    with (
        Keeper(command_prefix=["prlimit", f"--nofile={limit}:{limit}"]) as keeper,
        keeper.mounted(nas.url, options=["attr-ttl=0s", "entry-ttl=0s"]) as mount,
    ):
        done = subprocess.run(
            [sys.executable, "-c", READERS, mount / "file"], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.split() == []
        assert "the hard limit of open files" in keeper.log.read_text()


def test_a_soft_limit_is_raised(nas: Nas) -> None:
    with Keeper(command_prefix=["prlimit", "--nofile=64:4096"]) as keeper, keeper.mounted(nas.url) as mount:
        with open(f"/proc/{keeper.daemon_pid(mount)}/limits") as limits:
            (line,) = [line for line in limits if line.startswith("Max open files")]
        assert line.split()[3:5] == ["4096", "4096"]
