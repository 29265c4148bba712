"""When files may lie in caches, how fast is read, and how often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi.warming.pace import Pace
from csi.warming.passes import Pass, bytes_lost, bytes_uncached, is_another_worth_it, is_much, jobs_of_pass
from csi.warming.resting import REST_SECONDS, SKEW_SECONDS_MAX, ServerClock
from csi.warming.tally import Figures
from csi.warming.walking import File

_NOW = 2_000_000_000.0


def file(*, ctime: float, seen_at: float = 100.0) -> File:
    nanoseconds = int(ctime * 1_000_000_000)
    return File(path="/f", device=1, size=1, mtime_ns=nanoseconds, ctime_ns=nanoseconds, seen_at=seen_at)


def clock(*, now: float = 100.0) -> ServerClock:
    return ServerClock(clock=lambda: now, unix_clock=lambda: _NOW)


def test_an_old_file_waits_for_nothing() -> None:
    assert clock().rest_delay(file(ctime=_NOW - SKEW_SECONDS_MAX - REST_SECONDS)) == 0
    assert clock().rest_delay(file(ctime=_NOW - SKEW_SECONDS_MAX)) == REST_SECONDS


def test_another_waits_from_when_it_was_seen() -> None:
    found = file(ctime=_NOW - 3600, seen_at=100.0)
    assert clock(now=105.0).rest_delay(found) == pytest.approx(REST_SECONDS - 5)
    assert clock(now=100.0 + REST_SECONDS).rest_delay(found) == 0


def test_later_stamps_of_the_server_tell_that_it_has_rested() -> None:
    late, early, between = file(ctime=_NOW - 1), file(ctime=_NOW - 60), file(ctime=_NOW - 5)
    seen = clock()
    seen.observe(late.ctime_ns)
    assert seen.rest_delay(early) == 0
    assert seen.rest_delay(between) == pytest.approx(REST_SECONDS - 4)
    assert seen.rest_delay(late) == pytest.approx(REST_SECONDS)


def test_a_stamp_of_the_far_future_tells_nothing() -> None:
    seen = clock()
    seen.observe(file(ctime=_NOW + 10 * SKEW_SECONDS_MAX).ctime_ns)
    assert seen.rest_delay(file(ctime=_NOW - 60)) == pytest.approx(REST_SECONDS)


@settings(deadline=None)
@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=20), st.integers(1, 1 << 30))
def test_a_pace_gives_each_as_long_as_his_bytes_take(lengths: list[int], rate: int) -> None:
    pace = Pace(rate, clock=lambda: 7.0)
    before = 0
    for length in lengths:
        assert pace.delay(length) == pytest.approx(before / rate, rel=1e-6, abs=1e-6)
        before += length


def test_a_pace_saves_nothing_up() -> None:
    now = 0.0
    pace = Pace(10, clock=lambda: now)
    pace.delay(10)
    now = 1000.0
    assert pace.delay(10) == 0
    assert pace.delay(10) == pytest.approx(1.0)
    assert Pace(0).delay(1 << 40) == 0


def test_passes() -> None:
    assert [jobs_of_pass(number, jobs=16) for number in (1, 2, 3, 4)] == [16, 4, 1, 1]


def passes(*missing: int, **last: Any) -> list[Pass]:
    """Passes that found so much missing; what else is said is of the last."""
    found = [Pass(bytes_missing=count) for count in missing]
    return [*found[:-1], replace(found[-1], **last)]


@pytest.mark.parametrize(
    ("found", "is_worth_it"),
    [
        pytest.param(passes(100), True, id="the first tells nothing"),
        pytest.param(passes(0), False, id="all was there"),
        pytest.param(passes(100, 74), True, id="less than before"),
        pytest.param(passes(100, 75), False, id="caches do not keep it"),
        pytest.param(passes(100, 30, 0), False, id="none is missing any more"),
        pytest.param(passes(100, 90, bytes_taken=80), True, id="a daemon was killed in the first"),
        pytest.param(passes(100, 90, bytes_taken=10), False, id="few of it was taken"),
        pytest.param(passes(100, 90, bytes_unasked=80), True, id="workers were late for a moment"),
        pytest.param(passes(100, 100, bytes_unasked=100, seconds=61.0), False, id="they were late for a minute"),
    ],
)
def test_another_pass_is_worth_it_while_it_brings_something(found: list[Pass], *, is_worth_it: bool) -> None:
    assert is_another_worth_it(found) == is_worth_it


@pytest.mark.parametrize(
    ("found", "lost", "uncached"),
    [
        pytest.param([(0, 0)], 0, 0, id="all was there"),
        pytest.param([(100, 0)], 0, 0, id="all was given"),
        pytest.param([(100, 30)], 0, 30, id="some was refused"),
        pytest.param([(100, 30), (30, 0)], 0, 0, id="what was refused was given later"),
        pytest.param([(100, 0), (100, 0)], 100, 100, id="what is given is not kept"),
        pytest.param([(100, 30), (50, 10)], 20, 20, id="some of it is not kept"),
        pytest.param([(100, 0), (100, 0), (0, 0)], 0, 0, id="in the end it is"),
    ],
)
def test_what_no_cache_has_is_what_none_took_or_kept(found: list[tuple[int, int]], lost: int, uncached: int) -> None:
    figures = [Figures(bytes_read=100, bytes_absent=absent, bytes_refused=refused) for absent, refused in found]
    assert (bytes_lost(figures), bytes_uncached(figures)) == (lost, uncached)


def test_a_tenth_may_be_in_no_cache() -> None:
    assert not is_much(10, covered=100)
    assert is_much(11, covered=100)
    assert not is_much(0, covered=0)
