"""What changes of names cost: `tests/support/sandbox .venv/bin/python -m tests.faults.names_per_second`.

One thread on a mount, each operation 2,000 times a round. Prints JSON: per operation the median of the rounds' calls
per second, and the daemon's CPU microseconds per call. Compare programs by EFC_BIN_DIR, on one machine at one time.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import cpu_s

COUNT, ROUNDS = 2000, 5


def create(folder: Path, number: int) -> None:
    os.close(os.open(folder / str(number), os.O_CREAT | os.O_WRONLY, 0o644))


OPERATIONS: dict[str, Callable[[Path, int], object]] = {
    "create": create,
    "rename": lambda folder, number: (folder / str(number)).rename(folder / f"renamed-{number}"),
    "unlink": lambda folder, number: (folder / f"renamed-{number}").unlink(),
    "mkdir": lambda folder, number: (folder / f"made-{number}").mkdir(),
    "rmdir": lambda folder, number: (folder / f"made-{number}").rmdir(),
}


def main() -> None:
    rates, cpu_us = defaultdict(list), defaultdict(list)
    with Nas() as nas, Keeper() as keeper, keeper.mounted(nas.url) as mount:
        [daemon] = keeper.daemon_pids()
        for _ in range(ROUNDS):
            for name, operation in OPERATIONS.items():
                start, used_s = time.monotonic(), cpu_s(daemon)
                for number in range(COUNT):
                    operation(mount, number)
                rates[name].append(COUNT / (time.monotonic() - start))
                cpu_us[name].append((cpu_s(daemon) - used_s) / COUNT * 1e6)
    median = {
        name: {"per_s": round(statistics.median(rates[name])), "cpu_us": round(statistics.median(cpu_us[name]), 1)}
        for name in OPERATIONS
    }
    print(json.dumps(median))


if __name__ == "__main__":
    main()
