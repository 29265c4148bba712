"""The suite's runner: a signal ends it together with everything that it started."""

from __future__ import annotations

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


def _sleepers(marker: str) -> list[int]:
    return [process.pid for process in processes() if process.command == f"sleep {marker}" and process.state != "Z"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_sandbox_too(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    marker = f"{4000 + number}.25"
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "results"), _SLEEPER.format(marker=marker)]
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
