"""Workers fail in every way there is while nodes read through them: no error, and no byte that is not the file's.

`make faults` strikes with each fault a tenth as often as a service is killed there; otherwise each falls once, but for
what tests/integrity/test_workers.py has too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.faults import block_reads, figures
from tests.faults.storms import IS_LONG, KILLS
from tests.faults.worker_faults import BLOCKS, FAULTS, FILES, Stage, handle_of, reading, storm
from tests.support.processes import SLOWNESS, wait_until

_FAULTS = [name for name in FAULTS if IS_LONG or name != "none_left"]
_ROUNDS = KILLS // 10 if IS_LONG else 1
#: How long a fault lasts, and what follows it.
_FAULT_S, _CALM_S = ((0.5, 3.0), (3.0, 11.0)) if IS_LONG else ((0.2, 0.3), (0.2, 0.3))
#: Whoever waits for so long hangs. What it takes is measured, not judged.
_HANGS_MS = 5000 * SLOWNESS


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One for all tests: its files have to rest first."""
    with Stage.made() as made:
        yield made


def _found(needles: Sequence[bytes], stage: Stage) -> set[bytes]:
    """Which of these anybody can read at the workers, in names or values."""
    texts = [text for worker in stage.workers for pair in worker.everything() for text in pair]
    return {needle for needle in needles if any(needle in text for text in texts)}


@pytest.mark.timeout(180 + 30 * _ROUNDS * len(FAULTS))
def test_readers_notice_nothing_of_what_happens_to_workers(stage: Stage) -> None:
    """But waits. What was put there by others, or damaged, was refused and counted."""
    outcome = storm(stage, _FAULTS, rounds=_ROUNDS, fault_s=_FAULT_S, calm_s=_CALM_S)
    figures.record("workers", "storm", outcome.as_figures())
    assert (outcome.errors, outcome.wrong_bytes) == ([], 0)
    assert set(outcome.struck) == set(_FAULTS)
    assert outcome.longest_wait_ms < _HANGS_MS
    assert outcome.workers_bytes > 0


def test_who_reads_everything_at_the_workers_learns_nothing(stage: Stage) -> None:
    """No byte of data, no name, no handle, wherever they stand; put there unsealed they would be found."""
    folder = stage.site.nas.export_folder()
    names = [block_reads.name(file) for file in range(FILES)]
    handles = [handle_of(folder / name) for name in names]
    needles = [block_reads.MARKER, *(name.encode() for name in names), *handles]
    with reading(stage) as reports:
        wait_until(
            lambda: sum(len(value) for worker in stage.workers for _, value in worker.everything())
            >= FILES * BLOCKS * block_reads.BLOCK,
            what="all blocks to lie at the workers", limit_s=60, interval_s=1,
        )  # fmt: skip
    assert [(report["wrong_bytes"], report["errors"]) for report in reports] == [(0, [])] * len(reports)
    assert _found(needles, stage) == set()
    secret = b"-".join([names[0].encode(), handles[0], block_reads.block(0, 0)])
    wait_until(
        # A node that looks a block up meanwhile deletes what does not open.
        lambda: stage.workers[0].replace(lambda _: secret) > 0
        and _found(needles, stage) == {block_reads.MARKER, names[0].encode(), handles[0]},
        what="what was put there unsealed to be found", limit_s=20,
    )  # fmt: skip
