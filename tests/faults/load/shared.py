"""Workers that share something: a lock, the end of a file, a large folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.load import LISTED, Report, digest, end, ready, start
from tests.faults.load.worker import Worker
from tests.support.processes import SLOWNESS

#: A lock that somebody holds is free again soon; who waits longer has lost it.
_LOCK_LIMIT_S = 60 * SLOWNESS


class Locks(Worker):
    """Two processes count in one file, under locks."""

    def begin(self) -> None:
        for kind in LockContender.KINDS:
            (self.folder / kind).write_text("0")
        self._contenders = [start("lock-contender", self.folder, apart=False) for _ in range(2)]
        for contender in self._contenders:
            ready(contender)

    def turn(self) -> None:
        time.sleep(0.05)  # the others work

    def finish(self) -> None:
        reports: list[Report] = [end(contender) for contender in self._contenders]
        for report in reports:
            self.adopt("contender", report)
        counted = sum(int(report.get("turns", 0)) for report in reports)
        self._counts = dict.fromkeys(LockContender.KINDS, b"%d" % counted)
        for kind, count in self._counts.items():
            self.compare((self.folder / kind).read_bytes(), count, f"what was counted under {kind}")

    def left(self) -> dict[str, str]:
        return {kind: digest(count) for kind, count in self._counts.items()}


class LockContender(Worker):
    """Reads a number and writes the next, each turn under both kinds of locks, and nobody else may be in between."""

    KINDS = ("fcntl", "flock")

    def begin(self) -> None:
        self._files = {kind: os.open(self.folder / kind, os.O_RDWR) for kind in self.KINDS}

    def turn(self) -> None:
        for kind, file in self._files.items():
            with self.operation(kind):
                lock = fcntl.lockf if kind == "fcntl" else fcntl.flock
                self._locked(lambda: lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))  # noqa: B023
                count = b"%d" % (int(os.pread(file, 20, 0)) + 1)
                assert os.pwrite(file, count, 0) == len(count)
                assert os.pread(file, 20, 0) == count, f"{kind} does not exclude the other"
                lock(file, fcntl.LOCK_UN)

    def _locked(self, attempt: Callable[[], object]) -> None:
        """Takes turns with the other: one that waits in the kernel would get the lock only when the other is slow."""
        until = time.monotonic() + _LOCK_LIMIT_S
        while True:
            try:
                attempt()
                return
            except BlockingIOError:
                assert time.monotonic() < until, "the lock is never free"
                time.sleep(0.001)

    def finish(self) -> None:
        for file in self._files.values():
            os.close(file)


class Append(Worker):
    """Three processes write to the end of one file: each record is there once, whole, and in its writer's order."""

    def begin(self) -> None:
        (self.folder / "log").touch()
        self._writers = [start("append-writer", self.folder, str(number), apart=False) for number in range(3)]
        for writer in self._writers:
            ready(writer)

    def turn(self) -> None:
        time.sleep(0.05)  # the others work

    def finish(self) -> None:
        reports = [end(writer) for writer in self._writers]
        for report in reports:
            self.adopt("writer", report)
        self._found = (self.folder / "log").read_bytes()
        lines = self._found.splitlines(keepends=True)
        for number, report in enumerate(reports):
            own = [line for line in lines if line.startswith(b"%d " % number)]
            expected = [record(number, turn) for turn in range(1, int(report.get("turns", 0)) + 1)]
            self.compare(b"".join(own), b"".join(expected), f"records of writer {number}")
        torn = [line for line in lines if line[:2] not in (b"0 ", b"1 ", b"2 ")]
        assert not torn, f"{len(torn)} lines are nobody's, {torn[0]!r} for example"

    def left(self) -> dict[str, str]:
        # The order between writers is chance: the export must have what was read and compared.
        return {"log": digest(self._found)}


def record(writer: int, turn: int) -> bytes:
    """Of varying length, so that a record in another's place shows."""
    return b"%d %d %s\n" % (writer, turn, b"x" * (turn * 37 % 900))


class AppendWriter(Worker):
    """One of them."""

    def __init__(self, folder: Path, number: str) -> None:
        super().__init__(folder)
        self._number = int(number)

    def begin(self) -> None:
        self._log = os.open(self.folder / "log", os.O_WRONLY | os.O_APPEND)

    def turn(self) -> None:
        with self.operation("append"):
            line = record(self._number, self.turns)
            assert os.write(self._log, line) == len(line)

    def finish(self) -> None:
        os.close(self._log)


class Listing(Worker):
    """Reads a large folder, which nobody changes, from its beginning to its end."""

    def begin(self) -> None:
        self._names = {f"entry-{number:05}" for number in range(LISTED)}

    def turn(self) -> None:
        with self.operation("list"), os.scandir(self.folder) as entries:
            found = [entry.name for entry in entries]
            twice, missing = len(found) - len(set(found)), self._names - set(found)
            assert (twice, missing) == (0, set()), f"{twice} entries twice, {len(missing)} missing of {len(found)}"
            assert len(found) == LISTED, f"{set(found) - self._names} should not be there"

    def left(self) -> dict[str, str]:
        return dict.fromkeys(self._names, digest(b""))
