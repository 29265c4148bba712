"""Verified work: independent workers, each a process of its own, that check whatever they do.

`work(folder)` starts one of each kind in a folder of its own and, at the end of its block, has their reports: how many
operations, which errors, how many wrong bytes. A worker states what it must have left behind, name by name and byte by
byte, and `wrong_behind` compares that with the export itself: what the mount shows may come from a cache.

| kind | what it does |
|---|---|
| `reads` | 4 KiB past the page cache without a pause; notes how long each read took, so it tells the stalls |
| `files` | create, write, read back, map, rename, unlink, make and remove directories, list |
| `mapping` | writes through a shared mapping, msync, reads back by read(2) |
| `renames` | a name that always leads to one of two contents; a rename that succeeds exactly once |
| `locks` | two processes exclude each other by fcntl and by flock: a counter shows it |
| `append` | three processes append to one file: each record is there once, whole |
| `listing` | 10,000 entries: none missing, none twice |
| `unlinked` | writes and reads a file that has no name any more |
| `inside` | lives in a folder of the mount and never names it |
| `fio` | fio, which verifies what it wrote |
| `git` | commits, gc, fsck, clone |
| `sqlite` | transactions whose sum and checksums are known, integrity_check |

Programs and no threads of the test, since whoever starts daemons must not have files of their mount open. A worker is
told to end by SIGTERM, which it keeps blocked, so that no request is interrupted; by itself it runs as
`python -m tests.faults.load [KIND] FOLDER` and ends with one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.support.processes import SLOWNESS

#: What a storm runs.
KINDS = (
    "reads", "files", "mapping", "renames", "locks", "append", "listing", "unlinked", "inside", "fio", "git", "sqlite",
)  # fmt: skip
#: Entries of the folder that `listing` reads. Whoever runs it makes them, behind the mount.
LISTED = 10_000

_START_LIMIT_S = 60
#: The slowest, git and fio, end what they have begun.
_FINISH_LIMIT_S = 120 * SLOWNESS

Report = dict[str, Any]


def start(kind: str, folder: Path, *arguments: str, apart: bool = True) -> subprocess.Popen[str]:
    """Starts a worker in `folder`, which exists; it works as soon as `ready` says so.

    A worker's own worker is not `apart`, so that `kill` takes both.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.load", kind, folder, *arguments],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=apart,
    )  # fmt: skip


def ready(worker: subprocess.Popen[str]) -> None:
    """Returns when it works. Raises AssertionError if it does not get there."""
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n", f"{worker.args!r} did not begin"


def end(worker: subprocess.Popen[str], *, limit_s: float = _FINISH_LIMIT_S) -> Report:
    """Has it finish; its report. One that died without, or does not end, has an error."""
    worker.send_signal(signal.SIGTERM)
    try:
        output = worker.communicate(timeout=limit_s)[0]
    except subprocess.TimeoutExpired:
        return _failed("it is stuck")
    if worker.returncode or not output.strip():
        return _failed(f"it ended with status {worker.returncode} and no report")
    report: Report = json.loads(output)
    return report


def _failed(why: str) -> Report:
    return {"operations": 0, "errors": [why], "wrong_bytes": 0, "turns": 0, "left": {}}


def kill(worker: subprocess.Popen[str]) -> None:
    """Whatever state it is in, with what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(30)
    if worker.stdout:
        worker.stdout.close()


def _nothing() -> None:
    pass


@contextmanager
def work(
    folder: Path,
    kinds: Sequence[str] = KINDS,
    *,
    finish_limit_s: float = _FINISH_LIMIT_S,
    on_stuck: Callable[[], None] = _nothing,
) -> Iterator[dict[str, Report]]:
    """One worker of each kind, in folders of `folder` named like them, during the block; then their reports.

    All have `finish_limit_s` to end; `on_stuck` frees those that have not, before they are killed.
    """
    reports: dict[str, Report] = {}
    started: dict[str, subprocess.Popen[str]] = {}
    is_over = False
    try:
        for kind in kinds:
            (folder / kind).mkdir(exist_ok=True)
            started[kind] = start(kind, folder / kind)
        for worker in started.values():
            ready(worker)
        yield reports
        for worker in started.values():
            worker.send_signal(signal.SIGTERM)
        until = time.monotonic() + finish_limit_s
        for kind, worker in started.items():
            reports[kind] = end(worker, limit_s=max(until - time.monotonic(), 0.1))
        is_over = all(worker.poll() is not None for worker in started.values())
    finally:
        if not is_over:
            on_stuck()
        for worker in started.values():
            kill(worker)


def prepare(behind: Path, kinds: Sequence[str] = KINDS) -> None:
    """Makes in the export what workers find: the entries of `listing`, or those of an earlier storm there."""
    if "listing" not in kinds:
        return
    if _kept(behind).exists():
        _kept(behind).rename(behind / "listing")
        return
    (behind / "listing").mkdir(parents=True)
    for number in range(LISTED):
        (behind / "listing" / f"entry-{number:05}").touch()


def _kept(behind: Path) -> Path:
    return behind.parent / "listing-kept"  # on a busy disk ten thousand files take long to make


def wrong_behind(behind: Path, reports: dict[str, Report]) -> list[str]:
    """What the export has other than the workers left it, once they have ended."""
    wrong = []
    for kind, report in reports.items():
        left, found = report["left"], contents(behind / kind)
        wrong += [f"{kind}: {name} is lost" for name in sorted(set(left) - set(found))[:5]]
        wrong += [f"{kind}: {name} should not be there" for name in sorted(set(found) - set(left))[:5]]
        both = sorted(set(left) & set(found))
        wrong += [f"{kind}: {name} has another content on the NAS" for name in both if left[name] != found[name]]
    return wrong


def remove(behind: Path) -> None:
    """Removes in the export what workers left, but for the entries of `listing`, which the next storm finds again."""
    if (behind / "listing").exists() and not _kept(behind).exists():
        (behind / "listing").rename(_kept(behind))
    shutil.rmtree(behind, ignore_errors=True)


def contents(folder: Path) -> dict[str, str]:
    """All files below `folder` by their names: `digest` of each."""
    return {
        str(path.relative_to(folder)): digest(path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def digest(content: bytes) -> str:
    """Tells contents apart."""
    return hashlib.sha256(content).hexdigest()
