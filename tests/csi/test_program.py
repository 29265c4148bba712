"""The node plugin brings the daemons' program: a rollout of it changes what the next daemons run, and nothing else."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.driver import Driver, static_volume
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import wait_until

_RELEASE, _NEXT_RELEASE = b"0.1.0", b"0.9.9"
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


def version_of(pid: int) -> bytes:
    """The version in the program that a process runs."""
    content = Path(f"/proc/{pid}/exe").read_bytes()
    return _NEXT_RELEASE if _NEXT_RELEASE in content else _RELEASE


def next_release(folder: Path) -> None:
    """The daemon's program with the next version in all places, where the file is only the node plugin's."""
    (folder / "efcd").unlink()
    (folder / "efcd").write_bytes(program("efcd").read_bytes().replace(_RELEASE, _NEXT_RELEASE))
    (folder / "efcd").chmod(0o755)


def test_a_rollout_changes_what_the_next_daemon_runs(rollout: tuple[Driver, Path], nas: Nas) -> None:
    driver, folder = rollout
    assert _RELEASE in program("efcd").read_bytes()
    volume, target = static_volume(f"v-{uuid.uuid4()}", nas.url), driver.target()
    driver.publish(volume, target)
    (first,) = driver.daemons()
    assert os.readlink(f"/proc/{first.pid}/exe") == _SEALED
    assert version_of(first.pid) == _RELEASE

    next_release(folder)
    driver.crash("node")
    with (target / "open").open("w") as file:
        file.write("before")
        wait_until(lambda: "0.9.9 from now on" in driver.log("keeper").read_text(), what="the program's arrival")
        assert [daemon.pid for daemon in driver.daemons()] == [first.pid], "a running daemon was touched"
        os.kill(first.pid, 9)
        file.write(" and after")
    wait_until(lambda: driver.daemons() and driver.daemons()[0].pid != first.pid, what="the successor")
    (successor,) = driver.daemons()
    assert version_of(successor.pid) == _NEXT_RELEASE
    assert (target / "open").read_text() == "before and after"
    driver.unpublish(volume, target)


def test_a_new_keeper_gets_the_program_before_it_starts_a_daemon(rollout: tuple[Driver, Path], nas: Nas) -> None:
    driver, folder = rollout
    next_release(folder)
    driver.crash("node")
    wait_until(lambda: "0.9.9 from now on" in driver.log("keeper").read_text(), what="the program's arrival")
    driver.crash("keeper")
    volume, target = static_volume(f"v-{uuid.uuid4()}", nas.url), driver.target()
    driver.publish(volume, target)
    (daemon,) = driver.daemons()
    assert version_of(daemon.pid) == _NEXT_RELEASE
    driver.unpublish(volume, target)


def test_a_program_that_does_not_run_stops_nothing(rollout: tuple[Driver, Path], nas: Nas) -> None:
    """The node plugin serves, and daemons run the keeper's own program."""
    driver, folder = rollout
    driver.crash("keeper")
    (folder / "efcd").unlink()
    # Prints its version here, as a file; from sealed memory it is a script that nobody finds again.
    (folder / "efcd").write_text(f"#!/bin/sh\necho {_NEXT_RELEASE.decode()}\n")
    (folder / "efcd").chmod(0o755)
    driver.crash("node")
    volume, target = static_volume(f"v-{uuid.uuid4()}", nas.url), driver.target()
    driver.publish(volume, target)
    assert "it refuses 0.9.9" in driver.log("node").read_text()
    driver.crash("keeper")
    driver.unpublish(volume, target)
    other = driver.target()
    driver.publish(volume, other)
    (daemon,) = driver.daemons()
    assert os.readlink(f"/proc/{daemon.pid}/exe") == str(program("efcd").resolve())
    driver.unpublish(volume, other)
