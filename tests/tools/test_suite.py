"""The suite's runner: a signal ends it together with everything that it started, and nothing is skipped silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import processes, wait_until

#: A part whose processes outlive a polite request: one in the background, in a session of its own, deaf to signals.
_SLEEPER = "trap '' TERM INT HUP; touch $TMPDIR/left; setsid sleep {marker} & sleep {marker}"
_SCRIPT = """
import sys
from pathlib import Path
from tests.support import suite
suite.RESULTS = Path(sys.argv[1])
suite.PARTS = {"sleeper": suite.Part(commands=[["sh", "-c", sys.argv[2]]], read=suite._read_status, limit_s=60)}
sys.exit(suite.main(["sleeper"]))
"""
_SKIPPER = "echo working; echo there is no Go here; exit {status}"


def _sleepers(marker: str) -> list[int]:
    return [process.pid for process in processes() if process.command == f"sleep {marker}" and process.state != "Z"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_sandbox_too(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    marker = f"{4000 + number}.25"
    # Under nohup, or in the background of a script, the suite does not end at every signal.
    heeding = ["env", "--default-signal=TERM,INT,HUP"]
    command = [*heeding, sys.executable, "-c", _SCRIPT, str(tmp_path / "results"), _SLEEPER.format(marker=marker)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as runner:
        try:
            wait_until(lambda: len(_sleepers(marker)) == 2, what="the part to run", limit_s=20)
            runner.send_signal(number)
            assert runner.wait(10) == 128 + number
        finally:
            runner.kill()
        assert runner.stdout is not None
        assert f"-- ended by {number.name}" in runner.stdout.read()
    assert _sleepers(marker) == []
    assert list(tmp_path.glob("efc-test.*")) == [], "its folder is left"


@pytest.mark.parametrize(("status", "ends_with"), [
    (77, ["SKIPPED sleeper: there is no Go here", "0 passed, 0 failed, 1 skipped"]),
    (1, ["0 passed, 1 failed"]),
])  # fmt: skip
def test_a_part_that_cannot_run_says_so_at_the_end(status: int, ends_with: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "results"), _SKIPPER.format(status=status)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-len(ends_with) :] == ends_with
    assert done.returncode == (0 if status == 77 else 1)


@pytest.mark.parametrize(("prints", "named"), [
    ("FAILED tests/a.py::test_a - assert 1 == 2", "FAILED tests/a.py::test_a - assert 1 == 2"),
    ("ERROR tests/a.py::test_a", "ERROR tests/a.py::test_a"),
    ("test tree::grows ... FAILED", "test tree::grows ... FAILED"),
    ("nothing of use", "exit status 1: sh -c"),
])  # fmt: skip
def test_what_failed_is_named_again_at_the_end(prints: str, named: str, tmp_path: Path) -> None:
    part = f"echo working; echo '{prints}'; echo 9 passed, 1 failed; exit 1"
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "results"), part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-2].startswith(f"sleeper: {named}")


_TWO_LANES = """
import sys
from pathlib import Path
from tests.support import suite
suite.RESULTS = Path(sys.argv[1])
def part(command):
    return suite.Part(commands=[["sh", "-c", command]], read=suite._read_status, limit_s=30)
meet = "touch {0}; for i in $(seq 200); do [ -e {1} ] && exit 0; sleep 0.1; done; echo nobody came; exit 1"
suite.PARTS = {
    "first": part("echo of the first"),
    "here": part(meet.format(f"{sys.argv[1]}/here", f"{sys.argv[1]}/there")),
    "there": part(meet.format(f"{sys.argv[1]}/there", f"{sys.argv[1]}/here")),
    "late": part("exit 1"),
}
sys.exit(suite.main(["first", "here", "+", "there", "late"]))
"""


def test_lanes_run_side_by_side_and_their_lines_say_whose_they_are(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TWO_LANES, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert "first: of the first" in lines
    assert [line for line in lines if "nobody came" in line] == []
    assert [line for line in lines if line.startswith("late: -- exit status 1")]
    assert lines[-1] == "3 passed, 1 failed"
    assert done.returncode == 1


def _short(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """tests.cluster.short where these programs, as shell scripts, are all that there is."""
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    command = [sys.executable, "-m", "tests.cluster.short"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PATH": str(folder), "EFC_CLUSTER_BUILD_LIMIT_S": "0.5"},
    )  # fmt: skip


@pytest.mark.parametrize(("programs", "reason"), [
    ({}, "there is no Go here"),
    ({"go": "echo go version go1.24.9 linux/amd64"}, "Go 1.25 or newer builds Kubernetes, here is go version go1.24.9"),
    ({"go": "echo go version go1.25.0 linux/amd64", "make": "exec /bin/sleep 60"}, "was not built within 0.5 s"),
    ({"go": "echo go version go2.0.1 linux/amd64", "make": "exit 2"}, "could not be built (make's exit status is 2"),
])  # fmt: skip
def test_why_the_short_cluster_cannot_run(programs: dict[str, str], reason: str, tmp_path: Path) -> None:
    done = _short(tmp_path, **programs)
    assert reason in done.stdout.splitlines()[-1]
    assert done.returncode == 77


def test_an_image_that_cannot_be_built_is_no_reason_to_skip(tmp_path: Path) -> None:
    make = 'case "$*" in *ready*) exit 3 ;; esac'
    assert _short(tmp_path, go="echo go version go1.26.0 linux/amd64", make=make).returncode == 3
