"""The units of deploy/systemd, by systemd's own check: it knows each word of theirs, and what they run is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_UNITS = ROOT / "deploy" / "systemd"
_INSTALLED = "/opt/efc/bin"


def _checked(folder: Path, names: list[str]) -> str:
    """What systemd has to say of these units."""
    run = subprocess.run(
        ["systemd-analyze", "verify", *(str(folder / name) for name in names)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return "".join(line for line in run.stderr.splitlines(keepends=True) if str(folder) in line or "efc-" in line)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_understands_each_unit(tmp_path: Path) -> None:
    units = sorted(_UNITS.iterdir())
    for unit in units:
        text = unit.read_text()
        assert _INSTALLED in text
        (tmp_path / unit.name).write_text(text.replace(_INSTALLED, str(ROOT / ".venv" / "bin")))
    names = [unit.name.replace("@", "@data") for unit in units]
    assert _checked(tmp_path, names) == ""
    keeper = tmp_path / "efc-keeper.service"
    keeper.write_text(keeper.read_text().replace("Restart=", "Restarts=").replace("/bin/efc-keeper", "/bin/no-keeper"))
    said = _checked(tmp_path, [keeper.name])
    assert "Restarts" in said
    assert "no-keeper" in said
