"""One node and the NAS itself change files all the time, and nodes of each mode read them, with all caches.

Nobody meets what his mode does not allow.

All nodes have a local store, in one directory for caches, and share workers; their daemons are killed in between. The
NAS's times are exact, or of whole seconds. FAULTS_CHANGES says how often is changed.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.changed_files import SIZE, Changed, changes_in, content
from tests.faults.storms import IS_LONG
from tests.faults.test_one_writer import LeapingClock
from tests.support import scripted_nas
from tests.support.nas import Nas
from tests.support.nodes import Node
from tests.support.processes import SLOWNESS
from tests.support.scripted_nas import ScriptedNas
from tests.support.site import CLOCK, REST_S, Turns
from tests.support.workers import Worker, new_key

_ROUNDS = int(os.environ.get("FAULTS_CHANGES", "2000" if IS_LONG else "12"))
_BOUND_S = 1.0
#: What an answer takes to the kernel on a busy machine, and a daemon that was killed to its next.
_SLACK_S = 1.0 * SLOWNESS
_MODES: dict[str, Sequence[str]] = {
    "cto": ("attr-ttl=500ms", f"attr-ttl-max={_BOUND_S:g}s"),
    "bounded": ("consistency=bounded", f"attr-ttl={_BOUND_S:g}s"),
    "sealed": ("consistency=sealed", f"attr-ttl-max={_BOUND_S:g}s"),
}
#: A round in so many a daemon is killed.
_KILL_EVERY = 4
#: A daemon keeps blocks that it has just read for two seconds at most.
_RECENT_S = 2.1


@dataclass(kw_only=True)
class Reader:
    """A node that reads, and what it may meet."""

    mode: str
    node: Node
    killed_at: float = 0.0
    reads: int = 0
    stale: int = 0  # ESTALE, where that may be
    wrong: list[str] = field(default_factory=list)

    def read(self, file: Changed, *, is_mapped: bool) -> None:
        """Opens and reads it, and judges what has come."""
        began = time.monotonic()
        self.reads += 1
        try:
            with (self.node.mount / file.name).open("rb", buffering=0) as opened:
                size = os.fstat(opened.fileno()).st_size
                data = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)[:] if is_mapped else _all(opened.fileno())
        except OSError as error:
            self._failed(error, file, began)
            return
        allowed = self._allowed(file, began)
        found = changes_in(file.name, data)
        if not found <= allowed:
            self.wrong.append(f"{file.name}: {sorted(found)} of {sorted(allowed)}, {len(data)} bytes of {size}")
        elif self.mode == "cto" and found == {file.change} and data != file.now:
            self.wrong.append(f"{file.name}: {len(data)} bytes instead of {file.size}")

    def _failed(self, error: OSError, file: Changed, began: float) -> None:
        # Another file of that name may have come meanwhile, within what the mode is late by.
        if error.errno == errno.ESTALE and self.mode != "cto" and len(self._allowed(file, began)) > 1:
            self.stale += 1
        else:
            self.wrong.append(f"{file.name}: {error!r}")

    def _allowed(self, file: Changed, began: float) -> set[int]:
        """Changes that may be met. In close-to-open an open asks; only where a name leads may be known from before."""
        late_s = _BOUND_S + _SLACK_S + (began - self.killed_at if self.mode == "sealed" else 0.0)
        met = file.may_be(began, late_s)
        return met - set(range(file.same_since, file.change)) if self.mode == "cto" else met

    def forget(self, file: Changed) -> None:
        """The kernel lets its pages of it go."""
        with suppress(OSError), (self.node.mount / file.name).open("rb", buffering=0) as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def kill(self) -> None:
        """Its daemon; the next one follows."""
        self.killed_at = time.monotonic()
        for pid in self.node.keeper.daemon_pids():
            os.kill(pid, signal.SIGKILL)


def _all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


class Real:
    """A NAS whose files have their turn when they have rested."""

    def __init__(self, nas: Nas) -> None:
        """Makes the files."""
        self.url, self.folder = nas.url, nas.export_folder()
        self.files = [Changed(name=f"file-{number}") for number in range(min(_ROUNDS, 60))]
        for file in self.files:
            (self.folder / file.name).write_bytes(file.now)
        self._turns = Turns(self.files)
        self._number = 0

    def rest(self) -> None:
        """All files do."""
        time.sleep(REST_S)

    def next(self) -> Changed:
        """The one that has rested for longest."""
        return self._turns.next()

    def clock(self) -> str:
        """A new file, whose times tell what the clock shows."""
        self._number += 1
        (self.folder / f"{CLOCK}-{self._number}").touch()
        return f"{CLOCK}-{self._number}"


class WholeSeconds:
    """A scripted one, whose clock leaps over the rest."""

    #: Who faults in a page of a mapping holds up the interpreter, in which this server is.
    folder = None

    def __init__(self, nas: ScriptedNas, clock: LeapingClock) -> None:
        """Makes the files."""
        self.url, self._nas, self._clock, self._number = nas.url, nas, clock, 0
        self.files = [Changed(name=f"file-{number}") for number in range(4)]
        for file in self.files:
            nas.add(nas.root, file.name, data=content(file.name, 0, SIZE))

    def rest(self) -> None:
        """All files do."""
        self._clock.leap()

    def next(self) -> Changed:
        """One of few, which has rested mostly."""
        if self._number % len(self.files) == 0:
            self._clock.leap()
            time.sleep(_RECENT_S)
        return self.files[self._number % len(self.files)]

    def clock(self) -> str:
        """A new file."""
        self._number += 1
        self._nas.add(self._nas.root, f"{CLOCK}-{self._number}")
        return f"{CLOCK}-{self._number}"


@contextmanager
def readers_and_writer(url: str) -> Iterator[tuple[list[Reader], Node]]:
    """Of each mode one, and a node that writes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = [stack.enter_context(Worker(memory_mib=128)) for _ in range(2)]
        options = [
            f"workers={'+'.join(worker.endpoint for worker in workers)}", f"workers-key={new_key(folder)}",
            f"cache-dir={folder}", "cache-size=128MiB", "cache-free=1",
        ]  # fmt: skip
        nodes = {mode: stack.enter_context(Node.mounted(url, options=[*options, *own])) for mode, own in _MODES.items()}
        writer = stack.enter_context(Node.mounted(url, options=options))
        stores = {node.keeper.status(node.mount)["store"]["directory"] for node in [writer, *nodes.values()]}
        assert len(stores) == len(nodes) + 1, "each mount has a store of its own"
        yield [Reader(mode=mode, node=node, killed_at=time.monotonic()) for mode, node in nodes.items()], writer


def _see_clock(server: Real | WholeSeconds, readers: Sequence[Reader]) -> None:
    clock = server.clock()
    for reader in readers:
        # Who knows all names of the directory may say for a while that there is none such.
        with suppress(*() if reader.mode == "cto" else (FileNotFoundError,)):
            (reader.node.mount / clock).stat()


def _fill(server: Real | WholeSeconds, readers: Sequence[Reader]) -> None:
    """All files, which have rested, come to all caches."""
    server.rest()
    _see_clock(server, readers)
    for reader in readers:
        for file in server.files:
            reader.read(file, is_mapped=False)
    time.sleep(_RECENT_S)


def _play(server: Real | WholeSeconds, kind: str) -> None:
    dice, ways = random.Random(1), Counter[str]()
    with readers_and_writer(server.url) as (readers, writer):
        _fill(server, readers)
        for number in range(_ROUNDS):
            file = server.next()
            _see_clock(server, readers)
            for reader in readers:
                reader.forget(file)
                reader.read(file, is_mapped=False)
            # What is not changed in its turn lies in all caches in the next.
            for _ in range(dice.choice((0, 1, 1, 2)) if number >= len(server.files) else 1):
                folder = server.folder if server.folder and dice.random() < 0.5 else writer.mount
                ways[file.change_in(folder, dice)] += 1
                for reader in readers:
                    reader.read(file, is_mapped=server.folder is not None and dice.random() < 0.5)
            if number % _KILL_EVERY == 0:
                dice.choice(readers).kill()
            if dice.random() < 0.3:
                time.sleep(dice.uniform(0, _BOUND_S))
        store_bytes = {reader.mode: reader.node.cache()["store_bytes"] for reader in readers}
        opens = [reader.node.keeper.status(reader.node.mount)["stats"]["passthrough"]["opens"] for reader in readers]
    reads = sum(reader.reads for reader in readers)
    found = {"rounds": _ROUNDS, "reads": reads, "stale": sum(len(reader.wrong) for reader in readers)}
    print(kind, found, dict(ways), store_bytes, opens, [reader.stale for reader in readers])
    assert {reader.mode: reader.wrong[:10] for reader in readers if reader.wrong} == {}
    assert store_bytes["cto"] > 0, "nothing came from the store"


_TIMEOUT_S = 180 + 5 * _ROUNDS


@pytest.mark.timeout(_TIMEOUT_S)
def test_nobody_meets_what_his_mode_does_not_allow() -> None:
    """On a real NAS, whose files are changed there, too."""
    with Nas() as nas:
        _play(Real(nas), "real NAS")


@pytest.mark.timeout(_TIMEOUT_S)
def test_nor_on_a_server_whose_times_are_of_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is changed twice within a second."""
    clock = LeapingClock()
    monkeypatch.setattr(scripted_nas.Node, "granularity_ns", 10**9)
    monkeypatch.setattr(scripted_nas, "now_ns", clock.now_ns)
    with ScriptedNas() as nas:
        _play(WholeSeconds(nas, clock), "times of whole seconds")
