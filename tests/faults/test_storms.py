"""Applications work while what serves them is killed, again and again: not one may notice more than a pause.

FAULTS_KILLS says how often in each storm. Kills come at random moments of the work.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.driver import Driver, static_volume
from tests.support.nas import Nas
from tests.support.paths import RESULTS, ROOT, program
from tests.support.processes import wait_until

KILLS = int(os.environ.get("FAULTS_KILLS", "5"))
#: Work between two kills, at random up to this.
CALM_S_MAX = 1.0
WORKERS = 2
#: A daemon that hangs is replaced after 10 s unless the mount says otherwise.
HANG_LIMIT_S = 10
_FINISH_LIMIT_S = 60


def _kill(*names: str, daemons: bool = False) -> Callable[[Driver], None]:
    """Kills these services at once, and the daemons too if so; starts the services again."""

    def strike(driver: Driver) -> None:
        found = driver.daemons() if daemons else []
        for name in names:
            driver.kill(name)
        for daemon in found:
            os.kill(daemon.pid, signal.SIGKILL)
        for name in names:
            driver.start(name)

    return strike


def _upgrade(driver: Driver) -> None:
    command = [program("efc"), "upgrade", "--all", "--run-dir", driver.run_dir]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


STORMS: dict[str, Callable[[Driver], None]] = {
    "daemon": _kill(daemons=True),
    "keeper": _kill("keeper"),
    "node plugin": _kill("node"),
    "keeper and daemon": _kill("keeper", daemons=True),
    "keeper and node plugin": _kill("keeper", "node"),
    "node plugin and daemon": _kill("node", daemons=True),
    "upgrade": _upgrade,
}


@contextmanager
def workers(target: Path) -> Iterator[list[dict[str, object]]]:
    """Work in folders of its own during the block; what each says at its end."""
    results: list[dict[str, object]] = []
    started = []
    for number in range(WORKERS):
        folder = target / f"worker-{number}"
        folder.mkdir()
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.load", folder], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        started.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    try:
        yield results
        for worker in started:
            worker.send_signal(signal.SIGTERM)
        results += [json.loads(worker.communicate(timeout=_FINISH_LIMIT_S)[0]) for worker in started]
    finally:
        for worker in started:
            worker.kill()
            worker.wait()


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, object]]:
    """What the storms cost, for results/faults.json."""
    measured: dict[str, object] = {}
    yield measured
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "faults.details.json").write_text(json.dumps(measured, indent=2) + "\n")


@pytest.mark.timeout(120 + 15 * KILLS)
@pytest.mark.parametrize("storm", STORMS)
def test_nobody_notices(nas: Nas, figures: dict[str, object], storm: str) -> None:
    (nas.export_folder() / "storm").mkdir(exist_ok=True)
    moments = random.Random(storm)  # the same moments each time
    with Driver(source=nas.url) as driver:
        volume, target = static_volume("storm", nas.url_of("export/storm")), driver.target()
        driver.publish(volume, target)
        durations_ms = []
        with workers(target) as results:
            for _ in range(KILLS):
                time.sleep(moments.uniform(0, CALM_S_MAX))
                began = time.monotonic()
                STORMS[storm](driver)
                durations_ms.append((time.monotonic() - began) * 1000)
            time.sleep(CALM_S_MAX)
        driver.unpublish(volume, target)
    for number in range(WORKERS):
        subprocess.run(["rm", "-rf", nas.export_folder() / "storm" / f"worker-{number}"], check=True)
    longest_ms = max(float(str(result["longest_turn_ms"])) for result in results)
    figures[storm] = {
        "kills": KILLS,
        "turns": sum(int(str(result["turns"])) for result in results),
        "longest_turn_ms": longest_ms,
        "action_ms_median": round(statistics.median(durations_ms), 1),
    }
    print(storm, figures[storm])
    errors = [error for result in results for error in result["errors"]]  # type: ignore[attr-defined]
    assert errors == [], f"{len(errors)} errors"


@pytest.mark.timeout(120)
def test_a_hung_daemon_is_replaced_in_its_time(nas: Nas, figures: dict[str, object]) -> None:
    with Driver(source=nas.url) as driver:
        volume, target = static_volume("hung", nas.url), driver.target()
        driver.publish(volume, target)
        (daemon,) = driver.daemons()
        with workers(target) as results:
            os.kill(daemon.pid, signal.SIGSTOP)
            began = time.monotonic()
            wait_until(
                lambda: [found.pid for found in driver.daemons()] not in ([], [daemon.pid]),
                what="the next daemon", limit_s=HANG_LIMIT_S + 5,
            )  # fmt: skip
            replaced_s = time.monotonic() - began
            time.sleep(1)
        driver.unpublish(volume, target)
    for number in range(WORKERS):
        subprocess.run(["rm", "-rf", nas.export_folder() / f"worker-{number}"], check=True)
    figures["daemon hangs"] = {"replaced_s": round(replaced_s, 2)}
    assert [result["errors"] for result in results] == [[]] * WORKERS
    assert replaced_s < HANG_LIMIT_S + 1
