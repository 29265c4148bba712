"""Calls that were executed, or never left, when their daemon was killed: the *other* release ends what it had begun.

Both directions, as the request comes again from the kernel and as it is replayed from the saved state.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.test_exactly_once import *  # noqa: F403 - the same tests, and their fixtures
from tests.faults.test_exactly_once import Scene
from tests.releases.programs import Alternation, runs
from tests.support.processes import wait_until


@pytest.fixture(autouse=True)
def deaths_change_the_release(alternation: Alternation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a test kills a daemon, its successor is of the other release."""

    def kill_daemon(scene: Scene) -> None:
        release = alternation.next(scene.keeper.run_dir)
        before = scene.keeper.daemon_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: any(runs(pid, release) for pid in set(scene.keeper.daemon_pids()) - set(before)),
            what=f"a daemon of {release} release",
        )

    monkeypatch.setattr(Scene, "kill_daemon", kill_daemon)
