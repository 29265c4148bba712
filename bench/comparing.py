"""Runs rows on all contenders, interleaved, and sums them up: medians, ratios, what is worse than before."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import gate, memory
from bench.bare import Gate
from bench.clients import AGAINST, FAR, KERNEL, MOUNT, NATIVE, Contenders
from bench.measuring import Round, can_run, make_data, run_round
from bench.rows import Promise, Row

#: Noise that a promise allows, as a part of what is promised.
NOISE_MAX = 0.1


@dataclass(kw_only=True)
class Result:
    """All rounds of a row: contender -> its rounds."""

    row: Row
    rounds: dict[str, list[Round]] = field(default_factory=dict)

    def per_operation(self, name: str, figure: str) -> float:
        """The median of a figure, divided by operations."""
        return float(statistics.median(getattr(one, figure) / one.operations for one in self.rounds[name]))

    def rate(self, name: str) -> float:
        """Operations per second, the median."""
        return statistics.median(one.rate for one in self.rounds[name])

    def cpu_ratio(self, reference: str, figure: str = "client_cpu_s") -> gate.Ratio | None:
        """The mount's CPU to a contender's, by rounds; None where they are too few, or too little was used, to tell."""
        pairs = zip(self.rounds[MOUNT], self.rounds.get(reference, []), strict=False)
        cpu = [(getattr(mine, figure), getattr(other, figure)) for mine, other in pairs]
        if len(cpu) < gate.ROUNDS_MIN or min(other for _, other in cpu) < gate.CPU_S_MIN:
            return None
        return gate.Ratio.of([mine / other for mine, other in cpu])

    @property
    def name(self) -> str:
        """The row's."""
        return self.row.name

    @property
    def gates(self) -> list[Gate]:
        """The row's promises, where both contenders took part."""
        promises = [one for one in self.row.promises if {one.of, one.to} <= self.rounds.keys()]
        return [self._gate(one) for one in promises]

    def _gate(self, promise: Promise) -> Gate:
        pairs = [*zip(self.rounds[promise.of], self.rounds[promise.to], strict=True)]
        between = f"{promise.of} to {promise.to}"
        if promise.cpu:
            ratio = gate.Ratio.of([mine.client_cpu_s / other.client_cpu_s for mine, other in pairs])
            limit = promise.cpu + min(ratio.noise, promise.cpu * NOISE_MAX)
            return Gate(text=f"CPU, {between}", value=ratio.median, limit=limit, at_most=True)
        ratio = gate.Ratio.of([mine.rate / other.rate for mine, other in pairs])
        return Gate(
            text=f"rate, {between}", value=ratio.median, limit=promise.rate - min(ratio.noise, promise.rate * NOISE_MAX)
        )

    def figures(self, name: str = MOUNT) -> dict[str, Any]:
        """What the baseline keeps of a contender."""
        counts = {figure: round(self.per_operation(name, figure), 4) for figure in gate.COUNTS}
        return {"operations": self.rounds[name][0].operations, **counts}

    def baseline(self) -> dict[str, Any]:
        """What the baseline keeps of the row."""
        ratios = {
            NATIVE: self.cpu_ratio(NATIVE),
            KERNEL: self.cpu_ratio(KERNEL, "all_but_server_cpu_s"),
        }
        cpu = {name: asdict(ratio) for name, ratio in ratios.items() if ratio is not None}
        kernel = {"kernel": self.figures(KERNEL)} if KERNEL in self.rounds else {}
        return self.figures() | {"cpu_to": cpu} | kernel


def run_rows(rows: Sequence[Row], contenders: Contenders, *, rounds: int, console: Console) -> Iterator[Result]:
    """All contenders one after another in each round, the order turned round in every second one."""
    for row in rows:
        make_data(row, contenders.nas)
        result = Result(row=row)
        clients = [
            client
            for client in contenders.clients
            if can_run(row, client) and not (row.once and client.name.endswith(FAR))
        ]
        for number in range(1 if row.once else rounds):
            for client in clients if number % 2 == 0 else clients[::-1]:
                done = run_round(row, client, contenders.nas)
                result.rounds.setdefault(client.name, []).append(done)
        console.print("  " + _line(result), soft_wrap=True)
        yield result


def run_memory(contenders: Contenders, *, console: Console) -> dict[str, dict[str, Any]]:
    """Row -> contender -> bytes. Once: it is no time."""
    found: dict[str, dict[str, Any]] = {}
    for client in contenders.clients:
        if client.name in (MOUNT, AGAINST, KERNEL):
            for step, taken in memory.measure(client, contenders.nas):
                found.setdefault(f"memory: {step}", {})[client.name] = asdict(taken)
    for name, by_client in found.items():
        console.print("  " + name + ": " + "; ".join(f"{who} {_mib(taken)}" for who, taken in by_client.items()))
    return found


def _mib(taken: Mapping[str, int]) -> str:
    return ", ".join(f"{name.removesuffix('_bytes')} {value / 2**20:.2f} MiB" for name, value in taken.items())


def _line(result: Result) -> str:
    parts = [
        f"{name} {result.rate(name):,.0f}/s, {result.per_operation(name, 'calls'):.3f} calls" for name in result.rounds
    ]
    return f"{result.row.name} ({result.row.state}), per {result.row.unit}: " + "; ".join(parts)


def show(results: Sequence[Result], console: Console, baseline: Mapping[str, gate.Figures]) -> None:
    """The table of all rows, per operation; what the baseline knows of a kernel client that cannot run here, too."""
    table = Table(title="Rows: medians, per operation")
    headings = (
        "row",
        "contender",
        "per s",
        "calls",
        "read B",
        "written B",
        "CPU us",
        "daemon us",
        "all us",
        "CPU to it",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for result in results:
        for name in result.rounds:
            cpu = [result.per_operation(name, f"{who}_cpu_s") * 1e6 for who in ("client", "daemon", "machine")]
            figure = "all_but_server_cpu_s" if name.startswith(KERNEL) else "client_cpu_s"
            ratio = result.cpu_ratio(name, figure) if name != MOUNT else None
            table.add_row(
                f"{result.row.name}\n({result.row.state}; per {result.row.unit})" if name == MOUNT else "", name,
                f"{result.rate(name):,.0f}", f"{result.per_operation(name, 'calls'):,.3f}",
                *(f"{result.per_operation(name, f'{which}_bytes'):,.0f}" for which in ("read", "written")),
                *(f"{value:,.0f}" for value in cpu), f"{ratio.median:.2f} ±{ratio.noise:.2f}" if ratio else "",
            )  # fmt: skip
        kernel = baseline.get(result.row.name, {}).get("kernel")
        if kernel and KERNEL not in result.rounds:
            counts = f"{kernel['calls']:,.3f}", f"{kernel['read_bytes']:,.0f}", f"{kernel['written_bytes']:,.0f}"
            table.add_row("", f"{KERNEL} (baseline)", "", *counts)
        table.add_section()
    console.print(table)


def worse(results: Sequence[Result], memories: Mapping[str, Any], baseline: Mapping[str, gate.Figures]) -> list[str]:
    """All that is worse than the baseline, or than the other build."""
    found: list[str] = []
    for result in results:
        name = result.row.name
        found += gate.worse_than_baseline(name, result.baseline(), baseline.get(name))
        if AGAINST in result.rounds:
            found += gate.worse_than_other(name, result.figures(), result.figures(AGAINST), result.cpu_ratio(AGAINST))
    for name, taken in memories.items():
        found += gate.worse_than_baseline(name, taken[MOUNT], baseline.get(name))
        if AGAINST in taken:
            found += gate.worse_than_other(name, taken[MOUNT], taken[AGAINST], None)
    return found


def as_json(results: Sequence[Result], memories: Mapping[str, Any]) -> dict[str, Any]:
    """For results/bench.json."""
    rows = {
        result.row.name: {
            "state": result.row.state, "unit": result.row.unit, **result.baseline(),
            "rounds": {name: [asdict(one) for one in rounds] for name, rounds in result.rounds.items()},
        }
        for result in results
    }  # fmt: skip
    return {"rows": rows, "memory": dict(memories)}
