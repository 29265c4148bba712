"""The tables of a training's cases, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.training import dlio
from bench.training.case import Case, busy
from bench.training.clients import DEFAULT, FUSE_NFS
from bench.training.run import EPOCHS, Run

_MIB = 1 << 20


def show(cases: Sequence[Case | dlio.Case], console: Console) -> None:
    """All of it; what holds our stores back comes after the tables."""
    if trainings := [case for case in cases if isinstance(case, Case)]:
        console.print(_trainings(trainings))
    for case in cases:
        if isinstance(case, dlio.Case):
            console.print(_workloads(case))
        for note in case.notes:
            console.print(f"{case.name}: {note}", soft_wrap=True)


def skipped(cases: Sequence[Case | dlio.Case]) -> dict[str, str]:
    """Who did not take part where, and why."""
    return {f"{case.name}, {name}": why for case in cases for name, why in case.skipped.items()}


def _trainings(cases: Sequence[Case]) -> Table:
    loaders = {run.loader for case in cases for run in case.runs.values()}
    table = Table(
        title=f"Trainings of {EPOCHS} epochs, read by {' and '.join(sorted(loaders))}; "
        "seconds, calls and MiB of a part of the files are scaled to all",
        title_justify="left",
    )
    headings = (
        "network", "contender", "part", "listing", "epochs, s", "total, s", "to fuse-nfs", "to default",
        "CPU s: daemon", "loader", "server", "memory MiB", "NFS calls", "MiB from the NAS", "busy", "load",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for case in cases:
        for number, (contender, run) in enumerate(case.runs.items()):
            table.add_row("" if number else case.name, contender, *_row(case, contender, run))
        for contender, why in case.skipped.items():
            table.add_row("" if case.runs else case.name, contender, "SKIPPED", why[:60])
        table.add_section()
    return table


def _row(case: Case, contender: str, run: Run) -> list[str]:
    """A contender's figures."""
    ratios = [case.ratio(contender, other) for other in (FUSE_NFS, DEFAULT)]
    cpu = [run.total(f"{who}_cpu_s") for who in ("daemon", "readers", "server")]
    calls = run.total("nas_calls")
    return [
        f"{run.part:.0%}",
        f"{run.listing.seconds / run.part:.1f}",
        " ".join(f"{run.epoch_s(number):.1f}" for number in range(len(run.epochs))),
        f"{run.total_s:.1f}",
        *(f"{ratio:.3f}" if ratio else "" for ratio in ratios),
        *(f"{seconds:.1f}" for seconds in cpu),
        f"{run.memory_mib_max:.0f}" if run.memory_mib_max else "",
        f"{calls:,.0f}" if calls else "",
        f"{run.total('sent_bytes') / _MIB:,.0f}",
        f"{busy(run):.0%}",
        f"{max(epoch.load for epoch in run.epochs):.1f}",
    ]


def _workloads(case: dlio.Case) -> Table:
    table = Table(
        title="DLIO's workloads, made small, 1 ms from the NAS: accelerator's use and samples/s of each epoch",
        title_justify="left",
    )
    for heading in ("workload", "contender", "AU, %", "samples/s", "whole process, s"):
        table.add_column(heading, justify="left" if heading in ("workload", "contender") else "right")
    for workload, contenders in case.figures.items():
        for number, (contender, figures) in enumerate(contenders.items()):
            au, samples = (
                " ".join(f"{one:.0f}" for one in each) for each in (figures.au_percent, figures.samples_per_s)
            )
            table.add_row("" if number else workload, contender, au, samples, f"{figures.seconds:.0f}")
        table.add_section()
    for name, why in case.skipped.items():
        table.add_row(name, "SKIPPED", why)
    return table
