"""The same promise on older kernels: daemons are killed that behave as on Linux 5.10 and 6.1.

Those do not deliver requests again. 6.18 stands beside them, for the same work with all that the kernel has.
FAULTS_KILLS says how often in each storm.
"""

from __future__ import annotations

import pytest

from tests.faults import figures
from tests.faults.storms import KILLS, Strike, kill, storm, upgrade
from tests.support.nas import Nas

#: As on these kernels, and whether a killed daemon's requests have to be replayed there.
MASKS = {"5.10": True, "6.1": True, "6.18": False}
STORMS: dict[str, Strike] = {
    "daemon": kill(daemons=True),
    "keeper and daemon": kill("keeper", daemons=True),
    "upgrade": upgrade,
}
#: What a daemon logs that executes what its predecessor had read.
_REPLAYS = "requests of a predecessor go on"


@pytest.mark.timeout(180 + 10 * KILLS)
@pytest.mark.parametrize("name", STORMS)
@pytest.mark.parametrize("mask", MASKS)
def test_nobody_notices(nas: Nas, mask: str, name: str) -> None:
    outcome = storm(nas, STORMS[name], kills=KILLS, mount_options=(f"fuse-features={mask}",))
    figures.record("storms", f"{name}, as on {mask}", outcome.as_figures())
    outcome.check()
    assert outcome.kills == KILLS
    if name != "upgrade":  # a daemon that drains leaves nothing, or nearly nothing
        assert (_REPLAYS in outcome.log) is MASKS[mask]
