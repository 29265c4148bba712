"""Every test runs with the keeper of either release, and sessions that either release's daemon has begun."""

from __future__ import annotations

import pytest

from tests.releases import programs
from tests.releases.programs import Alternation

#: Keeper, and first daemon. A node has the former keeper until its pod is deleted.
BEGINNINGS = [("former", "former"), ("former", "this"), ("this", "former"), ("this", "this")]


@pytest.fixture(autouse=True, params=BEGINNINGS, ids=lambda pair: f"{pair[0]} keeper, {pair[1]} daemon first")
def alternation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Alternation:
    """The programs that the keeper, its first daemon and the node plugin run."""
    keeper, daemon = request.param
    monkeypatch.setenv("EFC_BIN_DIR", str(programs.mixed(keeper=keeper, daemon=daemon)))
    return Alternation(daemon)
