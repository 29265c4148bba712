"""Each rule that failover rests on, broken on purpose: the tests notice, and soon.

A rule is broken by a cargo feature of the programs, which nothing else uses. What must notice it is one of the storms
in a small form, or tests of this folder; the same must find nothing with the same build without the feature. In the
short form only one rule is broken, as each is a build.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.storms import IS_LONG, Strike, hang, kill, living_daemons, storm
from tests.support.driver import Driver
from tests.support.nas import Nas
from tests.support.paths import ROOT, program

#: What they have in common with the programs of the Rust tests is built already.
_TARGET = ROOT / "target"
_BUILD_LIMIT_S = 600
_KINDS = ("reads", "files", "renames", "append", "unlinked")
_WHOLE = ""

#: Says what went wrong with the programs that EFC_BIN_DIR names; nothing: it has not noticed anything.
Check = Callable[[Nas], list[str]]


def in_a_storm(
    strike: Strike, *, kills: int = 6, calm_s_max: float = 0.6, mount_options: tuple[str, ...] = ()
) -> Check:
    """A storm that waits no minutes for a worker that is stuck."""

    def check(nas: Nas) -> list[str]:
        outcome = storm(
            nas,
            strike,
            kills=kills,
            mount_options=mount_options,
            kinds=_KINDS,
            calm_s_max=calm_s_max,
            finish_limit_s=20,
        )
        return outcome.errors

    return check


def by_tests(file: str, expression: str) -> Check:
    """Tests of this folder, in a process of their own."""

    def check(_nas: Nas) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", f"tests/faults/{file}", "-k", expression]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1), done.stdout[-2000:]  # passed or failed, and ran
        return [line for line in done.stdout.splitlines() if line.startswith("FAILED")]

    return check


def leave_two(driver: Driver, number: int) -> None:
    """The daemon hangs, has a successor, and goes on."""
    [pid] = living_daemons(driver)
    hang(driver, number)
    with suppress(ProcessLookupError):  # it was killed, as it should be
        os.kill(pid, signal.SIGCONT)


#: By the feature that breaks the rule: each of its checks must notice.
RULES: dict[str, tuple[Check, ...]] = {
    "no-resend": (in_a_storm(kill(daemons=True)),),
    "no-journal": (by_tests("test_exactly_once.py", "test_mkdir or test_unlink"),),
    "no-payloads": (by_tests("test_uncommitted.py", "test_nothing_is_lost"),),
    "no-replay": (in_a_storm(kill(daemons=True), mount_options=("fuse-features=6.1",)),),
    "drop-state": (in_a_storm(kill(daemons=True)),),
    "torn-records": (in_a_storm(kill(daemons=True)),),
    "two-daemons": (
        in_a_storm(leave_two, kills=1, calm_s_max=3, mount_options=("hang-limit=1s",)),
        by_tests("test_predecessors.py", "out_of_reach"),
    ),
}
_SHORT = ("drop-state",)


@functools.cache
def programs(feature: str) -> Path:
    """Builds the daemon and the keeper with `feature`; a folder with all programs."""
    command = ["cargo", "build", "--quiet", "--locked", "--target-dir", str(_TARGET), "-p", "efcd", "-p", "efc-keeper"]
    if feature:
        owners = ("efcd", "efc-keeper") if feature == "two-daemons" else ("efcd",)
        command += ["--features", ",".join(f"{owner}/{feature}" for owner in owners)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=_BUILD_LIMIT_S)
    folder = _TARGET / "broken" / (feature or "whole")
    folder.mkdir(parents=True, exist_ok=True)
    for path in program("efc").parent.glob("efc*"):
        (folder / path.name).unlink(missing_ok=True)
        built = _TARGET / "debug" / path.name
        if built.exists():
            (folder / path.name).hardlink_to(built)
        else:
            (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.timeout(_BUILD_LIMIT_S + 300)
@pytest.mark.parametrize("rule", RULES if IS_LONG else _SHORT)
def test_a_broken_rule_is_noticed(nas: Nas, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    whole, broken = programs(_WHOLE), programs(rule)
    for check in RULES[rule]:
        monkeypatch.setenv("EFC_BIN_DIR", str(whole))
        assert check(nas) == []
        monkeypatch.setenv("EFC_BIN_DIR", str(broken))
        noticed = check(nas)
        print(f"{rule}: {len(noticed)} errors, such as {noticed[:3]}")
        assert noticed, "nobody has noticed"
