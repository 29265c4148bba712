"""One contender's training: a fresh mount, its files listed, then read in some epochs, and what each of these took."""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bench.measuring import machine_cpu_s
from bench.runs import Amount, drop_pages, memory_kib_max
from bench.training.clients import TOOLS, Client, Mounted, Ours, Place
from bench.training.files import DIRECTORIES
from tests.support.netns import Host
from tests.support.processes import TimeLimitError, cpu_s, processes

EPOCHS, READERS = 5, 8
#: Ends hangs only: a client of others that hangs is left out.
_EPOCH_LIMIT_S = 1200
LOADER = Path(__file__).parent / "loader.py"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """So far, or between two moments."""

    daemon_cpu_s: float
    readers_cpu_s: float  # of the loader and all its processes
    server_cpu_s: float
    machine_cpu_s: float
    nas_calls: int  # of NFS, by the client's own count; 0 where nobody counts
    sent_bytes: int  # by the NAS's host, headers and all

    def __sub__(self, earlier: Costs) -> Costs:
        return Costs(**{each.name: getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Epoch(Amount, Costs):
    """What one of them took, or the listing before the first."""

    load: float  # of the machine at its end: whoever else works is in it

    def __add__(self, later: Epoch) -> Epoch:
        """Both, one after the other."""
        sums = {each.name: getattr(self, each.name) + getattr(later, each.name) for each in fields(self)}
        return Epoch(**sums | {"load": later.load})


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a contender's training took."""

    part: float  # of all files, which it read in each epoch
    loader: str
    listing: Epoch
    epochs: Sequence[Epoch]
    memory_mib_max: float  # of the daemon
    memory_after_mib: float  # likewise, of anonymous memory in the end

    def epoch_s(self, number: int) -> float:
        """Seconds that all files take: a contender that reads a part of them takes as much longer for all."""
        return self.epochs[number].seconds / self.part

    @property
    def total_s(self) -> float:
        """Of listing and epochs, likewise."""
        return (self.listing.seconds + sum(epoch.seconds for epoch in self.epochs)) / self.part

    @property
    def first_share(self) -> float:
        """Of the total: listing and first epoch, whose data comes from the NAS."""
        return (self.listing.seconds + self.epochs[0].seconds) / self.part / self.total_s

    def total(self, figure: str) -> float:
        """The sum of a cost, scaled likewise."""
        return float(sum(getattr(one, figure) for one in (self.listing, *self.epochs)) / self.part)


def run(client: Client, place: Place, *, epochs: int = EPOCHS, first_epoch: int = 0) -> Run:
    """Raises RuntimeError if the loader fails, and whatever the mount fails with."""
    with client.mounted(place) as mounted:
        directories = max(round(DIRECTORIES * client.part), 1)
        command: list[str | Path] = [
            loaders_python(), "-W", "ignore", LOADER, mounted.path, f"--directories={directories}",
            f"--epochs={epochs}", f"--first-epoch={first_epoch}", f"--readers={READERS}",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            return _follow(process, mounted, client, place, epochs)
        finally:
            _end(process)


def run_anew(client: Ours, place: Place, *, epochs: int = EPOCHS) -> Run:
    """The same with a new mount and a new loader for each epoch, and of the store no page in memory when one begins."""
    with tempfile.TemporaryDirectory(prefix="store-", dir=place.disk) as folder:
        runs = []
        for number in range(epochs):
            subprocess.run(["sync", "-f", folder], check=True, timeout=600)
            for path in Path(folder).rglob("*"):
                drop_pages(path)
            runs.append(run(replace(client, store=Path(folder)), place, epochs=1, first_epoch=number))
    first, *later = runs
    return replace(
        first, epochs=[*first.epochs, *(one.listing + one.epochs[0] for one in later)],
        memory_mib_max=max(one.memory_mib_max for one in runs), memory_after_mib=runs[-1].memory_after_mib,
    )  # fmt: skip


def loaders_python() -> str:
    """One that has torch, if bench/training/setup has made it."""
    has_torch = any((TOOLS.parent / "lib").glob("python*/site-packages/torch"))
    return str(TOOLS / "python") if has_torch else sys.executable


def _follow(process: subprocess.Popen[str], mounted: Mounted, client: Client, place: Place, epochs: int) -> Run:
    name = _line(process)["loader"]
    before = _costs(process, mounted, place.site.nas_host)

    def next_one() -> Epoch:
        nonlocal before
        _go_on(process)
        found = _line(process)
        now = _costs(process, mounted, place.site.nas_host)
        spent, before = now - before, now
        return Epoch(**found, **vars(spent), load=os.getloadavg()[0])

    found = [next_one() for _ in range(1 + epochs)]
    return Run(
        part=client.part, loader=name, listing=found[0], epochs=found[1:],
        memory_mib_max=memory_kib_max(mounted.daemon) / 1024 if mounted.daemon else 0,
        memory_after_mib=_anonymous_kib(mounted.daemon) / 1024 if mounted.daemon else 0,
    )  # fmt: skip


def _costs(process: subprocess.Popen[str], mounted: Mounted, nas_host: Host) -> Costs:
    readers = [one.pid for one in processes() if process.pid in (one.pid, one.parent_pid)]
    return Costs(
        daemon_cpu_s=cpu_s(mounted.daemon) if mounted.daemon else 0,
        readers_cpu_s=sum(cpu_s(pid) for pid in readers),
        server_cpu_s=cpu_s(mounted.server),
        machine_cpu_s=machine_cpu_s(),
        nas_calls=mounted.calls() if mounted.calls else 0,
        sent_bytes=sent_bytes(Path(f"/proc/{nas_host.pid}/net/dev").read_text()),
    )


def sent_bytes(text: str) -> int:
    """By all devices of a namespace but its loopback (proc(5): net/dev)."""
    lines = re.findall(r"^\s*(\S+):\s*(.*)$", text, re.MULTILINE)
    return sum(int(numbers.split()[8]) for device, numbers in lines if device != "lo")


def _anonymous_kib(pid: int) -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The loader's next one. Raises TimeLimitError if it hangs, RuntimeError if it has failed."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(_EPOCH_LIMIT_S):
            raise TimeLimitError(f"nothing was read to its end within {_EPOCH_LIMIT_S} s")
    if not (text := process.stdout.readline()):
        raise RuntimeError(f"the loader ended with status {process.wait(60)}")
    found: dict[str, Any] = json.loads(text)
    return found


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """It ends at the end of its input, and is made to otherwise: readers must not hold the mount."""
    assert process.stdin is not None
    assert process.stdout is not None
    readers = [one.pid for one in processes() if one.parent_pid == process.pid]
    process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(60)
    process.stdout.close()
    _await_end(readers)


def _await_end(pids: Sequence[int]) -> None:
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
