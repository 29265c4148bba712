"""Applications work while what serves them is killed, again and again: not one may notice more than a pause.

FAULTS_KILLS says how often in each storm (daemons die more often). Kills come at random moments of the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults import figures
from tests.faults.storms import DAEMON_KILLS, HANG_LIMIT_S, KILLS, Strike, hang, kill, storm, upgrade
from tests.support.nas import Nas

STORMS: dict[str, tuple[Strike, int, Sequence[str]]] = {
    "daemon": (kill(daemons=True), DAEMON_KILLS, ()),
    "keeper": (kill("keeper"), KILLS, ()),
    "node plugin": (kill("node"), KILLS, ()),
    "keeper and daemon": (kill("keeper", daemons=True), KILLS, ()),
    "keeper and node plugin": (kill("keeper", "node"), KILLS, ()),
    "node plugin and daemon": (kill("node", daemons=True), KILLS, ()),
    "upgrade": (upgrade, KILLS, ()),
    "daemon hangs": (hang, KILLS, (f"hang-limit={HANG_LIMIT_S:g}s",)),
}


@pytest.mark.timeout(180 + 10 * DAEMON_KILLS)
@pytest.mark.parametrize("name", STORMS)
def test_nobody_notices(nas: Nas, name: str) -> None:
    strike, kills, options = STORMS[name]
    outcome = storm(nas, strike, kills=kills, mount_options=options)
    figures.record("storms", name, outcome.as_figures())
    outcome.check()
    assert outcome.kills == kills
