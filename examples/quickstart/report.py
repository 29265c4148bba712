"""What the person in front of the screen sees: steps with progress bars, findings, a table, one line of figures."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

Result = TypeVar("Result")


class StepError(Exception):
    """A step could not be done; the message is for a person, and ends the quick start."""


@dataclass(kw_only=True)
class Report:
    """Everything shown so far. Findings that do not hold make the exit status 1."""

    console: Console = field(
        default_factory=lambda: Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    )
    figures: dict[str, float | int | str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _begin_s: float = field(default_factory=time.monotonic)

    def title(self, text: str) -> None:
        """The headline of the next steps."""
        self.console.print(f"\n[bold]{text}[/bold]")

    def note(self, text: str) -> None:
        """Something worth knowing that neither holds nor fails."""
        self.console.print(f"  [dim]-[/dim] {text}")

    def must_hold(self, text: str, holds: object, *, otherwise: str = "") -> None:
        """A finding: green when it holds, else red with what was found instead."""
        if holds:
            self.console.print(f"  [green]✓[/green] {text}")
        else:
            self.failures.append(text)
            self.console.print(f"  [red]✗ {text}[/red] {otherwise}")

    @contextmanager
    def progress(self, text: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """A bar for the time of the block; the value is called with bytes done. Without a terminal: its last state."""
        columns = (
            TextColumn("  {task.description:<34}"), BarColumn(bar_width=28), DownloadColumn(),
            TransferSpeedColumn(), TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(text, total=total_bytes)
            yield lambda count: progress.update(task, advance=count)

    def in_thread(self, action: Callable[[], Result], *, limit_s: float, what: str) -> Result:
        """Runs `action`, which touches a mount and so may hang, where Ctrl-C and a deadline still work.

        Raises what it raises, or StepError past `limit_s`; the thread then ends when the mount is aborted.
        """
        outcome: list[tuple[bool, object]] = []

        def run() -> None:
            try:
                outcome.append((True, action()))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                outcome.append((False, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        end = time.monotonic() + limit_s
        while thread.is_alive():
            thread.join(0.1)
            if time.monotonic() > end:
                raise StepError(f"{what} did not end in {limit_s:.0f} s")
        succeeded, value = outcome[0]
        if not succeeded:
            assert isinstance(value, BaseException)
            raise value
        return value  # type: ignore[return-value]

    def finish(self, results: Path) -> int:
        """The table, results/quickstart.json and the line of figures. Returns the exit status."""
        self.figures["seconds"] = round(time.monotonic() - self._begin_s, 1)
        table = Table(title="\nFigures", title_justify="left", show_header=False)
        for name, value in self.figures.items():
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, (int, float)) else value)
        self.console.print(table)
        results.mkdir(exist_ok=True)
        document = {"figures": self.figures, "failures": self.failures}
        (results / "quickstart.json").write_text(json.dumps(document, indent=2) + "\n")
        verdict = f"FAILED: {'; '.join(self.failures)}" if self.failures else "all holds"
        line = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        self.console.print(f"quickstart: {verdict}; {line}", soft_wrap=True)
        return 1 if self.failures else 0
