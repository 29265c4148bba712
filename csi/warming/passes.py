"""How often data is read until caches have all of it.

A daemon gives its readers what the NAS has sent, and puts it into caches beside that, as fast as those take it; what
finds no room on that way is not kept. Nothing tells which data that was, but reading it once more does: what comes from
the NAS again was missing, and is put there again. So there are passes, each slower than the one before, until one in
which the NAS gives nothing.
"""

from collections.abc import Sequence

#: A daemon keeps what it has just read in its own memory for up to so long, and would answer from there.
PAUSE_SECONDS = 4.5


def jobs_of_pass(number: int, *, jobs: int) -> int:
    """How many read at a time in a pass, counted from 1: a quarter of those of the one before."""
    return max(1, jobs >> 2 * (number - 1))


def is_another_worth_it(missing: Sequence[int]) -> bool:
    """Whether reading once more would bring more of it into caches.

    ``missing`` says of each pass how many bytes were not in caches; of the first it is all that was read. If the last
    pass has found nearly as much as the one before, caches do not keep it: they are too small, or the data changes.
    """
    return missing[-1] > 0 and (len(missing) == 1 or missing[-1] < missing[-2] * 3 // 4)
