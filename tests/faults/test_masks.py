"""The same promise on older kernels: daemons are killed that behave as on Linux 5.10 and 6.1.

Those do not deliver requests again. 6.18 stands beside them, for the same work with all that the kernel has.
FAULTS_KILLS says how often in each storm.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.faults import figures
from tests.faults.block_storm import REPLAYS, block_storm
from tests.faults.storms import DAEMON_KILLS, KILLS, Strike, kill, kill_in_a_row, storm, upgrade
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import stop_process

#: As on these kernels, and whether a killed daemon's requests have to be replayed there.
MASKS = {"5.10": True, "6.1": True, "6.18": False}
STORMS: dict[str, tuple[Strike, int]] = {
    "daemon": (kill(daemons=True), DAEMON_KILLS),
    "daemons in a row": (kill_in_a_row, KILLS),
    "keeper and daemon": (kill("keeper", daemons=True), KILLS),
    "upgrade": (upgrade, KILLS),
}


@pytest.mark.timeout(180 + 10 * DAEMON_KILLS)
@pytest.mark.parametrize("name", STORMS)
@pytest.mark.parametrize("mask", MASKS)
def test_nobody_notices(nas: Nas, mask: str, name: str) -> None:
    strike, kills = STORMS[name]
    outcome = storm(nas, strike, kills=kills, mount_options=(f"fuse-features={mask}",))
    figures.record("storms", f"{name}, as on {mask}", outcome.as_figures())
    outcome.check()
    assert outcome.kills == kills
    if name != "upgrade":  # a daemon that drains leaves nothing, or nearly nothing
        assert (REPLAYS in outcome.log) is MASKS[mask]


@pytest.mark.timeout(120 + 15 * KILLS)
@pytest.mark.parametrize("mask", MASKS)
def test_no_write_is_lost_or_executed_late(nas: Nas, mask: str) -> None:
    outcome = block_storm(nas, mask, kills=KILLS, replays=MASKS[mask], options=[f"fuse-features={mask}"])
    assert outcome.errors == []
    assert outcome.turns > 0
    assert (REPLAYS in outcome.log) is MASKS[mask]


@pytest.mark.parametrize("mask", MASKS)
def test_what_a_hung_daemon_holds_is_answered(nas: Nas, mask: str) -> None:
    folder = nas.export_folder() / f"hung-{mask}"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    url, options = nas.url_of(f"export/{folder.name}"), [f"fuse-features={mask}", "hang-limit=1s", "attr-ttl=0s"]
    with Keeper() as keeper, keeper.mounted(url, options=options) as mount:
        # The keeper's beats are about a file that is open.
        command = ["sh", "-c", 'exec 3<"$0"; echo open; exec cat', mount / "file"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"open\n"
            (daemon,) = keeper.daemon_pids()
            stop_process(daemon)
            command = ["cat", mount / "file", mount / "nothing"]
            read = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            holder.kill()
        assert read.stdout == "content"
        assert read.stderr.endswith("No such file or directory\n")
        assert keeper.daemon_pids() != [daemon]
