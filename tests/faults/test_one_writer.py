"""One node writes and closes, three others open and read, all with workers: each open sees what the last close left.

Sizes never change, modification times are set back, and writes fall into one second; the files lie at workers before
they are written. That takes ten seconds of rest by the NAS's clock: with a real NAS a file has its turn seldom, and
the clock of the scripted one is put forward. FAULTS_WRITES says how often is written.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults import figures
from tests.faults.storms import IS_LONG
from tests.support import scripted_nas
from tests.support.nas import Nas
from tests.support.nodes import Node
from tests.support.scripted_nas import ScriptedNas
from tests.support.site import CLOCK, Turns
from tests.support.workers import Worker, new_key

_ROUNDS = int(os.environ.get("FAULTS_WRITES", "20000" if IS_LONG else "60"))
#: One block of a level and a part of the next; what is overwritten lies in both.
_SIZE, _PIECE = 1_300_000, 400_000
#: A real NAS's files have one turn after another.
_REAL_FILES = min(_ROUNDS, 300)
_SECOND_NS = 10**9
_HOUR_NS = 3600 * _SECOND_NS
#: More than a file has to rest, whatever its times are rounded to: 10 s, a tick of 2 s, and a second between clocks.
_LEAP_NS = 14 * _SECOND_NS
#: The scripted clock begins so far behind, and is never so far ahead: more than a day makes a file an old one.
_CLOCK_RANGE_NS = 23 * _HOUR_NS
#: So often can it leap; a little less in the mean.
_LEAPS_MAX = 0.9 * 2 * _CLOCK_RANGE_NS / _LEAP_NS


class Server(Protocol):
    """A NAS of either kind."""

    url: str

    def next(self) -> str:
        """The file whose turn it is. It has rested by the server's clock, mostly."""

    def clock(self) -> str:
        """A file that tells what the server's clock shows."""


class LeapingClock:
    """Goes as the machine's does, and leaps."""

    def __init__(self) -> None:
        """It is late at first."""
        self._ahead_ns = -_CLOCK_RANGE_NS

    def now_ns(self) -> int:
        """In ns since the epoch."""
        return time.time_ns() + self._ahead_ns

    def leap(self) -> None:
        """So far that what has not changed since has rested."""
        self._ahead_ns = min(self._ahead_ns + _LEAP_NS, _CLOCK_RANGE_NS)


@dataclass(kw_only=True)
class Real:
    """A real one: a file is not named again before it has rested."""

    nas: Nas
    url: str = ""
    turns: Turns[str]
    number: int = 0

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Real]:
        """With its files."""
        with Nas() as nas:
            names = [f"file-{number}" for number in range(_REAL_FILES)]
            for name in names:
                (nas.export_folder() / name).write_bytes(bytes(_SIZE))
                os.utime(nas.export_folder() / name, ns=(_HOUR_NS, _HOUR_NS))  # as after each write
            yield cls(nas=nas, url=nas.url, turns=Turns(names))

    def next(self) -> str:
        """The one that has rested for longest."""
        return self.turns.next()

    def clock(self) -> str:
        """A new one: its name is asked for, and its times are seen."""
        self.number += 1
        (self.nas.export_folder() / f"{CLOCK}-{self.number}").touch()
        (self.nas.export_folder() / f"{CLOCK}-{self.number - 1}").unlink(missing_ok=True)
        return f"{CLOCK}-{self.number}"


class Scripted:
    """A scripted one: its clock leaps over the rest, mostly, and its times are of whole seconds."""

    def __init__(self, nas: ScriptedNas, clock: LeapingClock) -> None:
        """Makes the files."""
        self.url = nas.url
        self._nas, self._clock = nas, clock
        self._random = random.Random(2)
        self._number = 0
        self._files = [f"file-{number}" for number in range(4)]
        for name in self._files:
            nas.add(nas.root, name, data=bytes(_SIZE)).mtime_ns = _HOUR_NS  # as after each write

    @classmethod
    @contextmanager
    def made(cls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
        """Nothing of it has a time of another clock."""
        clock = LeapingClock()
        monkeypatch.setattr(scripted_nas.Node, "granularity_ns", _SECOND_NS)
        monkeypatch.setattr(scripted_nas, "now_ns", clock.now_ns)
        with ScriptedNas() as nas:
            yield cls(nas, clock)

    def next(self) -> str:
        """One of few: written again and again, and now and then it has rested."""
        if self._random.random() < _LEAPS_MAX / _ROUNDS:
            self._clock.leap()
        return self._random.choice(self._files)

    def clock(self) -> str:
        """A new one: its name is asked for, and its times are seen."""
        self._number += 1
        with self._nas.lock:
            self._nas.root.children.pop(f"{CLOCK}-{self._number - 1}".encode(), None)
        self._nas.add(self._nas.root, f"{CLOCK}-{self._number}")
        return f"{CLOCK}-{self._number}"


@contextmanager
def four_nodes(url: str) -> Iterator[list[Node]]:
    """With two workers."""
    with ExitStack() as stack:
        key = new_key(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        workers = [stack.enter_context(Worker()) for _ in range(2)]
        options = (f"workers={'+'.join(worker.endpoint for worker in workers)}", f"workers-key={key}")
        nodes = [stack.enter_context(Node.mounted(url, options=options)) for _ in range(4)]
        for node in nodes:
            node.await_workers(len(workers))
        yield nodes


class Rounds:
    """What is written and read; counts reads that were not of the last close."""

    def __init__(self, writer: Path, readers: Sequence[Path], pool: ThreadPoolExecutor) -> None:
        self._writer, self._readers, self._pool = writer, readers, pool
        self._random = random.Random(1)
        self._expected: dict[str, bytes] = {}
        self.stale = self.reads = 0

    def play(self, server: Server) -> None:
        """One round: read, so that it lies at the workers, written once or twice, and read."""
        name, clock = server.next(), server.clock()
        for reader in self._readers:
            os.stat(reader / clock)
        self._read(name)
        for _ in range(self._random.choice((1, 1, 2))):
            racing = [self._pool.submit((self._readers[0] / name).read_bytes)] if self._random.random() < 0.3 else []
            self._write(name)
            for read in racing:
                read.result()  # before or after the write, as it happens
            self._read(name)

    def _write(self, name: str) -> None:
        """A piece, in place; the modification time is set back, by the writer's own descriptor or later."""
        data = bytearray(self._expected.get(name) or bytes(_SIZE))
        place = self._random.randrange(_SIZE - _PIECE)
        data[place : place + _PIECE] = self._random.randbytes(_PIECE)
        is_set_before_close = self._random.random() < 0.5
        with (self._writer / name).open("r+b", buffering=0) as file:
            assert os.pwrite(file.fileno(), data[place : place + _PIECE], place) == _PIECE
            if is_set_before_close:
                os.utime(file.fileno(), ns=(_HOUR_NS, _HOUR_NS))
        if not is_set_before_close:
            os.utime(self._writer / name, ns=(_HOUR_NS, _HOUR_NS))
        self._expected[name] = bytes(data)

    def _read(self, name: str) -> None:
        """All three, one after another or at once."""
        expected = self._expected.get(name) or bytes(_SIZE)
        paths = [reader / name for reader in self._readers]
        at_once = self._random.random() < 0.5
        found = list((self._pool.map if at_once else map)(Path.read_bytes, paths))
        self.reads += len(found)
        self.stale += sum(data != expected for data in found)


def _play(server: Server, kind: str) -> None:
    with four_nodes(server.url) as nodes, ThreadPoolExecutor(len(nodes)) as pool:
        rounds = Rounds(nodes[0].mount, [node.mount for node in nodes[1:]], pool)
        for _ in range(_ROUNDS):
            rounds.play(server)
        caches = [node.cache() for node in nodes[1:]]
    counts = {name: sum(cache[name] for cache in caches) for name in ("workers_bytes", "nas_bytes", "memory_bytes")}
    figures.record("writer", kind, {"rounds": _ROUNDS, "reads": rounds.reads, "stale": rounds.stale, **counts})
    assert rounds.stale == 0, f"{rounds.stale} of {rounds.reads} reads"
    assert counts["workers_bytes"] > 0, "nothing came from workers"


_TIMEOUT_S = 180 + _ROUNDS


@pytest.mark.timeout(_TIMEOUT_S)
def test_no_open_sees_what_was_before_the_last_close() -> None:
    """On a real NAS."""
    with Real.made() as server:
        _play(server, "real NAS")


@pytest.mark.timeout(_TIMEOUT_S)
def test_nor_does_one_on_a_server_whose_times_are_of_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is written several times within a second, and read in between."""
    with Scripted.made(monkeypatch) as server:
        _play(server, "times of whole seconds")
