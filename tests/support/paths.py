"""Where things are: the checkout, and the programs under test.

The programs come from `.venv/bin` as `make setup` installs them; `EFC_BIN_DIR` names another folder.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
RESULTS = ROOT / "results"
TOOLS = ROOT / ".tools" / "bin"


def program(name: str, folder: Path | None = None) -> Path:
    """The path of one of our programs, for example `efc` or `efc-keeper`: of `folder` if one is given.

    Raises FileNotFoundError, naming the way to mend it, when it is not installed.
    """
    path = (folder or Path(os.environ.get("EFC_BIN_DIR", ROOT / ".venv" / "bin"))) / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make setup`, or set EFC_BIN_DIR")
    return path
