"""How many passes are made until caches have all of the data.

A daemon returns what the NAS has sent to its readers, and stores it in caches at the same time, as fast as those accept
it; data that finds no room in their queues is not cached. Nothing records which data that was. So after the first pass,
which reads, the daemon is asked block by block whether the levels have it, without haste, and has those filled that
lack it (:mod:`csi.warming.filling`): in passes of which each is slower than the one before, until one in which they
lack nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csi.warming.tally import Figures

#: A daemon keeps what it has just read in its own memory for up to so long, and would answer from there.
PAUSE_SECONDS = 4.5
#: Of what was read, at most one part in so many may be in no cache for a warm-up to have done its work.
_UNCACHED_PARTS = 10
#: A cache that was late in all of a pass that has lasted longer is not late for a moment.
_LATE_SECONDS_MAX = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What a pass has found, in bytes."""

    bytes_missing: int  # were not in caches; in the first pass all that was read
    bytes_taken: int = 0  # caches have taken meanwhile, and not in vain before
    bytes_unasked: int = 0  # of those missing, no cache has answered for in time, which may be late for a moment
    seconds: float = 0.0


def jobs_of_pass(number: int, *, jobs: int) -> int:
    """How many read at a time in a pass, counted from 1: a quarter of those of the one before."""
    return max(1, jobs >> 2 * (number - 1))


def is_another_worth_it(passes: Sequence[Pass]) -> bool:
    """Whether reading once more would bring more of it into caches.

    If the last pass has found nearly as much missing as the one before, caches do not keep it: they are too small, or
    the data changes. Unless they have taken it in that pass, as the one before may have been cut off; or it was a short
    one in which they did not answer for it, as any cache is late for a moment.
    """
    last = passes[-1]
    if not last.bytes_missing or len(passes) == 1:
        return bool(last.bytes_missing)
    unasked = last.bytes_unasked if last.seconds < _LATE_SECONDS_MAX else 0
    return last.bytes_missing - last.bytes_taken - unasked < passes[-2].bytes_missing * 3 // 4


def bytes_lost(passes: Sequence[Figures]) -> int:
    """Of some passes that fill levels: bytes that a level had or took in the last but one, and none has in the last."""
    return max(0, passes[-1].bytes_absent - passes[-2].bytes_refused) if len(passes) > 1 else 0


def bytes_uncached(passes: Sequence[Figures]) -> int:
    """Of the last of some passes that fill levels: bytes that no level has, at least."""
    return max(passes[-1].bytes_refused, bytes_lost(passes))


def bytes_cached(given: Mapping[str, int]) -> int:
    """What caches gave. What the daemon's memory did may be what it has read a moment before, and put nowhere."""
    return sum(count for level, count in given.items() if level not in ("memory", "nas"))


def is_much(uncached: int, *, covered: int) -> bool:
    """Whether so many of the bytes that a warm-up was about are more than may be in no cache."""
    return uncached * _UNCACHED_PARTS > covered
