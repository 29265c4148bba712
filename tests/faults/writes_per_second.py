"""What writing costs: `tests/support/sandbox .venv/bin/python -m tests.faults.writes_per_second [BIN_DIR...]`.

One thread on a mount: a file of 256 MiB written in pieces of 1 MiB and synced, and 4 KiB written 10,000 times to the
same 64 MiB. With several folders of programs, rounds take turns between them. Prints JSON: per folder and kind the
median of the rounds' MiB or writes per second, and the daemon's CPU seconds per GiB or microseconds per write.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import cpu_s

ROUNDS = 15
KIB, MIB = 1 << 10, 1 << 20
LARGE_MIB, SMALL_COUNT = 256, 10_000


def large(mount: Path) -> None:
    """Sequential, with one fsync at the end."""
    data = os.urandom(MIB)
    with (mount / "large").open("wb", buffering=0) as file:
        for _ in range(LARGE_MIB):
            file.write(data)
        os.fsync(file.fileno())


def small(mount: Path) -> None:
    """4 KiB each, one after the other, over and over the same place."""
    data = os.urandom(4 * KIB)
    with (mount / "small").open("wb", buffering=0) as file:
        for number in range(SMALL_COUNT):
            os.pwrite(file.fileno(), data, number * 4 * KIB % (64 * MIB))
        os.fsync(file.fileno())


def main() -> None:
    """Measures, and prints the medians."""
    folders = sys.argv[1:] or [os.environ.get("EFC_BIN_DIR", "")]
    rates, cpu = defaultdict(list), defaultdict(list)
    with Nas() as nas, ExitStack() as stack:
        mounts = []
        for folder in folders:
            if folder:
                os.environ["EFC_BIN_DIR"] = folder
            keeper = stack.enter_context(Keeper())
            mount = stack.enter_context(keeper.mounted(nas.url))
            mounts.append((folder, mount, keeper.daemon_pids()[0]))
        for number in range(ROUNDS):
            for folder, mount, daemon in mounts if number % 2 else mounts[::-1]:
                for work, units, gib in ((large, LARGE_MIB, LARGE_MIB / KIB), (small, SMALL_COUNT, SMALL_COUNT / 1e6)):
                    start, used_s = time.monotonic(), cpu_s(daemon)
                    work(mount)
                    rates[folder, work.__name__].append(units / (time.monotonic() - start))
                    cpu[folder, work.__name__].append((cpu_s(daemon) - used_s) / gib)
    for key, values in rates.items():
        print(json.dumps([*key, round(statistics.median(values)), round(statistics.median(cpu[key]), 3)]))


if __name__ == "__main__":
    main()
