"""Workers that are programs of other people's, with checks of their own."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import zlib

from tests.faults.load import contents, digest
from tests.faults.load.worker import Worker
from tests.support.processes import SLOWNESS


class Fio(Worker):
    """fio writes at random places and verifies; then the file is as its last run has left it."""

    SIZE = 4 << 20

    def turn(self) -> None:
        with self.operation("fio"):
            report = json.loads(self.program(
                "fio", "--name=verify", "--filename=file", f"--size={self.SIZE}", "--rw=randwrite", "--bsrange=4k-64k",
                "--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
                "--fsync=16", "--invalidate=1",
                f"--randseed={self.turns}", "--output-format=json",
            ))  # fmt: skip
            [job] = report["jobs"]
            assert job["error"] == 0, f"fio's error is {job['error']}"
            self.operations += job["read"]["total_ios"] + job["write"]["total_ios"]

    def fail(self, message: str) -> None:
        super().fail(message)
        self.wrong_bytes += "verify failed" in message or "verify: bad" in message  # fio does not say how many

    def finish(self) -> None:
        self._found = (self.folder / "file").read_bytes()
        assert len(self._found) == self.SIZE

    def left(self) -> dict[str, str]:
        return {"file": digest(self._found)}


class Git(Worker):
    """A repository that grows by a commit a turn; now and then it is packed, checked and cloned."""

    CLEAN_EVERY = 6

    def begin(self) -> None:
        self._random = random.Random(4)
        self._commits = 0
        (self.folder / "repository").mkdir()
        self._git("init", "--quiet", "--initial-branch=main")

    def _git(self, *arguments: str) -> str:
        options = ("-c", "user.name=w", "-c", "user.email=w@localhost", "-c", "gc.auto=0", "-c", "core.pager=cat")
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
        return self.program("git", "-C", "repository", *options, *arguments, **environment)

    def turn(self) -> None:
        with self.operation("commit"):
            for _ in range(3):
                name = f"file-{self._random.randrange(20)}"
                (self.folder / "repository" / name).write_bytes(self._random.randbytes(self._random.randrange(20_000)))
            self._git("add", "--all")
            self._git("commit", "--quiet", "--allow-empty", "--message", f"commit {self._commits + 1}")
            self._commits += 1
        if self.turns % self.CLEAN_EVERY == 0:
            with self.operation("gc, fsck and clone"):
                self._git("gc", "--quiet")
                self._check()
                self._git("clone", "--quiet", "--no-local", ".", "../clone")
                ours, theirs = (
                    self._git("rev-parse", "HEAD^{tree}"),
                    self._git("-C", "../clone", "rev-parse", "HEAD^{tree}"),
                )
                assert ours == theirs, "the clone is another one"
                self.program("rm", "-r", "clone")

    def _check(self) -> None:
        self._git("fsck", "--full", "--strict")
        assert self._git("status", "--porcelain") == "", "files are not as they were committed"
        count = int(self._git("rev-list", "--count", "HEAD"))
        assert count == self._commits, f"{count} commits in the history instead of {self._commits}"

    def finish(self) -> None:
        self._check()
        self._found = contents(self.folder)  # git has compared them with its checksums

    def left(self) -> dict[str, str]:
        return self._found


class Sqlite(Worker):
    """Moves amounts between accounts in transactions: the sum stays, and each entry of the journal has its checksum."""

    ACCOUNTS = 10
    AMOUNT = 1000
    CHECK_EVERY = 20

    def begin(self) -> None:
        self._random = random.Random(5)
        self._transactions = 0
        self._base = sqlite3.connect(self.folder / "base", timeout=60 * SLOWNESS, isolation_level=None)
        self._base.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INTEGER)")
        self._base.execute("CREATE TABLE moves (number INTEGER PRIMARY KEY, content BLOB, checksum INTEGER)")
        self._base.executemany("INSERT INTO accounts VALUES (?, ?)", [(n, self.AMOUNT) for n in range(self.ACCOUNTS)])

    def turn(self) -> None:
        with self.operation("transaction"):
            self._transact()
        if self.turns % self.CHECK_EVERY == 0:
            with self.operation("check"):
                self._check()

    def _transact(self) -> None:
        source, target = self._random.sample(range(self.ACCOUNTS), 2)
        content = self._random.randbytes(self._random.randrange(2000))
        amount = self._random.randrange(50)
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute("UPDATE accounts SET amount = amount - ? WHERE id = ?", (amount, source))
            self._base.execute("UPDATE accounts SET amount = amount + ? WHERE id = ?", (amount, target))
            number = self._transactions + 1
            self._base.execute("INSERT INTO moves VALUES (?, ?, ?)", (number, content, zlib.crc32(content)))
        self._transactions += 1

    def _check(self) -> None:
        [(verdict,)] = self._base.execute("PRAGMA integrity_check").fetchall()
        assert verdict == "ok", verdict
        [(total,)] = self._base.execute("SELECT sum(amount) FROM accounts").fetchall()
        assert total == self.ACCOUNTS * self.AMOUNT, f"the accounts have {total}"
        moves = self._base.execute("SELECT number, content, checksum FROM moves ORDER BY number").fetchall()
        assert [number for number, _, _ in moves] == list(range(1, self._transactions + 1)), "moves are missing"
        assert all(zlib.crc32(content) == checksum for _, content, checksum in moves), "a move has another content"

    def finish(self) -> None:
        self._check()
        self._base.close()
        self._found = (self.folder / "base").read_bytes()

    def left(self) -> dict[str, str]:
        return {"base": digest(self._found)}
