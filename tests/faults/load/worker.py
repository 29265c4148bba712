"""What workers have in common: turns until told to end, and a report of what was not as it must be."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.load import Report
from tests.support.processes import SLOWNESS

#: More are not told.
_ERRORS_MAX = 100
#: Operations that took longer, in ms, are in the report with the time of their beginning.
_STALL_MS = 5.0


class Worker:
    """One worker in a folder of its own; each kind is a subclass, named like it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.turns = 0
        self.operations = 0
        self.errors: list[str] = []
        self.wrong_bytes = 0
        self.stalls: list[tuple[float, float]] = []  # when an operation began, by the monotonic clock, and its ms
        self.longest_turn_ms = 0.0

    # ------------------------------------------------------------ what each kind does

    def begin(self) -> None:
        """Before the first turn."""

    def turn(self) -> None:
        """One round of work, a second or two at most."""
        raise NotImplementedError

    def finish(self) -> None:
        """After the last turn: everything that was acknowledged is there, once."""

    def left(self) -> dict[str, str]:
        """Every file that must be in the folder now, and its digest: as known, not as read."""
        return {}

    # ------------------------------------------------------------ for them

    @contextmanager
    def operation(self, what: str) -> Iterator[None]:
        """One operation; an exception in it is an error of the application's and goes no further."""
        self.operations += 1
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self.fail(f"{what}: {error!r}")
        duration_ms = (time.monotonic() - began) * 1000
        if duration_ms > _STALL_MS:
            self.stalls.append((began, round(duration_ms, 2)))

    def fail(self, message: str) -> None:
        """Something is not as it must be."""
        if len(self.errors) < _ERRORS_MAX:
            self.errors.append(f"turn {self.turns}, {message}")

    def compare(self, found: bytes, expected: bytes, what: str) -> None:
        """Counts the bytes that are wrong, missing or too many."""
        if found == expected:
            return
        wrong = sum(1 for ours, theirs in zip(found, expected, strict=False) if ours != theirs)
        wrong += abs(len(found) - len(expected))
        self.wrong_bytes += wrong
        self.fail(f"{what}: {wrong} wrong bytes, {len(found)} read and {len(expected)} written")

    def program(self, *command: str | Path, **options: str) -> str:
        """Runs a program to its end. Raises RuntimeError with what it said if it fails."""
        done = subprocess.run(
            [str(part) for part in command], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=100 * SLOWNESS, env=options or None,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}: {(done.stderr + done.stdout)[-500:]}")
        return done.stdout

    def adopt(self, kind: str, report: Report) -> None:
        """Counts what a worker of this worker's reports."""
        self.operations += report["operations"]
        self.errors += [f"{kind}: {error}" for error in report["errors"]]
        self.wrong_bytes += report["wrong_bytes"]


def run(worker: Worker) -> str:
    """Works until SIGTERM is pending; the report as JSON. Says "ready" when it has begun."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    worker.begin()
    print("ready", flush=True)
    for worker.turns in itertools.count(1):
        began = time.monotonic()
        worker.turn()
        worker.longest_turn_ms = max(worker.longest_turn_ms, (time.monotonic() - began) * 1000)
        if signal.SIGTERM in signal.sigpending():
            break
    with worker.operation("the end"):
        worker.finish()
    left: dict[str, str] = {}
    with worker.operation("what is left"):
        left = worker.left()
    report = {
        "operations": worker.operations,
        "errors": worker.errors,
        "wrong_bytes": worker.wrong_bytes,
        "turns": worker.turns,
        "longest_turn_ms": round(worker.longest_turn_ms, 1),
        "stalls": worker.stalls,
        "left": left,
    }
    return json.dumps(report)
