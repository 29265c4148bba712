"""What `make kernels` does around a guest: it is ended in any case, and what cannot be had here is skipped by name.

And the gate on calls: more is worse, whichever client's figures differ are named.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import calls
from tests.kernels.calls import Expected
from tests.kernels.machine import Kernel, MachineError
from tests.kernels.operations import FOREIGN, OPERATIONS, OWN
from tests.support.paths import ROOT
from tests.support.processes import processes, wait_until

_EXPECTED = {OWN: {"mkdir": Expected(linux=2.0, efc=1.0, aim=1.0), "ls -l: cold": Expected(linux=7, efc=4, aim=4)}}
_REPETITIONS = {"mkdir": 100, "ls -l: cold": 1}
_RUN = """
import sys
from pathlib import Path
from tests.kernels.machine import Kernel
print(Kernel(version="6.1", folder=Path(sys.argv[1])).run("true", share=Path(sys.argv[2]), limit_s=float(sys.argv[3])))
"""


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in QEMU's place, which the test writes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "kernel" / "boot").mkdir(parents=True)
    (tmp_path / "kernel" / "boot" / "vmlinuz-6.1.0").touch()
    (tmp_path / "share").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.touch(0o755)
    return program


def _run(folder: Path, *, limit_s: float = 60) -> int:
    return Kernel(version="6.1", folder=folder / "kernel").run("true", share=folder / "share", limit_s=limit_s)


def _sleepers(marker: str) -> list[int]:
    return [process.pid for process in processes() if process.command == f"sleep {marker}" and process.state != "Z"]


def test_the_commands_status_and_what_it_said(
    emulator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = tmp_path / "share"
    emulator.write_text(f"#!/bin/sh\necho firmware; echo 'guest: Linux 6.1'; echo it works; echo 3 >{share}/status\n")
    assert _run(tmp_path) == 3
    assert capsys.readouterr().out == "guest: Linux 6.1\nit works\n"
    assert (share / "command").read_text() == "true\n"


def test_a_guest_that_ends_by_itself_says_its_last_words(emulator: Path, tmp_path: Path) -> None:
    emulator.write_text("#!/bin/sh\necho 'Kernel panic - not syncing'\n")
    with pytest.raises(MachineError, match="ended before the command did:\nKernel panic - not syncing"):
        _run(tmp_path)


def test_a_guest_that_hangs_is_ended(emulator: Path, tmp_path: Path) -> None:
    emulator.write_text("#!/bin/sh\necho 'guest: Linux 6.1'\nexec sleep 4321.1\n")
    with pytest.raises(MachineError, match="did not end within 1 s"):
        _run(tmp_path, limit_s=1)
    assert _sleepers("4321.1") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_guest_outlives_who_runs_it(emulator: Path, tmp_path: Path, number: signal.Signals) -> None:
    emulator.write_text("#!/bin/sh\nexec sleep 4321.2\n")
    command = [sys.executable, "-c", _RUN, str(tmp_path / "kernel"), str(tmp_path / "share"), "60"]
    with subprocess.Popen(command, cwd=ROOT) as runner:
        try:
            wait_until(lambda: _sleepers("4321.2"), what="the emulator", limit_s=20)
            runner.send_signal(number)
            runner.wait(10)
        finally:
            runner.kill()
    wait_until(lambda: not _sleepers("4321.2"), what="the emulator's end", limit_s=5)


@pytest.mark.parametrize(("programs", "version", "reason"), [
    ({}, "6.1", "there is no apt-get"),
    ({"apt-get": "exit 100"}, "6.1", "apt-get update fails"),
    ({"apt-get": "exit 0", "apt-cache": "echo linux-image-6.12.1-amd64"}, "6.1", "has no linux-image-6.1.*"),
    ({"uname": "echo aarch64"}, "6.1", "this machine's programs are of aarch64"),
])  # fmt: skip
def test_what_cannot_be_had_is_no_failure(tmp_path: Path, programs: dict[str, str], version: str, reason: str) -> None:
    """In a copy of the checkout's scripts, where nothing has been fetched, and with these programs only."""
    copy = tmp_path / "tests" / "kernels"
    copy.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "kernels" / "setup", copy)
    (tmp_path / "bin").mkdir()
    present = ("qemu-system-x86_64", "cpio", "depmod", "xz")
    for name, script in {"ldd": "echo not a dynamic executable", **dict.fromkeys(present, "true"), **programs}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("sh", "dirname", "uname", "id", "grep", "sort", "tail", "timeout"):
        if not (tmp_path / "bin" / name).exists():
            (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [copy / "setup", version], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": str(tmp_path / "bin")},
    )  # fmt: skip
    assert done.returncode == 77, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"Linux {version} cannot be booted here: ")
    assert reason in last


def test_every_operation_is_expected_to_make_some_calls() -> None:
    expected = calls.read_expected()
    for place in (OWN, FOREIGN):
        assert set(expected[place]) == {one.name for one in OPERATIONS if place in one.places}


def test_more_calls_than_expected_are_worse() -> None:
    assert calls.worse({OWN: {"mkdir": 1.02, "ls -l: cold": 6}}, _EXPECTED, _REPETITIONS) == [], "that is chance"
    assert calls.worse({OWN: {"mkdir": 0.1, "ls -l: cold": 0}}, _EXPECTED, _REPETITIONS) == []
    found = calls.worse({OWN: {"mkdir": 1.04, "ls -l: cold": 7}}, _EXPECTED, _REPETITIONS)
    assert found == [
        "mkdir (own): 1.040 calls, at most 1.030 expected",
        "ls -l: cold (own): 7.000 calls, at most 6.000 expected",
    ]


@pytest.mark.parametrize(("counted", "differs"), [(2.0, False), (2.05, False), (2.3, True), (1.7, True)])
def test_figures_of_the_kernels_client_are_known(counted: float, *, differs: bool) -> None:
    assert bool(calls.not_as_expected({OWN: {"mkdir": counted}}, _EXPECTED, _REPETITIONS)) is differs


def test_new_expectations_keep_aims_and_what_was_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    shutil.copy(calls.EXPECTED, path)
    before = calls.read_expected(path)
    calls.write_expected({}, {OWN: {"mkdir": 0.5}}, path)
    after = calls.read_expected(path)
    assert after[OWN]["mkdir"] == Expected(linux=before[OWN]["mkdir"].linux, efc=0.5, aim=before[OWN]["mkdir"].aim)
    after[OWN]["mkdir"] = before[OWN]["mkdir"]
    assert after == before
    assert path.read_text().startswith("#")
