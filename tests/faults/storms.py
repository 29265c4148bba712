"""A storm: something is struck again and again, at random moments, under verified work on a volume.

`storm` runs one with the real driver and says what applications and the NAS saw; whoever calls it judges. It takes
mount options, so that the same storms run as on an older kernel, and says what went wrong instead of raising it, so
that a broken program can be told from a whole one.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from csi.base.errors import DriverError
from csi.node.keeper import Keeper
from tests.faults import figures, load
from tests.support.driver import Driver, static_volume
from tests.support.mounts import remove_mounts
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import SLOWNESS, TimeLimitError, stop_process, wait_until
from tests.support.releases import NEXT_RELEASE, RELEASE, as_next_release

KILLS = int(os.environ.get("FAULTS_KILLS", "5"))
#: `make faults`: what takes minutes, and gates on times.
IS_LONG = KILLS >= 100
#: Of daemons, which die most of all.
DAEMON_KILLS = KILLS * (5 if IS_LONG else 2)
#: Work between two strikes, at random up to this.
CALM_S_MAX = 1.0
#: The option with which a hung daemon is replaced sooner than by default.
HANG_LIMIT_S = 1.0

#: Is told how many were before it.
Strike = Callable[[Driver, int], None]


@dataclass(kw_only=True)
class Outcome:
    """What a storm came to."""

    kills: int
    operations: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    wrong_bytes: int = 0
    stalls_ms: list[float] = field(default_factory=list)
    strikes_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    log: str = field(default="", repr=False)  # the keeper's and its daemons'

    def as_figures(self) -> dict[str, Any]:
        """For results/faults.json."""
        return {
            "kills": self.kills,
            "operations": self.operations,
            "errors": len(self.errors),
            "wrong_bytes": self.wrong_bytes,
            "stalls": figures.spread(self.stalls_ms or [0.0]),
            "strike_ms_max": round(max(self.strikes_ms, default=0.0), 1),
            "seconds": round(self.seconds, 1),
        }

    def check(self) -> None:
        """Raises AssertionError if anybody has noticed anything."""
        told = "\n".join(self.errors[:30])
        assert (len(self.errors), self.wrong_bytes) == (0, 0), f"{len(self.errors)} errors:\n{told}"


# ---------------------------------------------------------------- strikes


def kill(*names: str, daemons: bool = False) -> Strike:
    """Kills these services at once, and the daemons too if so; starts the services again."""

    def strike(driver: Driver, _number: int) -> None:
        found = living_daemons(driver) if daemons else []
        for name in names:
            driver.kill(name)
        _kill(found)
        for name in names:
            driver.start(name)

    return strike


def _kill(daemons: Iterable[int]) -> None:
    """SIGKILL; one that was just being started ends with its keeper, maybe before."""
    for pid in daemons:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def living_daemons(driver: Driver) -> list[int]:
    """Waits for one: a strike at nobody would not count."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [daemon.pid for daemon in driver.daemons()]
        return bool(found)

    wait_until(look, what="a daemon", limit_s=30)
    return found


def kill_in_a_row(driver: Driver, number: int) -> None:
    """Kills the daemon, and its successors at a time when the former has hardly ended."""
    moments = random.Random(number)  # the same each time
    kill(daemons=True)(driver, number)
    for _ in range(2):
        time.sleep(moments.uniform(0, 0.1))
        _kill(daemon.pid for daemon in driver.daemons())


def hang(driver: Driver, _number: int) -> None:
    """Stops the daemon, and waits until another one is there. Raises TimeLimitError past its time."""
    [pid] = living_daemons(driver)
    stop_process(pid)
    wait_until(
        lambda: [daemon.pid for daemon in driver.daemons()] not in ([], [pid]),
        what=f"a hung daemon's successor, which has {HANG_LIMIT_S} s", limit_s=HANG_LIMIT_S + 30,
    )  # fmt: skip


def upgrade(driver: Driver, number: int) -> None:
    """To a daemon that says it is of the next release, or back to this one's."""
    folder = driver.folder / "next"
    if not folder.exists():
        folder.mkdir()
        (folder / "efcd").write_bytes(as_next_release(program("efcd").read_bytes()))
        (folder / "efcd").chmod(0o755)
    chosen, version = (folder, NEXT_RELEASE) if number % 2 == 0 else (program("efcd").parent, RELEASE)
    command = [str(program("efc")), "upgrade", "--all", "--run-dir", str(driver.run_dir)]
    environment = {**os.environ, "EFC_BIN_DIR": str(chosen)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 * SLOWNESS, check=False)
    assert done.returncode == 0, done.stderr
    assert f"-> {version}," in done.stdout, done.stdout


# ---------------------------------------------------------------- the storm


def storm(
    nas: Nas,
    strike: Strike,
    *,
    kills: int,
    mount_options: Sequence[str] = (),
    kinds: Sequence[str] = load.KINDS,
    calm_s_max: float = CALM_S_MAX,
    finish_limit_s: float = 120 * SLOWNESS,
    seed: int = 1,
) -> Outcome:
    """Strikes `kills` times while a worker of each of `kinds` works on a volume mounted with `mount_options`."""
    outcome = Outcome(kills=kills)
    behind = nas.export_folder() / f"storm-{uuid.uuid4().hex[:8]}"
    behind.mkdir()
    load.prepare(behind, kinds)
    began = time.monotonic()
    with Driver(source=nas.url) as driver:
        volume = static_volume("storm", nas.url_of(f"{nas.exports[0].name}/{behind.name}"))
        target = driver.target()
        driver.publish(volume, target, mount_flags=mount_options)
        with load.work(target, kinds, finish_limit_s=finish_limit_s, on_stuck=lambda: abort(driver)) as reports:
            struck_at = _strike_again_and_again(driver, strike, outcome, calm_s_max=calm_s_max, seed=seed)
        _judge(outcome, reports, struck_at)
        _nothing_is_open(driver, outcome)
        try:
            driver.unpublish(volume, target)
        except grpc.RpcError as error:
            outcome.errors.append(f"unpublish: {error.details()}")
        outcome.log = driver.log("keeper").read_text(errors="replace")
        if "of the saved state are damaged" in outcome.log:
            outcome.errors.append("records of the saved state were torn")
    outcome.seconds = time.monotonic() - began
    for wrong in load.wrong_behind(behind, reports):
        outcome.errors.append(wrong)
    load.remove(behind)
    return outcome


def abort(driver: Driver) -> None:
    """Frees whoever is stuck in a mount."""
    remove_mounts(driver.folder)


def _strike_again_and_again(
    driver: Driver, strike: Strike, outcome: Outcome, *, calm_s_max: float, seed: int
) -> list[float]:
    """When it struck. What a strike raises is an error, and the last strike."""
    moments = random.Random(seed)  # the same each time
    struck_at = []
    for number in range(outcome.kills):
        time.sleep(moments.uniform(0, calm_s_max))
        struck_at.append(time.monotonic())
        try:
            strike(driver, number)
        except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as error:
            outcome.errors.append(f"strike {number + 1}: {error}")
            outcome.kills = number + 1
            break
        outcome.strikes_ms.append((time.monotonic() - struck_at[-1]) * 1000)
    time.sleep(calm_s_max)
    return struck_at


def _nothing_is_open(driver: Driver, outcome: Outcome) -> None:
    """Workers have closed all they had open: a daemon that thinks otherwise keeps files that were unlinked for ever."""
    count = -1

    def look() -> bool:
        nonlocal count
        mounts = asyncio.run(Keeper(str(driver.run_dir)).status()).mounts
        count = sum(mount.stats.state.open_files for mount in mounts)
        return count == 0 and bool(mounts)

    try:
        wait_until(look, what="the last files to be closed", limit_s=10, interval_s=0.2)
    except (TimeLimitError, DriverError) as error:
        outcome.errors.append(f"{count} files are still open: {error}")


def _judge(outcome: Outcome, reports: dict[str, load.Report], struck_at: Sequence[float]) -> None:
    for kind, report in reports.items():
        outcome.operations[kind] = report["operations"]
        outcome.errors += [f"{kind}: {error}" for error in report["errors"]]
        outcome.wrong_bytes += report["wrong_bytes"]
        if report["operations"] == 0:
            outcome.errors.append(f"{kind} has done nothing")
    waits = [(began, began + ms / 1000, ms) for began, ms in reports.get("reads", {}).get("stalls", [])]
    for since, until in zip(struck_at, [*struck_at[1:], math.inf], strict=True):
        outcome.stalls_ms.append(
            max((ms for began, ended, ms in waits if began < until and ended > since), default=0.0)
        )
