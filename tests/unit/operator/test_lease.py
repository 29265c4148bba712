"""Who leads: decided from looks at one Lease, with a clock that the test turns."""

from __future__ import annotations

import copy
import datetime
from typing import Any

from csi.operator.lease import DURATION_SECONDS, PERIOD_SECONDS, RENEW_SECONDS_MAX, REQUEST_SECONDS_MAX, Election

_WALL = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Server:
    """One Lease, written only by who knows its version."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0

    def look(self, election: Election, now: float, *, answers: bool = True) -> None:
        write = election.step(copy.deepcopy(self.lease), now=now, wall=_WALL + datetime.timedelta(seconds=now))
        if write is None:
            election.lost()
        elif answers and write.resource_version == (None if self.lease is None else str(self.version)):
            self.version += 1
            self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(write.spec)}
            election.renewed(sent_at=now)


def test_a_leader_stops_before_another_one_can_begin() -> None:
    """Also counted with the longest request that may still be under way."""
    assert RENEW_SECONDS_MAX + REQUEST_SECONDS_MAX < DURATION_SECONDS
    assert PERIOD_SECONDS * 2 < RENEW_SECONDS_MAX


def test_one_leads_and_the_other_waits() -> None:
    server, one, two = Server(), Election(identity="one"), Election(identity="two")
    for now in range(0, 100, 2):
        server.look(one, now)
        server.look(two, now + 1)
        assert one.leads(now=now + 1)
        assert not two.leads(now=now + 1)


def test_a_dead_leader_is_followed_once_its_lease_has_not_changed_for_its_duration() -> None:
    server, one, two = Server(), Election(identity="one"), Election(identity="two")
    server.look(one, 0)
    now = 0
    while not two.leads(now=now):
        now += 1
        server.look(two, now)
    assert now == 1 + DURATION_SECONDS
    assert not one.leads(now=now)
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


def test_a_leader_that_cannot_write_leads_no_more() -> None:
    server, one = Server(), Election(identity="one")
    server.look(one, 0)
    for now in range(2, 30, 2):
        server.look(one, now, answers=False)
        assert one.leads(now=now) == (now < RENEW_SECONDS_MAX)


def test_whose_lease_was_taken_leads_no_more() -> None:
    server, one, two = Server(), Election(identity="one"), Election(identity="two")
    server.look(one, 0)
    server.look(two, 1)
    server.look(two, 20)
    assert two.leads(now=20)
    server.look(one, 21)
    assert not one.leads(now=21)


def test_a_lease_that_was_given_up_is_taken_at_once() -> None:
    server, one, two = Server(), Election(identity="one"), Election(identity="two")
    server.look(one, 0)
    assert server.lease is not None
    server.lease["spec"]["holderIdentity"] = ""
    server.look(two, 1)
    assert two.leads(now=1)


def test_clocks_of_others_do_not_count() -> None:
    """The holder's clock is a day behind: as long as the Lease changes, it leads."""
    server, one, two = Server(), Election(identity="one"), Election(identity="two")
    for now in range(0, 60, 2):
        server.look(one, now - 86_400)
        server.look(two, now)
        assert not two.leads(now=now)


def test_how_long_is_left_without_renewing() -> None:
    election = Election(identity="a")
    assert election.left_seconds(now=5.0) == 0.0
    election.renewed(sent_at=10.0)
    assert election.left_seconds(now=12.0) == RENEW_SECONDS_MAX - 2.0
    assert election.left_seconds(now=10.0 + 2 * RENEW_SECONDS_MAX) == 0.0
