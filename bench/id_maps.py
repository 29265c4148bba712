"""What the mount option `idmap` costs: `tests/support/sandbox .venv/bin/python -m bench.id_maps [--rounds N]`.

Without it the kernel names the caller of each request; with it the daemon looks at /proc for each, and asks for the map
of a thread's mounts when it first sees the thread. So two loads, of nothing but such requests (names and attributes are
not kept): one process that asks for a file's attributes again and again, and a process of its own for each time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.keeper import Keeper
from tests.support.leaks import no_leaks
from tests.support.nas import Nas
from tests.support.paths import RESULTS
from tests.support.processes import cpu_s

OPTIONS = ("attr-ttl=0s", "entry-ttl=0s")
MOUNTS = {"without": OPTIONS, "with idmap": (*OPTIONS, "idmap")}
CALLS, PROCESSES = 10_000, 500


def one_process(path: Path) -> int:
    """How many calls it made."""
    for _ in range(CALLS):
        os.stat(path)
    return CALLS


def many_processes(path: Path) -> int:
    """Likewise; a fork of this process is the cheapest that there is."""
    for _ in range(PROCESSES):
        if (pid := os.fork()) == 0:
            os.stat(path)
            os._exit(0)
        os.waitpid(pid, 0)
    return PROCESSES


def main() -> None:
    """Prints medians, and leaves them in results/id_maps.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with no_leaks(), Nas() as nas, Keeper() as keeper:
        (nas.export_folder() / "file").touch()
        mounts = {name: keeper.mount(nas.url, options=options) for name, options in MOUNTS.items()}
        for load in (one_process, many_processes):
            samples: dict[str, list[tuple[float, float]]] = {name: [] for name in mounts}
            for _ in range(rounds):
                for name, mount in mounts.items():
                    samples[name].append(_round(load, mount / "file", daemon=keeper.daemon_pid(mount)))
            figures[load.__name__] = {name: _medians(taken) for name, taken in samples.items()}
            for name, medians in figures[load.__name__].items():
                text = ", ".join(f"{figure} {value:.1f}" for figure, value in medians.items())
                print(f"{load.__name__}, {name}: {text} (medians of {rounds} rounds, per call)")
        for mount in mounts.values():
            keeper.unmount(mount)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "id_maps.json").write_text(json.dumps(figures, indent=2) + "\n")


def _round(load: Callable[[Path], int], path: Path, *, daemon: int) -> tuple[float, float]:
    """Microseconds of a call, and of the daemon's CPU."""
    began, cpu_began = time.monotonic(), cpu_s(daemon)
    calls = load(path)
    return (time.monotonic() - began) / calls * 1e6, (cpu_s(daemon) - cpu_began) / calls * 1e6


def _medians(samples: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = zip(*samples, strict=True)
    return {"wall_us": statistics.median(wall), "daemon_cpu_us": statistics.median(cpu)}


if __name__ == "__main__":
    main()
