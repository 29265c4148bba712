"""How long a read waits when its daemon is killed, with as many inodes known as a node ever has."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import RESULTS, ROOT
from tests.support.processes import wait_until

NODES = int(os.environ.get("FAULTS_NODES", "1000000"))
KILLS = int(os.environ.get("FAULTS_KILLS", "5"))
#: Between two kills: a daemon that dies as soon as it serves would have to wait after a few such deaths.
CALM_S = 0.5
BLOCK = 4096


class Reader(threading.Thread):
    """Reads 4 KiB past the page cache, again and again; notes when each read was done."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.done_at: list[float] = []
        self.error: BaseException | None = None
        self._over = False
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def run(self) -> None:
        try:
            with mmap.mmap(-1, BLOCK) as block:
                while not self._over:
                    assert os.preadv(self._descriptor, [block], BLOCK * (len(self.done_at) % 256)) == BLOCK
                    self.done_at.append(time.monotonic())
        except BaseException as error:
            self.error = error
        finally:
            os.close(self._descriptor)

    def longest_wait_ms(self, since: float) -> float:
        """The longest time between the ends of two reads since `since`."""
        ends = [at for at in self.done_at if at >= since]
        return max(later - earlier for earlier, later in itertools.pairwise(ends)) * 1000

    def end(self) -> None:
        """Ends it; raises what ended it before."""
        self._over = True
        self.join(30)
        assert self.error is None, self.error


def saved_state(keeper: Keeper) -> Path:
    """The memory that outlives daemons, as the keeper holds it."""
    links = Path(f"/proc/{keeper.pid}/fd").iterdir()
    return next(link for link in links if "memfd:efc-state" in os.readlink(link))


def kill_daemon(keeper: Keeper, reader: Reader) -> float:
    """SIGKILL. Returns for how long the reader waited, in ms."""
    since = reader.done_at[-1]
    before = keeper.daemon_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(keeper.daemon_pids()) - set(before), what="the next daemon")
    count = len(reader.done_at)
    wait_until(lambda: reader.error or len(reader.done_at) > count + 100, what="reads", limit_s=30)
    return reader.longest_wait_ms(since)


def fill(keeper: Keeper) -> str:
    """Has the daemon's successor know a million nodes more. Returns what `fill_state` printed."""
    [daemon] = keeper.daemon_pids()
    os.kill(daemon, signal.SIGSTOP)  # nobody else may be at work on the state
    with saved_state(keeper).open("r+b") as memory:
        command = [str(ROOT / "target" / "release" / "examples" / "fill_state"), str(NODES)]
        filled = subprocess.run(command, stdin=memory, check=True, capture_output=True, text=True, timeout=60)
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: keeper.daemon_pids() not in ([], [daemon]), what="the next daemon")
    return str(filled.stdout).strip()


@pytest.mark.timeout(120 + 5 * KILLS)
def test_a_read_hardly_waits_for_a_successor(nas: Nas) -> None:
    (nas.export_folder() / "file").write_bytes(os.urandom(256 * BLOCK))
    pauses_ms, calm_ms = [], []
    with Keeper() as keeper, keeper.mounted(nas.url) as mount:
        print(fill(keeper))
        reader = Reader(mount / "file")
        reader.start()
        try:
            time.sleep(1)
            for _ in range(KILLS):
                since = reader.done_at[-1]
                time.sleep(CALM_S)
                calm_ms.append(reader.longest_wait_ms(since))
                pauses_ms.append(kill_daemon(keeper, reader))
        finally:
            reader.end()
    figures = {
        "nodes": NODES,
        "kills": len(pauses_ms),
        "median_ms": statistics.median(pauses_ms),
        "p99_ms": statistics.quantiles(pauses_ms, n=100, method="inclusive")[98],
        "longest_ms": max(pauses_ms),
        "longest_without_kill_ms": max(calm_ms),
    }
    print(figures, [round(pause) for pause in pauses_ms])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "faults.pause.json").write_text(json.dumps(figures, indent=2) + "\n")
    assert figures["median_ms"] < 100
    assert figures["p99_ms"] < 400
