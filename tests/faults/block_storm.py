"""A storm on few large files: daemons are killed while `tests.faults.blocks` overwrites and reads places of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.storms import CALM_S_MAX
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import ROOT
from tests.support.processes import SLOWNESS

#: What a daemon logs that executes what its predecessor had read.
REPLAYS = "requests of a predecessor go on"
_FINISH_LIMIT_S = 60 * SLOWNESS


@dataclass(frozen=True, kw_only=True)
class BlockOutcome:
    """What the worker said, and the log of the keeper and its daemons."""

    turns: int
    errors: list[str]
    longest_turn_ms: float
    log: str


def block_storm(
    nas: Nas,
    name: str,
    *,
    kills: int,
    replays: bool = False,
    options: Sequence[str] = (),
    calm_s_max: float = CALM_S_MAX,
) -> BlockOutcome:
    """Kills the daemon of a mount with `options` so many times; `name` is the folder's and the moments' seed.

    With `replays`, up to ten times as often, until a kill has met requests that the daemon had read: on a busy machine
    few kills may all fall between two.
    """
    folder = nas.export_folder() / f"blocks-{name}"
    folder.mkdir()
    with Keeper() as keeper, keeper.mounted(nas.url_of(f"export/{folder.name}"), options=options) as mount:
        command = [sys.executable, "-m", "tests.faults.blocks", str(mount)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            kills = _kill_daemons(keeper, random.Random(name), kills, replays=replays, calm_s_max=calm_s_max)
            time.sleep(calm_s_max)
            worker.send_signal(signal.SIGTERM)
            try:
                result = json.loads(worker.communicate(timeout=_FINISH_LIMIT_S)[0])
            finally:
                worker.kill()
        log = keeper.log.read_text(errors="replace")
    shutil.rmtree(folder)
    print(f"{name}: {kills} kills, {result['turns']} turns, the longest {result['longest_turn_ms']} ms")
    return BlockOutcome(**result, log=log)


def _kill_daemons(keeper: Keeper, moments: random.Random, kills: int, *, replays: bool, calm_s_max: float) -> int:
    """How many kills it were."""
    done = 0
    while done < kills or (replays and done < 10 * kills and REPLAYS not in keeper.log.read_text(errors="replace")):
        time.sleep(moments.uniform(0, calm_s_max))
        for pid in keeper.daemon_pids():
            os.kill(pid, signal.SIGKILL)
        done += 1
    return done
