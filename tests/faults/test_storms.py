"""Applications work while what serves them is killed, again and again: not one may notice more than a pause.

FAULTS_KILLS says how often in each storm (daemons die more often). Kills come at random moments of the work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from tests.faults import figures, load
from tests.faults.storms import DAEMON_KILLS, HANG_LIMIT_S, KILLS, Strike, hang, kill, storm, upgrade
from tests.support.keeper import Keeper
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


def test_a_listing_goes_on_where_its_daemon_was_killed(nas: Nas, keeper: Keeper) -> None:
    """Three times: one that dies again and again as soon as it serves has to wait."""
    behind = nas.export_folder() / "storm"
    behind.mkdir()
    load.prepare(behind, ["listing"])
    with keeper.mounted(nas.url) as mount:
        found = []
        with os.scandir(mount / "storm" / "listing") as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) in (1000, 4000, 7000):
                    keeper.replace_daemon(mount)
        load.remove(behind)
        assert sorted(found) == [f"entry-{number:05}" for number in range(load.LISTED)]
