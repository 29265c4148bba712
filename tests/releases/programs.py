"""Programs of two releases: where the former ones are, and which of them a session's daemon runs.

The former release is built from the git history (`tests/releases/build`); EFC_FORMER_BIN_DIR names another folder
of its programs.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from csi.node.keeper import Keeper
from csi.node.program import DaemonProgram, SealedProgram
from tests.support.paths import ROOT

_RELEASES = ROOT / ".tools" / "releases"
#: As `tests/releases/build` makes it.
_FORMER = Path(os.environ.get("EFC_FORMER_BIN_DIR", _RELEASES / "0.1.0" / "bin"))
_THIS = ROOT / ".venv" / "bin"

FOLDERS = {"former": _FORMER, "this": _THIS}


def efcd(release: str) -> Path:
    """The daemon's program of `former` or `this` release. Raises FileNotFoundError if it is not built."""
    path = FOLDERS[release] / "efcd"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make releases`, or set EFC_FORMER_BIN_DIR")
    return path


def mixed(*, keeper: str, daemon: str) -> Path:
    """A folder of programs, of one release but for the daemon's: the keeper looks beside itself."""
    folder = _RELEASES / "mixed" / f"{keeper}-keeper-{daemon}-daemon"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("efc", "efc-keeper", "efc-mount-helper", "efc-network", "efc-fs"):
        _copy(FOLDERS[keeper] / name, folder / name)
    _copy(efcd(daemon), folder / "efcd")
    return folder


def _copy(source: Path, target: Path) -> None:
    fresh = target.with_suffix(".new")
    shutil.copy2(source.resolve(), fresh)
    fresh.rename(target)


@dataclass
class Alternation:
    """Which release the daemons run that a keeper starts: each `next` is the other's turn."""

    current: str

    def next(self, run_dir: Path) -> str:
        """Has the keeper start its next daemons from the other release; its name."""
        self.current = "this" if self.current == "former" else "former"
        program = DaemonProgram(keeper=Keeper(str(run_dir)), program=sealed(self.current))
        asyncio.run(program.install())
        return self.current


@functools.cache
def sealed(release: str) -> SealedProgram:
    """The daemon's program of a release, read once, and before a test has files open on a mount.

    To read it starts a process, which closes what it inherits before it is another program. That waits for the NAS if
    a file has data to be committed, and so for the proxy in this process, which waits for the interpreter's lock.
    """
    return SealedProgram.read(str(efcd(release)))


def runs(pid: int, release: str) -> bool:
    """Whether this process runs the daemon's program of the release; two releases differ in their size at least."""
    sizes = {name: efcd(name).stat().st_size for name in FOLDERS}
    assert len(set(sizes.values())) == len(sizes), "both releases are of the same size: which one runs cannot be told"
    try:
        return Path(f"/proc/{pid}/exe").stat().st_size == sizes[release]
    except (FileNotFoundError, ProcessLookupError):
        return False
