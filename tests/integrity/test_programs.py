"""Real programs on the mount while the NAS is killed and started again: they see no error, and every byte is right."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.integrity.conftest import SECONDS, Scene
from tests.integrity.storm import Storm, storm
from tests.support.paths import ROOT
from tests.support.processes import stop_process

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.timeout(SECONDS * 5 + 240)


def nas_storm(scene: Scene, kill_nas: Callable[[], None] | None = None) -> dict[str, object]:
    """Arguments of `storm` that kill the NAS about every five seconds."""
    return {
        "blows": {"NAS killed": kill_nas or (lambda: scene.nas.restart(crash=True))},
        "seed": scene.seed,
        "pause_s": (1.0, 4.0),
    }


def kill_nas_between_creates(scene: Scene) -> None:
    """Kills the NAS while it executes nothing.

    Ganesha executes an exclusive CREATE in two steps: it makes the file, and then stores the verifier. What it leaves
    when it dies in between is another client's file to all that anybody can see: EEXIST (docs/SEMANTICS.md). Git makes
    hundreds of files a second so.
    """
    daemon = scene.keeper.daemon_pid(scene.mount)
    stop_process(daemon)
    try:
        time.sleep(0.05)
        scene.nas.kill()
    finally:
        os.kill(daemon, signal.SIGCONT)
    scene.nas.start()


def run(command: Sequence[str | Path], *, limit_s: float = SECONDS * 4 + 200) -> str:
    """Runs a program. Returns its output; raises AssertionError with it when the program fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


FIO_JOBS = """
[global]
directory={directory}
size={size_mib}m
verify=crc32c
verify_fatal=1
randseed={seed}
group_reporting=1
end_fsync=1
verify_state_save=0
time_based=0

[small-and-synced]
rw=randwrite
bs=4k
fsync=16
io_size={small_mib}m

[mixed]
rw=randrw
bssplit=4k/30:13k/20:64k/30:256k/15:1m/5
bs_unaligned=1
fdatasync=64

[sequential]
rw=write
bs=1m
numjobs=2
"""


def test_fio_verifies_what_it_wrote(scene: Scene, details: dict[str, object], tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.fio"
    mib = max(16, int(SECONDS / 100 * 96))
    folder = scene.mount / "fio"
    folder.mkdir()
    jobs.write_text(
        FIO_JOBS.format(directory=folder, size_mib=mib, small_mib=max(4, mib // 8), seed=scene.seed % 2**31)
    )
    begin = time.monotonic()
    with storm(**nas_storm(scene)) as weather:  # type: ignore[arg-type]
        rounds = 0
        while rounds == 0 or (time.monotonic() - begin < SECONDS * 0.25):
            run(["fio", jobs])
            rounds += 1
    assert_killed(weather)
    run(["sync", "-f", scene.mount])
    same = {path.name: digest(path) for path in folder.iterdir()}
    assert same == {path.name: digest(path) for path in (scene.behind / "fio").iterdir()}
    details["fio"] = {"rounds": rounds, "files_mib": mib * len(same), "storm": str(weather)}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def assert_killed(weather: Storm) -> None:
    """The run proves nothing unless something was killed in the middle of it."""
    assert sum(weather.counts.values()) >= 1, "the load ended before anything was killed"


def test_git_clone_and_build(scene: Scene, details: dict[str, object], tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    run(["git", "clone", "--quiet", "--bare", "--no-local", ROOT, bare])
    program = c_program(tmp_path / "program")
    begin = time.monotonic()
    rounds = 0
    with storm(**nas_storm(scene, lambda: kill_nas_between_creates(scene))) as weather:  # type: ignore[arg-type]
        while sum(weather.counts.values()) < 2 or time.monotonic() - begin < SECONDS * 0.2:
            clone_and_build(scene.mount / f"round-{rounds}", bare=bare, program=program)
            rounds += 1
    assert_killed(weather)
    run(["git", "-c", "safe.directory=*", "-C", scene.behind / "round-0" / "clone", "fsck", "--strict"])
    details["git and make"] = {"rounds": rounds, "storm": str(weather)}


def clone_and_build(folder: Path, *, bare: Path, program: Path) -> None:
    """Clones, changes, commits, checks; copies a C program, builds and runs it."""
    folder.mkdir()
    clone = folder / "clone"
    git: list[str | Path] = [
        "git",
        "-c",
        "user.name=Test",
        "-c",
        "user.email=test@example.com",
        "-c",
        "gc.auto=0",
        "-C",
        clone,
    ]
    run(["git", "clone", "--quiet", "--no-hardlinks", bare, clone])
    assert run([*git, "status", "--porcelain"]) == ""
    (clone / "new file").write_text("text\n" * 10_000)
    run([*git, "add", "."])
    run([*git, "commit", "--quiet", "-m", "A commit on the mount"])
    run([*git, "repack", "-adq"])
    run([*git, "fsck", "--strict"])
    assert run([*git, "status", "--porcelain"]) == ""

    build = folder / "build"
    shutil.copytree(program, build)
    run(["make", "--quiet", "-j2", "-C", build])
    assert run([build / "program"]) == f"{sum(range(SOURCES))}\n"


SOURCES = 40


def c_program(folder: Path) -> Path:
    """A C program of many files with a Makefile; it prints the sum of what its parts return."""
    folder.mkdir()
    for number in range(SOURCES):
        (folder / f"part_{number}.c").write_text(
            f"#include <stdio.h>\nint part_{number}(void) {{ return {number}; }}\n"
        )
    declarations = "".join(f"int part_{number}(void);\n" for number in range(SOURCES))
    total = " + ".join(f"part_{number}()" for number in range(SOURCES))
    (folder / "main.c").write_text(
        f'#include <stdio.h>\n{declarations}int main(void) {{ printf("%d\\n", {total}); return 0; }}\n'
    )
    (folder / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\n"
        "program: parts.a main.o\n\t$(CC) -o $@ main.o parts.a\n"
        "parts.a: $(filter-out main.o,$(OBJECTS))\n\t$(AR) rcs $@ $^\n"
        "%.o: %.c\n\t$(CC) -O1 -c -o $@ $<\n"
    )
    return folder


def test_sqlite_loses_no_committed_transaction(scene: Scene, details: dict[str, object]) -> None:
    path = scene.mount / "database"
    begin = time.monotonic()
    hears, says = FORK.Pipe(duplex=False)
    # In a process of its own: this one starts the NAS again, and a child that it forks for that would first close its
    # copy of the database, which waits for the NAS.
    writer = FORK.Process(target=commit_transactions, args=(path, says), daemon=True)
    writer.start()
    says.close()
    committed = 0
    try:
        with storm(**nas_storm(scene)) as weather:  # type: ignore[arg-type]
            while sum(weather.counts.values()) < 3 or time.monotonic() - begin < SECONDS * 0.15:
                assert hears.poll(60), "no transaction was committed for a minute"
                committed = hears.recv() + 1
    finally:
        writer.kill()
        writer.join(20)
    while hears.poll():
        try:
            committed = hears.recv() + 1
        except EOFError:
            break
    for place in (path, scene.behind / "database"):
        check_database(place, committed=committed)
    details["sqlite"] = {"transactions": committed, "storm": str(weather)}


def commit_transactions(path: Path, says: Connection) -> None:
    """Commits one transaction after another, and says the number of each that is committed."""
    database = open_database(path)
    database.execute("CREATE TABLE record (number INTEGER PRIMARY KEY, content BLOB, twice INTEGER)")
    for number in itertools.count():
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO record VALUES (?, ?, ?)", (number, content_of(number), 0))
        database.execute("UPDATE record SET twice = number * 2 WHERE number > ?", (number - 20,))
        database.execute("COMMIT")
        says.send(number)
        if number % 50 == 49:
            database.close()
            database = open_database(path)


def open_database(path: Path) -> sqlite3.Connection:
    """A connection in rollback-journal mode that syncs at every commit."""
    database = sqlite3.connect(path, isolation_level=None, timeout=30)
    assert database.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    database.execute("PRAGMA synchronous = FULL")
    return database


def content_of(number: int) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(100 + number * 37 % 5000)


def check_database(path: Path, *, committed: int) -> None:
    """Nothing is broken, and every committed row is there; at most one more, that was not acknowledged yet."""
    database = sqlite3.connect(path, timeout=30)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = database.execute("SELECT number, content, twice FROM record ORDER BY number").fetchall()
    finally:
        database.close()
    assert len(rows) - committed in (0, 1)
    assert rows == [(number, content_of(number), number * 2) for number in range(len(rows))]
