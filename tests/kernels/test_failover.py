"""Daemons and keepers are killed, and daemons upgraded, under verified work: nobody notices more than a pause.

What a dead daemon had not answered is delivered again by the kernel (RESEND, from Linux 6.9 on) or replayed from the
saved state: which of both is checked too. The same storms as tests/faults runs, which say more there.
KERNELS_KILLS is how often daemons are killed.
"""

from __future__ import annotations

import os

import pytest

from tests.faults import figures
from tests.faults.block_storm import REPLAYS, block_storm
from tests.faults.storms import Strike, kill, storm, upgrade
from tests.kernels.running import has_resend
from tests.support.nas import Nas

KILLS = int(os.environ.get("KERNELS_KILLS", "20"))
#: Work between two strikes, at random up to this: an emulated daemon needs a second or two until it serves.
CALM_S_MAX = 6.0
#: Work without git and fio, each start of which takes seconds there.
_KINDS = ("reads", "files", "mapping", "renames", "append", "unlinked", "sqlite")
STORMS: dict[str, tuple[Strike, int]] = {
    "daemon": (kill(daemons=True), KILLS),
    "keeper": (kill("keeper"), 5),
    "keeper and daemon": (kill("keeper", daemons=True), 5),
    "upgrade": (upgrade, 4),
}


@pytest.mark.short
@pytest.mark.timeout(900)
def test_no_write_is_lost_or_executed_late(nas: Nas) -> None:
    result = block_storm(nas, "real", kills=KILLS, replays=not has_resend(), calm_s_max=CALM_S_MAX)
    assert result.errors == []
    assert result.turns > 0
    assert (REPLAYS in result.log) is not has_resend()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STORMS)
def test_nobody_notices(nas: Nas, name: str) -> None:
    strike, kills = STORMS[name]
    outcome = storm(nas, strike, kills=kills, kinds=_KINDS, calm_s_max=CALM_S_MAX)
    figures.record("storms", name, outcome.as_figures())
    outcome.check()
    assert outcome.kills == kills
    if "daemon" in name:  # one that drains leaves nothing, or nearly nothing
        assert (REPLAYS in outcome.log) is not has_resend()
