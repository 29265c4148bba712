"""The node plugin brings the daemons' program: after a rollout of it all daemons run that, and nobody notices."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi._proto import csi_pb2
from tests.support.driver import Driver, static_volume
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import wait_until
from tests.support.releases import NEXT_RELEASE, RELEASE, as_next_release

#: The node plugin looks at the daemons more than once in this time.
_LOOKS_S = 2.5
#: A saved state begins with this number, as it stands in a program of this machine.
_STATE_MAGIC = b"EFCSTATE"[::-1]
_SEALED = "/memfd:efcd (deleted)"


@pytest.fixture
def rollout(nas: Nas, tmp_path: Path) -> Iterator[tuple[Driver, Path]]:
    """A driver of its own whose node plugin finds its programs in a folder."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("efc", "efc-keeper", "efc-mount-helper", "efcd"):
        (folder / name).symlink_to(program(name))
    with Driver(source=nas.url, node_programs=folder) as driver:
        yield driver, folder


def version_of(pid: int) -> str:
    """The version in the program that a process runs; empty if it has ended."""
    try:
        content = Path(f"/proc/{pid}/exe").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return NEXT_RELEASE if NEXT_RELEASE.encode() in content else RELEASE


def next_release(folder: Path) -> None:
    """The daemon's program with the next version in all places, where the file is only the node plugin's."""
    replace_program(folder, as_next_release(program("efcd").read_bytes()))


def replace_program(folder: Path, content: bytes) -> None:
    (folder / "efcd").unlink()
    (folder / "efcd").write_bytes(content)
    (folder / "efcd").chmod(0o755)


def publish_two(driver: Driver, nas: Nas) -> list[tuple[csi_pb2.Volume, Path]]:
    """Volumes with a daemon each: their options differ."""
    volumes = [
        (static_volume(f"v-{uuid.uuid4()}", nas.url, connections=connections), driver.target())
        for connections in ("2", "3")
    ]
    for volume, target in volumes:
        driver.publish(volume, target)
    return volumes


def test_a_rollout_upgrades_running_daemons(rollout: tuple[Driver, Path], nas: Nas) -> None:
    driver, folder = rollout
    volumes = publish_two(driver, nas)
    former = driver.daemons()
    assert [os.readlink(f"/proc/{daemon.pid}/exe") for daemon in former] == [_SEALED] * 2
    assert [version_of(daemon.pid) for daemon in former] == [RELEASE] * 2

    target = volumes[0][1]
    with (target / "open").open("w", buffering=1) as file:
        file.write("before\n")
        next_release(folder)
        driver.crash("node")
        wait_until(
            lambda: [version_of(daemon.pid) for daemon in driver.daemons()] == [NEXT_RELEASE] * 2,
            what="the daemons of the next release",
        )
        file.write("and after\n")
    assert (target / "open").read_text() == "before\nand after\n"
    time.sleep(_LOOKS_S)
    assert driver.log("node").read_text().count(f"upgraded from {RELEASE} to {NEXT_RELEASE}") == 2, (
        "each is upgraded once"
    )
    for volume, target in volumes:
        driver.unpublish(volume, target)


def test_a_release_that_cannot_take_over_is_refused_once(rollout: tuple[Driver, Path], nas: Nas) -> None:
    """One that knows saved states by another beginning; nothing is touched, and nothing tried again."""
    driver, folder = rollout
    volumes = publish_two(driver, nas)
    former = [daemon.pid for daemon in driver.daemons()]
    content = as_next_release(program("efcd").read_bytes())
    assert _STATE_MAGIC in content
    replace_program(folder, content.replace(_STATE_MAGIC, b"ETATSXXX"))
    driver.crash("node")
    refusal = f"no more daemons are upgraded to {NEXT_RELEASE}"
    wait_until(lambda: refusal in driver.log("node").read_text(), what="the refusal")
    time.sleep(_LOOKS_S)
    assert driver.log("node").read_text().count("the program cannot take") == 1
    assert [daemon.pid for daemon in driver.daemons()] == former
    for volume, target in volumes:
        driver.unpublish(volume, target)


def test_a_new_keeper_gets_the_program_before_it_starts_a_daemon(rollout: tuple[Driver, Path], nas: Nas) -> None:
    driver, folder = rollout
    next_release(folder)
    driver.crash("node")
    wait_until(lambda: f"{NEXT_RELEASE} from now on" in driver.log("keeper").read_text(), what="the program's arrival")
    driver.crash("keeper")
    volume, target = static_volume(f"v-{uuid.uuid4()}", nas.url), driver.target()
    driver.publish(volume, target)
    (daemon,) = driver.daemons()
    assert version_of(daemon.pid) == NEXT_RELEASE
    driver.unpublish(volume, target)


def test_a_program_that_does_not_run_stops_nothing(rollout: tuple[Driver, Path], nas: Nas) -> None:
    """The node plugin serves, and daemons run the keeper's own program."""
    driver, folder = rollout
    driver.crash("keeper")
    (folder / "efcd").unlink()
    # Prints its version here, as a file; from sealed memory it is a script that nobody finds again.
    (folder / "efcd").write_text(f"#!/bin/sh\necho {NEXT_RELEASE}\n")
    (folder / "efcd").chmod(0o755)
    driver.crash("node")
    volume, target = static_volume(f"v-{uuid.uuid4()}", nas.url), driver.target()
    driver.publish(volume, target)
    assert f"it refuses {NEXT_RELEASE}" in driver.log("node").read_text()
    driver.crash("keeper")
    driver.unpublish(volume, target)
    other = driver.target()
    driver.publish(volume, other)
    (daemon,) = driver.daemons()
    assert os.readlink(f"/proc/{daemon.pid}/exe") == str(program("efcd").resolve())
    driver.unpublish(volume, other)
