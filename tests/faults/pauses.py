"""How long a read waits when its daemon is killed or upgraded, with as many inodes known as a node ever has.

The same loop's waits between two strikes are measured beside it: what the machine does to it by itself. The tests see
to it that reads go on; how long they wait is for `make bench`.
"""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults import figures
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import ROOT
from tests.support.processes import stop_process, wait_until

NODES = int(os.environ.get("FAULTS_NODES", "1000000"))
#: Between two kills: a daemon that dies as soon as it serves would have to wait after a few such deaths.
CALM_S = 0.5
BLOCK = 4096


class Reader(threading.Thread):
    """Reads 4 KiB past the page cache, again and again; notes when each read was done.

    The test has a file of the mount open meanwhile, so it starts no keeper and no daemon itself.
    """

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

    def longest_wait_ms(self, first: int) -> float:
        """The longest time between the ends of two reads, from the read of this number on."""
        return max(later - earlier for earlier, later in itertools.pairwise(self.done_at[first:])) * 1000

    def reads_again(self) -> None:
        """Returns when it has gone on for a while."""
        count = len(self.done_at)
        wait_until(lambda: self.error or len(self.done_at) > count + 100, what="reads", limit_s=30)

    def end(self) -> None:
        """Ends it; raises what ended it before."""
        self._over = True
        self.join(30)
        assert self.error is None, self.error


def saved_state(keeper: Keeper) -> Path:
    """The memory that outlives daemons, as the keeper holds it."""
    links = Path(f"/proc/{keeper.pid}/fd").iterdir()
    return next(link for link in links if "memfd:efc-state" in os.readlink(link))


def kill_daemon(keeper: Keeper, mount: Path) -> None:
    """SIGKILL; returns when the next one serves."""
    keeper.replace_daemon(mount)


def upgrade_daemon(keeper: Keeper, mount: Path) -> None:
    """To a new daemon of the same program."""
    before = keeper.daemon_pids()
    keeper.efc("upgrade", str(mount))
    assert not set(keeper.daemon_pids()) & set(before), "the daemon is the same"


def fill(keeper: Keeper, mount: Path) -> str:
    """Has the daemon's successor know a million nodes more. Returns what `fill_state` printed."""
    [daemon] = keeper.daemon_pids()
    stop_process(daemon)  # nobody else may be at work on the state
    with saved_state(keeper).open("r+b") as memory:
        command = [str(ROOT / "target" / "release" / "examples" / "fill_state"), str(NODES)]
        filled = subprocess.run(command, stdin=memory, check=True, capture_output=True, text=True, timeout=60)
    os.kill(daemon, signal.SIGKILL)
    keeper.await_successor(mount, daemon)
    return str(filled.stdout).strip()


@contextmanager
def filled_mount(nas: Nas) -> Iterator[tuple[Keeper, Path]]:
    """A mount whose daemon knows many nodes, and a file to read there."""
    (nas.export_folder() / "file").write_bytes(os.urandom(256 * BLOCK))
    with Keeper() as keeper, keeper.mounted(nas.url) as target:
        print(fill(keeper, target))
        yield keeper, target


def measure(
    mount: tuple[Keeper, Path], name: str, strike: Callable[[Keeper, Path], None], *, count: int
) -> dict[str, Any]:
    """Strikes so often under a reader, which must see no error. Returns how long it waited, at strikes and between."""
    keeper, target = mount
    pauses_ms, calm_ms = [], []
    reader = Reader(target / "file")
    reader.start()
    try:
        time.sleep(1)
        for _ in range(count):
            first = len(reader.done_at) - 1
            time.sleep(CALM_S)
            calm_ms.append(reader.longest_wait_ms(first))
            first = len(reader.done_at) - 1
            strike(keeper, target)
            reader.reads_again()
            pauses_ms.append(reader.longest_wait_ms(first))
    finally:
        reader.end()
    pauses = figures.spread(pauses_ms)
    measured = {"nodes": NODES, "kills": count, "pauses": pauses, "without_kills": figures.spread(calm_ms)}
    figures.record("pauses", name, measured)
    print(measured, [round(pause) for pause in pauses_ms])
    return measured
