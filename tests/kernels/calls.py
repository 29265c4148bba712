"""Calls of NFS per operation: counted on a client, compared with what is expected, shown beside another client's.

`expected.toml` has both clients' figures, of Linux 6.1, and what is aimed at. `python -m tests.kernels.calls` writes
ours of the last `make kernels` into it.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.clients import Client, Mounted
from tests.kernels.operations import FOREIGN, OPERATIONS, OWN, REPETITIONS, Operation, Place, make_foreign, other
from tests.support.nas import Nas
from tests.support.paths import RESULTS

EXPECTED = Path(__file__).with_name("expected.toml")
#: Place -> operation -> calls per repetition.
Counts = dict[str, dict[str, float]]

#: More is worse. A client asks now and then whether its directory is still what it was: so many calls do not count.
MARGIN, CALLS_OF_CHANCE = 0.03, 2
_AIM_MARGIN = 0.05
#: Between readings of counters, on an emulated machine.
_CALM_S = 0.1
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Of one operation in one place: the calls of both clients, and what ours shall come to."""

    linux: float
    efc: float
    aim: float


#: Place -> operation -> what is expected.
Table = Mapping[str, Mapping[str, Expected]]


def read_expected(path: Path = EXPECTED) -> dict[str, dict[str, Expected]]:
    """The table of the file."""
    table = tomllib.loads(path.read_text())
    return {place: {name: Expected(**row) for name, row in rows.items()} for place, rows in table.items()}


def count(client: Client, nas: Nas, *, expires: bool, place: str) -> tuple[dict[str, float], dict[str, int]]:
    """Runs the operations that want such trust (see Operation.expires) on one mount.

    Returns calls per repetition, and repetitions, by operation. Foreign directories are made before it is mounted.
    """
    work = nas.export_folder() / f"calls-{next(_numbers)}"
    work.mkdir()
    operations = [one for one in OPERATIONS if one.expires is expires and place in one.places]
    if place == FOREIGN:
        for name in {one.folder for one in operations}:
            make_foreign(work / f"{name}-{FOREIGN}")
    counts: dict[str, float] = {}
    repetitions: dict[str, int] = {}
    with client.mounted() as mounted:
        for one in operations:
            calls, repetitions[one.name] = _count_one(one, _place(one, place, mounted.path / work.name), mounted)
            counts[one.name] = round(calls / repetitions[one.name], 3)
            print(f"{client.name}, {one.name} ({place}): {counts[one.name]:.3f} calls", flush=True)
    return counts, repetitions


def _place(operation: Operation, place: str, work: Path) -> Place:
    """What it needs in there: a directory of its own making, or some of another node's files."""
    number = OPERATIONS.index(operation)
    if place == FOREIGN:
        of_others = [one for one in OPERATIONS if one.places == (FOREIGN,)]
        first = of_others.index(operation) * REPETITIONS if operation in of_others else 0
        others = tuple(other(first + count) for count in range(REPETITIONS))
        return Place(folder=str(work / f"{operation.folder}-{FOREIGN}"), prefix=str(number), others=others)
    name = operation.folder if operation.folder == "listed" else str(number)
    folder = work / f"{name}-{OWN}"
    folder.mkdir(exist_ok=True)
    return Place(folder=str(folder), prefix=str(number), is_own=True)


def _count_one(operation: Operation, place: Place, mounted: Mounted) -> tuple[int, int]:
    steps = operation.load(place)
    next(steps)
    before = mounted.calm_counters(pause_s=_CALM_S)
    repetitions = next(steps)
    return (mounted.calm_counters(pause_s=_CALM_S) - before).calls, repetitions


def worse(measured: Counts, expected: Table, repetitions: Mapping[str, int]) -> list[str]:
    """Each figure of ours that is more than expected, for people."""
    return [
        f"{name} ({place}): {calls:.3f} calls, at most {limit:.3f} expected"
        for place, name, calls in _each(measured)
        if calls > (limit := _limit(expected[place][name].efc, repetitions[name]))
    ]


def not_as_expected(measured: Counts, expected: Table, repetitions: Mapping[str, int]) -> list[str]:
    """Figures of the kernel's own client that differ either way: then it is not what they say that is measured.

    But for what expires, which depends on the machine's speed.
    """
    of_speed = {one.name for one in OPERATIONS if one.expires}
    return [
        f"{name} ({place}): {calls:.3f} calls of the kernel's client instead of {known:.3f}"
        for place, name, calls in _each(measured)
        if name not in of_speed
        and (
            calls > _limit(known := expected[place][name].linux, repetitions[name])
            or known > _limit(calls, repetitions[name])
        )
    ]


def _limit(calls: float, repetitions: int) -> float:
    return max(calls * (1 + MARGIN), calls + CALLS_OF_CHANCE / repetitions)


def _each(counts: Counts) -> Iterator[tuple[str, str, float]]:
    for place, rows in counts.items():
        for name, calls in rows.items():
            yield place, name, calls


def table(linux: Counts, efc: Counts, expected: Table) -> list[str]:
    """For people: both clients beside each other."""
    lines = [f"{'calls per operation':50} {'Linux':>8} {'EFC':>8} {'expected':>8} {'aim':>6}"]
    titles = {OWN: "in a directory that this node has just made", FOREIGN: "in one of 1,000 entries of another node's"}
    for place, rows in efc.items():
        lines.append(f"-- {titles[place]}")
        for name, ours in rows.items():
            theirs, row = linux.get(place, {}).get(name), expected.get(place, {}).get(name)
            line = f"{name:50} {'' if theirs is None else format(theirs, '.2f'):>8} {ours:8.2f}"
            if row is not None:
                line += f" {row.efc:8.2f} {row.aim:6.2f}{' reached' if ours <= row.aim + _AIM_MARGIN else ''}"
            lines.append(line)
    return lines


def write_expected(linux: Counts, efc: Counts, path: Path = EXPECTED) -> None:
    """Replaces figures; aims, and rows that were not measured, stay as they are."""
    before = read_expected(path) if path.exists() else {}
    text = path.read_text().partition("[")[0] if path.exists() else ""
    for place in (OWN, FOREIGN):
        text += f"[{place}]\n"
        for operation in (one for one in OPERATIONS if place in one.places):
            row = before.get(place, {}).get(operation.name)
            theirs, ours = (
                counts.get(place, {}).get(operation.name, known)
                for counts, known in ((linux, row and row.linux), (efc, row and row.efc))
            )
            aim = theirs if row is None else row.aim
            text += f'"{operation.name}" = {{ linux = {theirs:.2f}, efc = {ours:.2f}, aim = {aim:g} }}\n'
        text += "\n"
    path.write_text(text.rstrip("\n") + "\n")


def main() -> None:
    """See the module."""
    measured = json.loads((RESULTS / "kernels.json").read_text())["details"]["6.1"]["calls"]
    write_expected(measured["linux"], measured["efc"])
    print(f"{EXPECTED} has the figures of Linux 6.1 in results/kernels.json; look at what changed before you commit it")


if __name__ == "__main__":
    main()
