"""One round of one row on one contender: how long it took, what it asked of the server, and what CPU it cost whom.

Counters are read before a load begins and after it has ended, when they do not change any more; CPU likewise. The CPU
of *our* client is that of the daemon and of the load. The kernel's client works in the load and in threads of the
kernel that nobody can be charged for: what the whole machine used, but for the server, is what it is compared by,
which means something on a quiet machine only.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

from bench.clients import Client, Mounted
from bench.rows import DATA, Row
from tests.support.nas import Nas
from tests.support.paths import ROOT
from tests.support.processes import TimeLimitError

#: Ends hangs only.
_LOAD_LIMIT_S = 900
#: As long as clocks of one server's machines may be apart, and longer than their ticks.
_PAST_S = 1.1


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU seconds of daemon, server and whole machine so far, or between two moments."""

    daemon_cpu_s: float
    server_cpu_s: float
    machine_cpu_s: float

    def __sub__(self, earlier: Cost) -> Cost:
        return Cost(**{each.name: getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Round:
    """Sums over all that counted in one round."""

    operations: int = 0
    seconds: float = 0
    calls: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    load_cpu_s: float = 0
    daemon_cpu_s: float = 0
    server_cpu_s: float = 0
    machine_cpu_s: float = 0

    def __add__(self, other: Round) -> Round:
        return Round(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    @property
    def client_cpu_s(self) -> float:
        """Of daemon and load."""
        return self.daemon_cpu_s + self.load_cpu_s

    @property
    def all_but_server_cpu_s(self) -> float:
        """Of the machine without the server."""
        return max(self.machine_cpu_s - self.server_cpu_s, 0)


def run_round(row: Row, client: Client, nas: Nas) -> Round:
    """Raises TimeLimitError if the load hangs, RuntimeError with its message if it fails."""
    with _folder(row, nas) as name, client.mounted() as mounted:
        load = _Load(row.name, mounted.path / name)
        try:
            total = Round()
            while load.line() == "begin":
                if row.kills_daemon and mounted.kill_daemon is not None:
                    mounted.kill_daemon()
                    os.statvfs(mounted.path)  # answered by the next one, which then has all its connections
                total += _segment(load, mounted, nas)
            load.end()
        finally:
            load.kill()
        return total


def can_run(row: Row, client: Client) -> bool:
    """Whether the contender has what the row kills."""
    return not row.kills_daemon or client.has_daemon


def make_data(row: Row, nas: Nas) -> None:
    """What the row shares with others, in the export, unless it is there.

    The export's own folder is changed last, so that each mount sees that the server's clock is past these changes.
    """
    missing = [name for name in (row.data, row.beside) if name and not (nas.export_folder() / name).exists()]
    for name in missing:
        DATA[name].make(nas.export_folder() / name)
    if missing:
        time.sleep(_PAST_S)
        nas.export_folder().touch()


def _segment(load: _Load, mounted: Mounted, nas: Nas) -> Round:
    daemon = mounted.daemon()
    counters = mounted.calm_counters()
    before = _cost(daemon, nas)
    load.go_on()
    found = json.loads(load.line() or load.end())
    after = _cost(daemon, nas)
    asked = mounted.calm_counters() - counters
    load.go_on()
    return Round(**found, **vars(asked), **vars(after - before))


_numbers = itertools.count()


@contextmanager
def _folder(row: Row, nas: Nas) -> Iterator[str]:
    """Where the load runs, below the export; made for this round, unless it only reads what is shared."""
    if row.data:
        yield row.data
        return
    folder = nas.export_folder() / f"work-{next(_numbers)}"
    folder.mkdir()
    if row.on_server is not None:
        row.on_server(folder)
    yield folder.name
    shutil.rmtree(folder)


class _Load:
    """The process of bench/load.py."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        command = [sys.executable, "-m", "bench.load", name, str(folder)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout

    def line(self) -> str:
        """Its next line; "" at its end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            if not selector.select(_LOAD_LIMIT_S):
                raise TimeLimitError(f"{self._name}: nothing happened within {_LOAD_LIMIT_S} s")
        return self._out.readline().rstrip("\n")

    def go_on(self) -> None:
        """What it waits for."""
        self._in.write("\n")
        self._in.flush()

    def end(self) -> str:
        """Waits for its end. Raises RuntimeError if it failed: why stands on standard error."""
        if self._process.wait(_LOAD_LIMIT_S) != 0:
            raise RuntimeError(f"the load of {self._name!r} failed")
        return ""

    def kill(self) -> None:
        """In any case: it must not hold the mount."""
        self._process.kill()
        self._process.wait(60)
        self._in.close()
        self._out.close()


def _cost(daemon: int, nas: Nas) -> Cost:
    """Now; the daemon is asked nothing, which would cost it something."""
    daemon_cpu_s = threads_cpu_s(daemon) if daemon else 0
    return Cost(daemon_cpu_s=daemon_cpu_s, server_cpu_s=nas.cpu_s(), machine_cpu_s=machine_cpu_s())


def threads_cpu_s(pid: int, *, name: str = "") -> float:
    """CPU seconds of a process whose threads all live, to the nanosecond: proc(5) counts in hundredths elsewhere.

    Of those threads alone that are called `name`, if one is given.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    counted = (task for task in tasks if name in ("", (task / "comm").read_text().strip()))
    return sum(int((task / "schedstat").read_text().split()[0]) for task in counted) / 1e9


def machine_cpu_s() -> float:
    """Seconds in which a processor worked: user, nice, system, irq, softirq (proc(5))."""
    numbers = Path("/proc/stat").read_text().split(maxsplit=11)[1:11]
    return sum(int(numbers[index]) for index in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")
