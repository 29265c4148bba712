"""Callers that are killed while their request waits for a NAS that does not answer, and whose daemon is killed too.

The kernel tells a daemon once that a caller got a signal. Whoever has the request then must know it: the successor of
the daemon that was told, or one that was not there yet. As on the running kernel, and as on one without RESEND.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.posix.test_stalled_nas import REQUESTS, ended, start
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import stop_process, wait_until

pytestmark = pytest.mark.timeout(120)

#: How long a killed caller may take to end: its daemon looks at it every so often.
_END_LIMIT_S = 5.0


def kill_caller_first(keeper: Keeper, mount: Path, caller: int) -> None:
    # Stopped, the daemon is not told in time to do anything about it: its successor has to.
    stop_process(keeper.daemon_pid(mount))
    os.kill(caller, signal.SIGKILL)
    keeper.replace_daemon(mount)


def kill_daemon_first(keeper: Keeper, mount: Path, caller: int) -> None:
    keeper.replace_daemon(mount)
    os.kill(caller, signal.SIGKILL)


@pytest.mark.parametrize("features", ["running", "5.10"])
@pytest.mark.parametrize("kill", [kill_caller_first, kill_daemon_first])
@pytest.mark.parametrize("name", ["read", "mkdir"])
def test_a_killed_caller_ends(
    paused_nas: Nas, keeper: Keeper, name: str, kill: Callable[[Keeper, Path, int], None], features: str
) -> None:
    path: Path
    with keeper.mounted(paused_nas.url, options=[f"fuse-features={features}"]) as path:
        time.sleep(1.2)  # beyond the time that attributes are trusted
        paused_nas.pause()
        caller = start(lambda: REQUESTS[name](path))
        time.sleep(0.5)
        assert not ended(caller), "the request did not need the NAS"
        kill(keeper, path, caller)
        wait_until(
            lambda: ended(caller), what=f"the killed process to end (it waits in {name})", limit_s=_END_LIMIT_S
        )  # fmt: skip
        paused_nas.resume()
        assert (path / "file").exists()
