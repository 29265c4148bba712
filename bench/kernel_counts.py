"""Counts of the kernel's NFS client alone, into the baseline: `python -m bench.kernel_counts [--only TEXT] FILE`.

In tests/support/sandbox, as root. For machines that have that client and are not the one where `make bench` runs, an
emulated one for example: what it asks of a server is the same everywhere, whatever time it takes there. FILE is a copy
of bench/baseline.json; rows that the kernel's client has by itself there are replaced, row after row, all else is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import gate
from bench.clients import KERNEL, KernelNfs, no_kernel_nfs
from bench.comparing import Result
from bench.measuring import can_run, make_data, run_round
from bench.rows import families
from tests.support.leaks import no_leaks
from tests.support.nas import Nas


def main() -> int:
    """Prints each row's counts; 1 where there is no such client."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_counts", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows with this in their names")
    parser.add_argument("--without", default="\n", metavar="TEXT", help="no rows with this in their names")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    if why := no_kernel_nfs():
        print(f"kernel_counts: {why}", file=sys.stderr)
        return 1
    with no_leaks(), Nas() as nas:
        client = KernelNfs(nas=nas)
        for row in (row for rows in families().values() for row in rows):
            if arguments.only in row.name and arguments.without not in row.name and can_run(row, client):
                make_data(row, nas)
                figures = Result(row=row, rounds={KERNEL: [run_round(row, client, nas)]}).figures(KERNEL)
                print(f"{row.name}: {figures}", flush=True)
                gate.write_baseline({row.name: {"kernel": figures}}, arguments.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
