"""Verified work while its daemon is upgraded, downgraded and killed, in any order: nobody notices more than a pause."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

import pytest

from tests.faults import figures
from tests.faults.storms import Strike, living_daemons, storm
from tests.releases.programs import FOLDERS, Alternation, runs
from tests.support.driver import Driver
from tests.support.nas import Nas
from tests.support.processes import wait_until

STRIKES = int(os.environ.get("RELEASES_STRIKES", "20"))
MASKS: dict[str, Sequence[str]] = {"running": (), "6.1": ("fuse-features=6.1",)}


def changes(alternation: Alternation) -> Strike:
    """In turn: a hot upgrade to the other release, a kill, a kill whose successor is of the other release, a kill."""

    def strike(driver: Driver, number: int) -> None:
        if number % 4 == 0:
            _upgrade(driver, alternation)
            return
        release = alternation.next(driver.run_dir) if number % 4 == 2 else alternation.current
        before = living_daemons(driver)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        _becomes(driver, before, release)

    return strike


def _upgrade(driver: Driver, alternation: Alternation) -> None:
    """As an administrator does it; the command is this release's."""
    before = living_daemons(driver)
    alternation.current = "this" if alternation.current == "former" else "former"
    command = [str(FOLDERS["this"] / "efc"), "upgrade", "--all", "--run-dir", str(driver.run_dir)]
    environment = {**os.environ, "EFC_BIN_DIR": str(FOLDERS[alternation.current])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    _becomes(driver, before, alternation.current)


def _becomes(driver: Driver, before: Sequence[int], release: str) -> None:
    def is_there() -> bool:
        later = [daemon.pid for daemon in driver.daemons() if daemon.pid not in before]
        return any(runs(pid, release) for pid in later)

    wait_until(is_there, what=f"a daemon of {release} release", limit_s=30)


@pytest.mark.timeout(300 + 15 * STRIKES)
@pytest.mark.parametrize("mask", MASKS)
def test_nobody_notices(nas: Nas, alternation: Alternation, mask: str) -> None:
    name = f"{alternation.current} first, {os.environ['EFC_BIN_DIR'].rpartition('/')[2]}, {mask}"
    outcome = storm(nas, changes(alternation), kills=STRIKES, mount_options=MASKS[mask])
    figures.record("releases", name, outcome.as_figures())
    outcome.check()
    assert outcome.kills == STRIKES
