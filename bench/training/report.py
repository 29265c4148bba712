"""The tables of a training's cases, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.training import dlio
from bench.training.case import Case, busy
from bench.training.clients import FUSE_NFS
from bench.training.run import EPOCHS, Run

_MIB = 1 << 20


def show(cases: Sequence[Case | dlio.Case], console: Console) -> None:
    """All of it; what holds our stores back comes after the tables."""
    for case in cases:
        console.print(_workloads(case) if isinstance(case, dlio.Case) else _training(case))
    for case in cases:
        for note in case.notes:
            console.print(f"{case.name}: {note}", soft_wrap=True)


def skipped(cases: Sequence[Case | dlio.Case]) -> dict[str, str]:
    """Who did not take part where, and why."""
    return {f"{case.name}, {name}": why for case in cases for name, why in case.skipped.items()}


def _training(case: Case) -> Table:
    loaders = sorted({run.loader for run in case.runs.values()})
    table = Table(
        title=f"Training, {case.name}: {EPOCHS} epochs read by {' and '.join(loaders)}; "
        "seconds, calls and MiB of a part of the files are scaled to all",
        title_justify="left",
    )
    table.add_column("contender")
    for heading in (
        "listing and epochs, s", "total,\ns", "to fuse-\nnfs", "daemon's\nCPU, s", "loader's", "server's",
        "memory,\nMiB", "NFS\ncalls", "MiB from\nthe NAS", "busy", "load",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for contender, run in case.runs.items():
        of_files = "" if run.part == 1 else f" ({run.part:.0%} of files)"
        table.add_row(f"{contender}{of_files}", *_row(case, contender, run))
    for contender, why in case.skipped.items():
        table.add_row(contender, f"SKIPPED: {why.splitlines()[0][:40]}")
    return table


def _row(case: Case, contender: str, run: Run) -> list[str]:
    """A contender's figures."""
    seconds = [run.listing.seconds / run.part, *(run.epoch_s(number) for number in range(len(run.epochs)))]
    ratio, calls = case.ratio(contender, FUSE_NFS), run.total("nas_calls")
    cpu = [run.total(f"{who}_cpu_s") for who in ("daemon", "readers", "server")]
    return [
        " ".join(f"{one:.1f}" for one in seconds),
        f"{run.total_s:.1f}",
        f"{ratio:.4f}" if ratio else "",
        *(f"{one:.1f}" for one in cpu),
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
        table.add_row(name, f"SKIPPED: {why.splitlines()[0][:60]}")
    return table
