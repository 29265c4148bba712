"""A dataset's directory is replaced on the NAS while its daemon runs: new pods get what is there now.

It is replaced by another client of the NAS, `efc-fs`: behind the server's back, Ganesha's own cache would not know it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from csi._proto import csi_pb2
from tests.support.driver import Driver, refused, static_volume
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import wait_until


def on_nas(nas: Nas, command: str, *arguments: str, content: str = "") -> None:
    flags = [argument for argument in arguments if argument.startswith("-")]
    paths = [argument for argument in arguments if not argument.startswith("-")]
    command_line = [str(program("efc-fs")), command, *flags, nas.url, *paths]
    subprocess.run(command_line, input=content.encode(), check=True, capture_output=True, timeout=30)


def make(nas: Nas, content: str) -> None:
    on_nas(nas, "mkdir", "ds")
    on_nas(nas, "put", "ds/file", content=content)


def move(nas: Nas) -> None:
    on_nas(nas, "mv", "ds", "ds.old")


def remove(nas: Nas) -> None:
    on_nas(nas, "rm", "--recursive", "ds")


@pytest.fixture(autouse=True)
def dataset(nas: Nas, driver: Driver) -> Iterator[None]:
    """A directory of the export, with "old" in its file; what a test publishes it must unpublish."""
    make(nas, "old")
    yield
    for left in nas.export_folder().iterdir():
        on_nas(nas, "rm", "--recursive", left.name)
    wait_until(lambda: not driver.daemons(), what="the idle daemons to be released")


def volume_of(nas: Nas, name: str) -> csi_pb2.Volume:
    return static_volume(name, nas.url.replace("?", "/ds?"))


def condition(driver: Driver, volume: csi_pb2.Volume, target: Path) -> csi_pb2.VolumeCondition:
    return driver.stats(volume, target).volume_condition


@pytest.mark.parametrize("away", [move, remove])
def test_new_pods_get_the_new_directory(driver: Driver, nas: Nas, away: Callable[[Nas], None]) -> None:
    volume, old, new, third = volume_of(nas, "ds"), driver.target(), driver.target(), driver.target()
    driver.publish(volume, old)
    assert (old / "file").read_text() == "old"
    (first,) = driver.daemons()
    away(nas)
    make(nas, "new")
    driver.publish(volume, new)
    assert (new / "file").read_text() == "new"
    if away is move:
        assert (old / "file").read_text() == "old", "who runs keeps what it was given"
    assert len(driver.daemons()) == 2
    driver.crash("node")
    driver.publish(volume, third)
    assert (third / "file").read_text() == "new"
    assert len(driver.daemons()) == 2, "the new directory has one daemon"
    assert "replaced" in condition(driver, volume, old).message
    assert condition(driver, volume, old).abnormal
    for target in (new, third):
        assert not condition(driver, volume, target).abnormal
    driver.unpublish(volume, old)
    wait_until(lambda: len(driver.daemons()) == 1, what="the old directory's daemon to be released")
    again = driver.target()
    driver.publish(volume, again)
    assert (again / "file").read_text() == "new"
    assert [daemon.pid for daemon in driver.daemons()] != [first.pid]
    assert len(driver.daemons()) == 1, "who serves the directory of today is shared"
    for target in (new, third, again):
        driver.unpublish(volume, target)


def test_a_directory_that_is_gone_and_comes_back(driver: Driver, nas: Nas) -> None:
    volume, old = volume_of(nas, "gone"), driver.target()
    driver.publish(volume, old)
    move(nas)
    target = driver.target()
    for _ in range(2):
        with refused(grpc.StatusCode.NOT_FOUND) as message:
            driver.publish(volume, target)
        assert "ds" in message[0]
    assert not target.exists()
    assert "gone" in condition(driver, volume, old).message
    on_nas(nas, "mv", "ds.old", "ds")
    wait_until(lambda: _publishes(driver, volume, target), what="the answer of a moment ago to be forgotten")
    assert (target / "file").read_text() == "old"
    assert len(driver.daemons()) == 1
    assert not condition(driver, volume, old).abnormal
    for one in (old, target):
        driver.unpublish(volume, one)


def _publishes(driver: Driver, volume: csi_pb2.Volume, target: Path) -> bool:
    try:
        driver.publish(volume, target)
    except grpc.RpcError:
        return False
    return True


def test_an_unused_daemon_of_a_removed_directory(driver: Driver, nas: Nas) -> None:
    """Its idle grace goes on while pods start on the new directory."""
    volume, target = volume_of(nas, "unused"), driver.target()
    driver.publish(volume, target)
    driver.unpublish(volume, target)
    (first,) = driver.daemons()
    remove(nas)
    make(nas, "new")
    for _ in range(3):
        driver.publish(volume, target)
        assert (target / "file").read_text() == "new"
        driver.unpublish(volume, target)
    driver.publish(volume, target)
    wait_until(lambda: first.pid not in [daemon.pid for daemon in driver.daemons()], what="its release")
    assert (target / "file").read_text() == "new"
    driver.unpublish(volume, target)
