"""Data that nobody has synced outlives a server although the daemons that took it were of both releases."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.test_uncommitted import *  # noqa: F403 - the same tests, and their fixtures
from tests.faults.test_uncommitted import Scene
from tests.releases.programs import FOLDERS, Alternation, runs


@pytest.fixture(autouse=True)
def deaths_change_the_release(alternation: Alternation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a test kills a daemon or upgrades one, its successor is of the other release."""

    def becomes(scene: Scene, before: int, release: str) -> None:
        scene.keeper.await_successor(scene.mount, before)
        assert runs(scene.keeper.daemon_pid(scene.mount), release)

    def daemon_dies(scene: Scene) -> None:
        before, release = scene.keeper.daemon_pid(scene.mount), alternation.next(scene.keeper.run_dir)
        os.kill(before, signal.SIGKILL)
        becomes(scene, before, release)

    def upgrade(scene: Scene) -> None:
        before, release = scene.keeper.daemon_pid(scene.mount), alternation.next(scene.keeper.run_dir)
        with monkeypatch.context() as patched:
            patched.setenv("EFC_BIN_DIR", str(FOLDERS[release]))  # the command brings the program that is beside it
            scene.keeper.efc("upgrade", str(scene.mount))
        becomes(scene, before, release)

    monkeypatch.setattr(Scene, "daemon_dies", daemon_dies)
    monkeypatch.setattr(Scene, "upgrade", upgrade)
