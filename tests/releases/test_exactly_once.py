"""Calls that were executed, or never left, when their daemon was killed: the *other* release ends what it had begun.

Both directions, as the request comes again from the kernel and as it is replayed from the saved state.
"""

from __future__ import annotations

import pytest

from tests.faults.test_exactly_once import *  # noqa: F403 - the same tests, and their fixtures
from tests.faults.test_exactly_once import Scene
from tests.releases.programs import Alternation, runs


@pytest.fixture(autouse=True)
def deaths_change_the_release(alternation: Alternation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a test kills a daemon, its successor is of the other release."""

    def kill_daemon(scene: Scene) -> None:
        release = alternation.next(scene.keeper.run_dir)
        scene.keeper.replace_daemon(scene.target)
        assert runs(scene.keeper.daemon_pid(scene.target), release)

    monkeypatch.setattr(Scene, "kill_daemon", kill_daemon)
