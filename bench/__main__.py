"""Runs all of it: `python -m bench [--rounds N] [PART...]`, as root, in tests/support/sandbox as `make bench` does."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from bench import bare, comparing, filling, gate, memory, nodes, pauses, prefetch, publishing, stores
from bench.bare import Case, unit
from bench.clients import MOUNT, VARIANTS, contenders
from bench.rows import families
from bench.training import bench as training
from bench.training import report as training_report
from tests.scale import simulation
from tests.support.leaks import no_leaks
from tests.support.paths import RESULTS

#: What can be run alone: comparisons with the bare client; families of rows; nodes with workers; local stores; files
#: that are asked for ahead; a training beside other clients; reads and writes while all levels fill; others.
COMPARED, FAMILIES, OTHERS = ("loopback", "link"), (*families(), "memory"), ("publishing", "pauses", "scale")
NODES, STORES, PREFETCH, TRAINING, FILLING = "nodes", "stores", "prefetch", "training", "filling"
PARTS = (*COMPARED, *FAMILIES, NODES, STORES, PREFETCH, TRAINING, FILLING, *OTHERS)


class Judged(Protocol):
    """A case of a part that has its own kind of figures."""

    @property
    def name(self) -> str:
        """Of all its lines."""

    @property
    def gates(self) -> list[bare.Gate]:
        """What must hold."""


def other_figures(part: str, console: Console) -> dict[str, dict[str, Any]]:
    """Of `publishing`, `pauses` or `scale`: compared with nothing; only those of `scale` pass gates of their own."""
    measured: dict[str, dict[str, Any]] = {}
    if part == "publishing":
        measured = {name: vars(result) for name, result in publishing.measure()}
    elif part == "scale":
        measured = dict(simulation.measure_all())
    else:
        measured = dict(pauses.measure_all())
    for name, figures in measured.items():
        console.print(f"{part}, {name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    return measured


def run_compared(parts: Sequence[str], arguments: argparse.Namespace, console: Console) -> list[Case]:
    """Those beside the bare client."""
    cases: list[Case] = []
    if compared := [part for part in COMPARED if part in parts]:
        with bare.workshop(rounds=arguments.rounds, console=console) as workshop:
            for name in compared:
                cases.extend(getattr(workshop, name)())
    if PREFETCH in parts:
        cases.extend(prefetch.measure(rounds=arguments.rounds, only=arguments.only, console=console))
    return cases


@dataclass(kw_only=True)
class Rows:
    """What the families of rows came to."""

    results: list[comparing.Result] = field(default_factory=list)
    memories: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    worse: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.results) + len(self.memories)

    def baseline(self) -> dict[str, Any]:
        """What can be written as the next baseline."""
        rows = {result.row.name: result.baseline() for result in self.results}
        return rows | {name: taken[MOUNT] | {"operations": 1} for name, taken in self.memories.items()}


def run_rows(parts: Sequence[str], arguments: argparse.Namespace, console: Console) -> Rows:
    """The rows of these families whose names have `--only` in them, and how they compare with the baseline."""
    rows = [row for part in parts for row in families().get(part, ()) if arguments.only in row.name]
    with_memory = "memory" in parts and any(arguments.only in f"memory: {step}" for step in memory.STEPS)
    if not rows and not with_memory:
        return Rows()
    variants = VARIANTS if arguments.variant is None else arguments.variant
    with contenders(against=arguments.against, variants=variants, with_far=not arguments.near) as those:
        for name, why in those.skipped.items():
            console.print(f"SKIPPED {name}, in every row: {why}")
        results = list(comparing.run_rows(rows, those, rounds=arguments.rounds, console=console))
        memories = comparing.run_memory(those, console=console) if with_memory else {}
        worse = comparing.worse(results, memories, gate.read_baseline(arguments.baseline))
        return Rows(results=results, memories=memories, skipped=those.skipped, worse=worse)


def run_judged(parts: Sequence[str], arguments: argparse.Namespace, console: Console) -> dict[str, Sequence[Any]]:
    """The cases of parts that have figures of their own kind, by part: none of a part that is not asked for."""
    rounds_and_rows = {"rounds": arguments.rounds, "only": arguments.only, "console": console}
    of_nodes = {} if arguments.small_files is None else {"small_files": arguments.small_files}
    sizes = nodes.Sizes(data_bytes=arguments.data_mib << 20, **of_nodes)
    of_a_quarter = {"size_mib": arguments.data_mib // 4, **rounds_and_rows}
    count = arguments.small_files or training.FILES
    runs: dict[str, Callable[[], Sequence[Any]]] = {
        NODES: lambda: nodes.measure(sizes=sizes, **rounds_and_rows),
        STORES: lambda: stores.measure(**of_a_quarter),
        TRAINING: lambda: training.measure(count=count, only=arguments.only, console=console),
        FILLING: lambda: filling.measure(**of_a_quarter),
    }
    return {part: run() for part, run in runs.items() if part in parts}


SHOWS: Mapping[str, Callable[[Sequence[Any], Console], None]] = {
    NODES: nodes.show,
    STORES: stores.show,
    TRAINING: training_report.show,
    FILLING: filling.show,
}


def write(
    path: Path, cases: list[Case], rows: Rows, judged: Mapping[str, Sequence[Any]],
    others: dict[str, dict[str, dict[str, Any]]], *, load_before: float,
) -> None:  # fmt: skip
    """All that was measured, as JSON."""
    document = {
        "conditions": "server's page cache warm, rounds interleaved; client cold unless a row says otherwise",
        "processors": os.cpu_count(),
        "kernel": os.uname().release,
        "load_before": load_before,
        "cases": [
            {
                "name": case.name,
                "figure": case.figure,
                "contenders": {name: one.as_json(case.figure) for name, one in case.contenders.items()},
                "gates": [vars(gate) | {"holds": gate.holds} for gate in case.gates],
            }
            for case in (*cases, *judged.get(STORES, ()))
        ],
        **comparing.as_json(rows.results, rows.memories),
        "skipped": rows.skipped,
        "worse": rows.worse,
        **{part: {case.name: case.as_json() for case in found} for part, found in judged.items() if part != STORES},
        **others,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def main() -> int:
    """Exit status 0 when all gates hold."""
    arguments = _arguments()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    cases: list[Case] = []
    load_before = os.getloadavg()[0]
    if load_before > 1:
        console.print(
            f"The machine is busy (load {load_before:.1f}): the mount, which needs most processes, will look worse."
        )
    parts = arguments.part or PARTS
    with no_leaks():
        cases.extend(run_compared(parts, arguments, console))
        rows = run_rows([part for part in FAMILIES if part in parts], arguments, console)
        judged = run_judged(parts, arguments, console)
        others: dict[str, dict[str, dict[str, Any]]] = {
            part: other_figures(part, console) for part in OTHERS if part in parts
        }
    for figures in others.get("scale", {}).values():
        rows.worse.extend(figures["fails"])
    if cases:
        bare.show(cases, console)
    if rows.results:
        comparing.show(rows.results, console, gate.read_baseline(arguments.baseline))
    for part, found in judged.items():
        if found:
            SHOWS[part](found, console)
    rows.skipped.update(training_report.skipped(judged.get(TRAINING, [])))
    write(arguments.results, cases, rows, judged, others, load_before=load_before)
    if arguments.write_baseline:
        gate.write_baseline(rows.baseline(), arguments.baseline)
        console.print(f"{len(rows)} rows written to {arguments.baseline}")
        return 0
    return _verdict(arguments, cases, rows, [*itertools.chain(*judged.values())], console)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each contender in each case (default: 3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows with this in their names")
    parser.add_argument("--against", type=Path, metavar="DIR", help="programs of another build, to compare with")
    parser.add_argument(
        "--variant", action="append", metavar="OPTIONS", help=f"the mount once more, with these (default: {VARIANTS})"
    )
    parser.add_argument("--near", action="store_true", help="without those that have a round trip to the server")
    parser.add_argument(
        "--data-mib", type=int, default=4096, help="that nodes share (default: 4096), a quarter for stores"
    )
    parser.add_argument(
        "--small-files", type=int, help="that nodes share (default: 100,000), and that a training reads (50,000)"
    )
    parser.add_argument("--baseline", type=Path, default=gate.BASELINE, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--write-baseline", action="store_true", help="with what this run measures; nothing is gated")
    parser.add_argument("--results", type=Path, default=RESULTS / "bench.json", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="only these (default: all)")
    return parser.parse_args()


def _verdict(
    arguments: argparse.Namespace, cases: list[Case], rows: Rows, judged: Sequence[Judged], console: Console
) -> int:
    """Says what holds, the last line in figures; 1 if something does not."""
    everything: Sequence[Judged] = [*cases, *rows.results, *judged]
    gates = [(case.name, gate) for case in everything for gate in case.gates]
    for name, one in gates:
        console.print(f"{name}: {one}", soft_wrap=True)
    for line in rows.worse:
        console.print(f"WORSE {line}", soft_wrap=True)
    failed = [one for _, one in gates if not one.holds and not one.only_aimed_at]
    ratios = "".join(
        f"; {case.name} {case.median(MOUNT):,.0f} {unit(case.figure)} = {case.ratio():.2f} of bare" for case in cases
    )
    baseline = gate.read_baseline(arguments.baseline)
    lacking = [result for result in rows.results if not baseline.get(result.row.name, {}).get("cpu_to")]
    without_cpu = f"; CPU of {len(lacking)} rows is not in the baseline (`make bench-baseline`)" if lacking else ""
    skipped = "".join(f"; SKIPPED {name}: {why}" for name, why in rows.skipped.items())
    console.print(
        f"bench: {len(gates) - len(failed)} of {len(gates)} gates hold; {len(rows)} rows, "
        f"{len(rows.worse)} figures worse{without_cpu}{skipped}{ratios}",
        soft_wrap=True,
    )
    return 1 if failed or rows.worse else 0


if __name__ == "__main__":
    sys.exit(main())
