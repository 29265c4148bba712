"""A reader whose daemon is killed or upgraded, with as many inodes known as a node ever has: it waits, and goes on.

How long it waits is measured (results/faults.json, `make bench`) and gates nothing. What keeps it short is counted:
each strike has one successor, which goes on with the saved state.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.pauses import NODES, filled_mount, kill_daemon, measure, upgrade_daemon
from tests.faults.storms import DAEMON_KILLS, KILLS
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def mount(nas: Nas) -> Iterator[tuple[Keeper, Path]]:
    """A mount whose daemon knows many nodes, and a file to read there."""
    with filled_mount(nas) as made:
        yield made


def restarts(mount: tuple[Keeper, Path]) -> int:
    """How many successors there have been; the one of now went on with what its predecessor left."""
    keeper, target = mount
    wait_until(lambda: keeper.status(target)["stats"], what="the daemon's report")
    status = keeper.status(target)
    assert status["stats"]["resumed"], status
    assert status["stats"]["nodes"] >= NODES, status
    return int(status["restarts"])


@pytest.mark.timeout(180 + 10 * DAEMON_KILLS)
def test_a_killed_daemon_has_one_successor_each_time(mount: tuple[Keeper, Path]) -> None:
    before = restarts(mount)
    measure(mount, "daemon killed", kill_daemon, count=DAEMON_KILLS)
    assert restarts(mount) == before + DAEMON_KILLS


@pytest.mark.timeout(180 + 10 * KILLS)
def test_an_upgraded_daemon_has_one_successor_each_time(mount: tuple[Keeper, Path]) -> None:
    before = restarts(mount)
    measure(mount, "daemon upgraded", upgrade_daemon, count=KILLS)
    assert restarts(mount) == before + KILLS
