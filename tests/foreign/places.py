"""Where foreign programs run, and what kills the daemon meanwhile."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.pauses import kill_daemon
from tests.support.keeper import Keeper
from tests.support.paths import ROOT

EXT4, MOUNT, KILLS = "ext4", "mount", "kills"
KILL_INTERVAL_S = 1.0
#: A program that is done sooner than this many kills runs again.
KILLS_MIN = 3
LIMIT_S = 300.0
FOREIGN_PYTHON = ROOT / ".tools" / "foreign" / "bin" / "python"
PROGRAMS = Path(__file__).parent / "programs"


@contextmanager
def killed_each_second(keeper: Keeper, mount: Path) -> Iterator[Callable[[], int]]:
    """Kills the mount's daemon each second during the block; gives how many were killed so far."""
    over, killed, failures = threading.Event(), itertools.count(), list[BaseException]()
    count = 0

    def work() -> None:
        nonlocal count
        try:
            while not over.wait(KILL_INTERVAL_S):
                kill_daemon(keeper, mount)
                count = next(killed) + 1
        except BaseException as error:
            failures.append(error)

    killer = threading.Thread(target=work)
    killer.start()
    try:
        yield lambda: count
    finally:
        over.set()
        killer.join(60)
    assert not failures, f"the daemon could not be killed again: {failures[0]}"


@dataclass(kw_only=True)
class Place:
    """A folder, anybody's, and the kills that happen there (None: none do)."""

    kind: str
    folder: Path
    kills: Callable[[], int] | None = None

    def work(self, work: Callable[[Path], None]) -> None:
        """Calls `work` with an empty folder; again with another one, until there were enough kills."""
        for number in itertools.count():
            folder = self.folder / f"turn-{number}"
            folder.mkdir()
            folder.chmod(0o1777)
            work(folder)
            if self.kills is None or self.kills() >= KILLS_MIN:
                return


def run(
    *command: str | Path,
    cwd: Path | None = None,
    limit_s: float = LIMIT_S,
    accepted: Sequence[int] = (0,),
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: str = "",
) -> str:
    """Runs a program. Returns its output; raises AssertionError with it when the program fails."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False, user=user,
        group=user, extra_groups=[] if user else None, env={**os.environ, **(environment or {})}, input=stdin,
    )  # fmt: skip
    said = done.stdout + done.stderr
    shown = " ".join(map(str, command))[:200]
    assert done.returncode in accepted, f"{shown}: status {done.returncode}\n{said[-4000:]}"
    return said


def run_python(program: str, folder: Path) -> str:
    """Runs programs/PROGRAM.py, with the libraries of others, on a folder."""
    return run(FOREIGN_PYTHON, PROGRAMS / f"{program}.py", folder, cwd=folder)
