"""What the units of deploy/systemd run, as systemd does it, where keepers and daemons die and the NAS is silent.

systemd itself does not run here: its words are checked by `tests/tools/test_units.py`.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

from tests.support.environment import clean_environment
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import ROOT, program
from tests.support.processes import processes, wait_until

_INSTALLED = "/opt/efc/bin"
_LIMIT_S = 60.0


@pytest.fixture
def keeper(nas: Nas) -> Iterator[Keeper]:
    """One of the test's own, as `efc-keeper.service` starts it."""
    with Keeper() as running:
        yield running


class MountUnit:
    """`efc-mount@NAME` with its words."""

    def __init__(self, keeper: Keeper, *, source: str, target: Path, options: str = "") -> None:
        self._words = {"SOURCE": source, "TARGET": str(target), "OPTIONS": options}
        self._environment = clean_environment(RUN_DIR=str(keeper.run_dir))
        self._lines = (ROOT / "deploy" / "systemd" / "efc-mount@.service").read_text().splitlines()

    def begin_start(self) -> subprocess.Popen[str]:
        """Its start, under way: one command after the other, until one fails."""
        commands = [shlex.join(command) for command in self._commands("ExecStartPre", "ExecStart")]
        return self._begin(["sh", "-ec", "\n".join(commands)])

    def start(self) -> tuple[int, str]:
        """Its start: status, and what it says."""
        return self._end(self.begin_start())

    def stop(self) -> tuple[int, str]:
        """Its stop, likewise."""
        (command,) = self._commands("ExecStop")
        return self._end(self._begin(command))

    def _commands(self, *names: str) -> list[list[str]]:
        lines = [line.partition("=") for line in self._lines]
        values = [value for name, _, value in lines if name in names]
        return [self._filled(shlex.split(value)) for value in values]

    def _filled(self, words: list[str]) -> list[str]:
        words[0] = words[0].replace(_INSTALLED, str(program("efc").parent))
        return [Template(word).substitute(self._words) for word in words]

    def _begin(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def _end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            output, _ = process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, output


def keepers_of(keeper: Keeper) -> list[int]:
    """Process ids of keepers in its run directory, whoever has started them."""
    return [
        process.pid
        for process in processes()
        if str(keeper.run_dir) in Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace").split("\0")
    ]


def test_a_mount_unit_starts_no_keeper_which_would_end_with_it(nas: Nas, keeper: Keeper) -> None:
    keeper.kill()
    status, said = MountUnit(keeper, source=nas.url, target=keeper.folder / "mount").start()
    assert (status, "no keeper answers" in said) == (1, True), said
    assert keepers_of(keeper) == []


def test_a_mount_unit_waits_for_the_keeper_that_is_started_again(nas: Nas, keeper: Keeper) -> None:
    target = keeper.folder / "above" / "mount"
    unit = MountUnit(keeper, source=nas.url, target=target, options="ro,consistency=bounded")
    os.kill(keeper.pid, signal.SIGKILL)  # its socket stays
    starting = unit.begin_start()
    wait_until(target.exists, what="the directory", limit_s=_LIMIT_S)
    keeper.kill()
    keeper.start()
    output, _ = starting.communicate(timeout=_LIMIT_S)
    assert (starting.returncode, output) == (0, "")
    assert keepers_of(keeper) == [keeper.pid]
    assert keeper.status(target)["state"] == "serving"
    assert unit.stop() == (0, "")


def test_a_mount_unit_mounts_anew_what_keeper_and_daemon_have_left_in_use(nas: Nas, keeper: Keeper) -> None:
    (nas.export_folder() / "file").touch()
    target = keeper.folder / "mount"
    unit = MountUnit(keeper, source=nas.url, target=target, options="attr-ttl=0s")
    assert unit.start() == (0, "")
    with (target / "file").open():
        daemon = keeper.daemon_pid(target)
        keeper.kill()
        os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{daemon}").exists(), what="the daemon to end", limit_s=_LIMIT_S)
        keeper.start()
        status, said = unit.stop()
        assert status == 1, said
        assert unit.start() == (0, "")
        assert "file" in os.listdir(target)
    assert unit.stop() == (0, "")


def test_the_start_of_a_mount_that_is_there_asks_no_silent_nas(paused_nas: Nas, keeper: Keeper) -> None:
    unit = MountUnit(keeper, source=paused_nas.url, target=keeper.folder / "mount", options="attr-ttl=0s")
    assert unit.start() == (0, "")
    paused_nas.pause()
    try:
        assert unit.start() == (0, "")
    finally:
        paused_nas.resume()
    assert unit.stop() == (0, "")
