"""The same promise on older kernels: daemons are killed that behave as on Linux 5.10 and 6.1.

Those do not deliver requests again. 6.18 stands beside them, for the same work with all that the kernel has.
FAULTS_KILLS says how often in each storm.
"""

from __future__ import annotations

import random
import subprocess
import time

import pytest

from tests.faults.test_storms import CALM_S_MAX, KILLS, STORMS, WORKERS, workers
from tests.support.driver import Driver, static_volume
from tests.support.nas import Nas

#: As on these kernels, and whether a killed daemon's requests have to be replayed there.
MASKS = {"5.10": True, "6.1": True, "6.18": False}


@pytest.mark.timeout(120 + 15 * KILLS)
@pytest.mark.parametrize("storm", ["daemon", "keeper and daemon", "upgrade"])
@pytest.mark.parametrize("mask", MASKS)
def test_nobody_notices(nas: Nas, mask: str, storm: str) -> None:
    folder = nas.export_folder() / "masked"
    folder.mkdir(exist_ok=True)
    moments = random.Random(mask + storm)  # the same moments each time
    with Driver(source=nas.url) as driver:
        volume = static_volume("masked", nas.url_of("export/masked"), **{"fuse-features": mask})
        target = driver.target()
        driver.publish(volume, target)
        with workers(target) as results:
            for _ in range(KILLS):
                time.sleep(moments.uniform(0, CALM_S_MAX))
                STORMS[storm](driver)
            time.sleep(CALM_S_MAX)
        log = driver.log("keeper").read_text(errors="replace")
        driver.unpublish(volume, target)
    for number in range(WORKERS):
        subprocess.run(["rm", "-rf", folder / f"worker-{number}"], check=True)
    turns = sum(int(str(result["turns"])) for result in results)
    longest_ms = max(float(str(result["longest_turn_ms"])) for result in results)
    print(f"{mask}, {storm}: {KILLS} kills, {turns} turns, the longest {longest_ms} ms")
    errors = [error for result in results for error in result["errors"]]  # type: ignore[attr-defined]
    assert errors == [], f"{len(errors)} errors"
    assert ("requests of a predecessor go on" in log) or not MASKS[mask] or storm == "upgrade"
