"""Reads a report of covered lines: `python tests/support/covered_lines.py REPORT PERCENT_MIN FOLDER...`.

Prints a line per file of the folders, and the sum. What follows a file's `mod tests {` does not count, nor do folders
named `tests`. The exit status is 1 if the sum is below the minimum.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def _last_line(source: Path) -> int:
    """The last line before the file's own tests."""
    lines = source.read_text().splitlines()
    return next((number for number, line in enumerate(lines) if line.startswith("mod tests {")), len(lines))


def covered(report: str) -> dict[Path, tuple[int, int]]:
    """How many lines of each source file were run, and how many there are."""
    counts: dict[Path, tuple[int, int]] = {}
    for record in report.split("end_of_record"):
        lines = record.split()
        source = next((Path(line.removeprefix("SF:")) for line in lines if line.startswith("SF:")), None)
        if source is None or "tests" in source.parts or not source.exists():
            continue
        last = _last_line(source)
        executed = (line.removeprefix("DA:").split(",") for line in lines if line.startswith("DA:"))
        runs = [int(count) for number, count, *_ in executed if int(number) <= last]
        counts[source] = (sum(count > 0 for count in runs), len(runs))
    return counts


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    report, percent_min, *folders = arguments
    roots = [Path(folder).resolve() for folder in folders]
    every = covered(Path(report).read_text())
    files = {path: counts for path, counts in every.items() if any(root in path.parents for root in roots)}
    for path, (run, there) in sorted(files.items()):
        print(f"{100 * run / max(there, 1):5.1f} % of {there:4} lines: {path.relative_to(Path.cwd())}")
    run, there = (sum(counts[column] for counts in files.values()) for column in range(2))
    print(f"{100 * run / max(there, 1):.1f} % of {there} lines")
    return int(100 * run < float(percent_min) * there)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
