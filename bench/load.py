"""Runs one row's load in a folder: `python -m bench.load NAME FOLDER`, a process of its own so that its CPU is known.

It prints a line where what counts begins, and waits for a line before it goes on; where that ends it prints seconds,
operations and its own CPU seconds as JSON, and waits again. By hand: `yes | python -m bench.load NAME FOLDER`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

from bench.rows import families


def main(name: str, folder: str) -> None:
    """Raises OSError for whatever the folder's file system refuses."""
    [row] = [row for rows in families().values() for row in rows if row.name == name]
    os.chdir(folder)
    steps = row.load()
    for _begin in steps:
        print("begin", flush=True)
        sys.stdin.readline()
        cpu_s, began = _cpu_s(), time.monotonic()
        operations = next(steps)
        seconds, cpu_s = time.monotonic() - began, _cpu_s() - cpu_s
        print(json.dumps({"seconds": seconds, "operations": operations, "load_cpu_s": cpu_s}), flush=True)
        sys.stdin.readline()


def _cpu_s() -> float:
    """Of this process, and of the programs that it has run to their end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main(*sys.argv[1:])
