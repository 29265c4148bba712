"""How long a read waits when its daemon is killed or upgraded: `python -m bench pauses`, as `make bench` does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

from tests.faults.pauses import filled_mount, kill_daemon, measure, upgrade_daemon
from tests.support.nas import Nas
from tests.support.paths import ROOT

STRIKES = 20
_FILL_STATE = ("cargo", "build", "--quiet", "--release", "--locked", "--package=efc-state", "--example=fill_state")


def measure_all() -> Iterator[tuple[str, dict[str, Any]]]:
    """Both kinds of strikes, with their names."""
    subprocess.run(_FILL_STATE, cwd=ROOT, check=True)
    with Nas() as nas, filled_mount(nas) as mount:
        for name, strike in (("daemon killed", kill_daemon), ("daemon upgraded", upgrade_daemon)):
            yield name, measure(mount, name, strike, count=STRIKES)
