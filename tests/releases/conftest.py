"""Every test runs with the keeper of either release, and sessions that either release's daemon has begun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.releases import programs
from tests.releases.programs import Alternation
from tests.support.keeper import Keeper

#: Keeper, and first daemon. A node has the former keeper until its pod is deleted.
BEGINNINGS = [("former", "former"), ("former", "this"), ("this", "former"), ("this", "this")]


@pytest.fixture(autouse=True, params=BEGINNINGS, ids=lambda pair: f"{pair[0]} keeper, {pair[1]} daemon first")
def alternation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Alternation:
    """The programs that the keeper, its first daemon and the node plugin run."""
    keeper, daemon = request.param
    monkeypatch.setenv("EFC_BIN_DIR", str(programs.mixed(keeper=keeper, daemon=daemon)))
    for release in programs.FOLDERS:
        programs.sealed(release)
    return Alternation(daemon)


@pytest.fixture(autouse=True)
def write_behind(alternation: Alternation, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former release's command lacks the option; where a test does not give it, deaths may change the release."""
    keeper, _ = request.node.callspec.params["alternation"]
    mount = Keeper.mount

    def mount_as_known(self: Keeper, url: str, *, options: Sequence[str] = ()) -> Path:
        given = [option for option in options if option.startswith("write-behind=")]
        others = [option for option in options if option not in given]
        known = (given or ["write-behind=0s"]) if keeper == "this" else []
        return mount(self, url, options=[*others, *known])

    monkeypatch.setattr(Keeper, "mount", mount_as_known)
