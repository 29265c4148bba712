"""A storm on a node that has all caches of blocks: its daemons are killed under `tests.faults.cached_reads`.

The node has a local store on a disk, workers, and a consistency mode, with `sealed` files that the kernel reads by
itself. After each kill the next daemon must have found the store: it has given something from it, or the kernel has.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csi._proto import efc_pb2
from csi.base.errors import DriverError
from tests.faults import block_reads, cached_reads, figures
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import ROOT
from tests.support.processes import SLOWNESS, TimeLimitError, wait_until
from tests.support.site import REST_S
from tests.support.workers import Worker, new_key

FILES, BLOCKS, SMALL_FILES = 6, 16, 100
_CLOCK = "clock"
_FINISH_LIMIT_S = 60 * SLOWNESS
#: Of the store in MiB: not all of it fits, so that daemons die amid writes to the store as well; where the kernel reads
#: whole files it does.
_STORE_MIB, _STORE_MIB_SEALED = 64, 256
#: The node's options in each mode.
MODES: dict[str, Sequence[str]] = {
    "cto": (f"cache-size={_STORE_MIB}MiB",),
    "bounded": ("consistency=bounded", "attr-ttl=1s", f"cache-size={_STORE_MIB}MiB"),
    "sealed": ("consistency=sealed", f"cache-size={_STORE_MIB_SEALED}MiB"),
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A NAS with files that have rested, workers, and a directory for caches on a disk."""

    nas: Nas
    options: Sequence[str]  # of all nodes

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Stage]:
        """For the time of the block."""
        with ExitStack() as stack:
            nas = stack.enter_context(Nas())
            folder, caches = nas.export_folder(), Path(stack.enter_context(tempfile.TemporaryDirectory()))
            block_reads.make(folder, files=FILES, blocks=BLOCKS)
            cached_reads.make_small(folder, files=SMALL_FILES)
            workers = [stack.enter_context(Worker(memory_mib=64)) for _ in range(2)]
            key = new_key(caches)
            time.sleep(REST_S)
            (folder / _CLOCK).touch()
            endpoints = "+".join(worker.endpoint for worker in workers)
            options = (f"workers={endpoints}", f"workers-key={key}", f"cache-dir={caches}", "cache-free=1")
            yield cls(nas=nas, options=options)


@dataclass(kw_only=True)
class Outcome:
    """What a storm came to."""

    kills: int
    found_again: int = 0  # after so many kills the store has given something
    blocks_of_store: int = 0
    passed_through: int = 0  # opens
    reads: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    wrong_bytes: int = 0
    stalls_ms: list[float] = field(default_factory=list)  # the longest wait of a read that a kill fell into
    calm_ms: list[float] = field(default_factory=list)  # of one that a moment between two kills fell into
    seconds: float = 0.0

    def as_figures(self) -> dict[str, Any]:
        """For results/faults.json, as other storms are there."""
        return {
            "kills": self.kills, "found_again": self.found_again, "blocks_of_store": self.blocks_of_store,
            "passed_through": self.passed_through, "operations": self.reads, "errors": len(self.errors),
            "wrong_bytes": self.wrong_bytes, "stalls": figures.spread(self.stalls_ms or [0.0]),
            "without_kills": figures.spread(self.calm_ms or [0.0]),
            "seconds": round(self.seconds, 1),
        }  # fmt: skip


def storm(stage: Stage, mode: str, *, kills: int, calm_s_max: float) -> Outcome:
    """Kills the daemon of a node of this mode so many times, at random moments of its work."""
    outcome, moments, struck_at = Outcome(kills=kills), random.Random(mode), []
    began = time.monotonic()
    options = [*stage.options, *MODES[mode]]
    with Keeper() as keeper, keeper.mounted(stage.nas.url, options=options) as mount:
        os.stat(mount / _CLOCK)
        with reading(mount, outcome) as waits:
            wait_until(lambda: _is_filled(keeper.mount_status(mount), mode), what="the store to be in use", limit_s=60)
            for _ in range(kills):
                time.sleep(moments.uniform(0, calm_s_max))
                struck_at.append(time.monotonic())
                outcome.found_again += _kill(keeper, mount, outcome)
        stats = keeper.mount_status(mount).stats
        outcome.blocks_of_store, outcome.passed_through = stats.store.hits, stats.passthrough.opens
    outcome.seconds = time.monotonic() - began
    outcome.stalls_ms = [_longest_at(moment, waits) for moment in struck_at]
    outcome.calm_ms = [_longest_at((one + next_one) / 2, waits) for one, next_one in itertools.pairwise(struck_at)]
    return outcome


def _longest_at(moment: float, waits: Sequence[tuple[float, float]]) -> float:
    """The longest wait of a read that was under way then, in ms."""
    return max((ms for since, ms in waits if since <= moment < since + ms / 1000), default=0.0)


@contextmanager
def reading(mount: Path, outcome: Outcome) -> Iterator[list[tuple[float, float]]]:
    """A reader during the block, whose report comes to the outcome; then the waits of its reads are there."""
    waits: list[tuple[float, float]] = []
    command = [sys.executable, "-m", "tests.faults.cached_reads", str(mount), "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
            yield waits
            reader.send_signal(signal.SIGTERM)
            report = json.loads(reader.communicate(timeout=_FINISH_LIMIT_S)[0])
        finally:
            reader.kill()
    waits += [(since, ms) for since, ms in report["waits"]]
    outcome.reads, outcome.wrong_bytes = report["reads"], report["wrong_bytes"]
    outcome.errors += report["errors"]


def _kill(keeper: Keeper, mount: Path, outcome: Outcome) -> bool:
    """Kills the daemon. Whether the next one has found the store."""
    (before,) = keeper.daemon_pids()
    os.kill(before, signal.SIGKILL)

    def next_one() -> efc_pb2.MountStatus | None:
        status = keeper.mount_status(mount)
        return status if status.pid not in (0, before) and status.stats.HasField("store") else None

    try:
        wait_until(lambda: next_one() is not None, what="the next daemon", limit_s=30)
        _await_use(keeper, mount, _used(keeper.mount_status(mount)))
    except (TimeLimitError, DriverError) as error:
        outcome.errors.append(f"kill: {error}")
        return False
    return True


def _await_use(keeper: Keeper, mount: Path, before: int) -> None:
    """Returns when something has come from the store that had not before."""
    wait_until(
        lambda: _used(keeper.mount_status(mount)) > before, what="something from the store", limit_s=30, interval_s=0.02
    )


def _is_filled(status: efc_pb2.MountStatus, mode: str) -> bool:
    return (status.stats.passthrough.opens if mode == "sealed" else status.stats.store.hits) > 0


def _used(status: efc_pb2.MountStatus) -> int:
    return status.stats.store.hits + status.stats.passthrough.opens
