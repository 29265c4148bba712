"""Daemons of a node with all caches are killed again and again under reads that are compared byte by byte.

`make faults` kills 500 in each mode; what the kills cost readers is in results/faults.json.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import figures
from tests.faults.cache_storm import MODES, Stage, storm
from tests.faults.storms import DAEMON_KILLS, IS_LONG

_KILLS = DAEMON_KILLS if IS_LONG else 4
_CALM_S_MAX = 0.5


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One for all modes: its files have to rest first."""
    with Stage.made() as made:
        yield made


@pytest.mark.timeout(180 + 5 * _KILLS)
@pytest.mark.parametrize("mode", MODES)
def test_each_daemon_finds_the_store_and_readers_notice_nothing(stage: Stage, mode: str) -> None:
    """But waits."""
    outcome = storm(stage, mode, kills=_KILLS, calm_s_max=_CALM_S_MAX)
    figures.record("storms", f"all caches, {mode}", outcome.as_figures())
    assert (outcome.errors, outcome.wrong_bytes, outcome.found_again) == ([], 0, _KILLS)
    assert all(outcome.reads.values()), outcome.reads
    assert outcome.blocks_of_store > 0
    assert (outcome.passed_through > 0) == (mode == "sealed")
