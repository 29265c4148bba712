"""Data that is held back, and a release that knows nothing of it: the NAS has it first, or that does not serve."""

# ruff: noqa: F811 - a fixture of another module
from __future__ import annotations

import os
import subprocess

import pytest

from tests.faults.test_uncommitted import KIB, Scene, scene  # noqa: F401 - the fixture
from tests.faults.writer import Writer
from tests.releases.programs import FOLDERS, Alternation, runs
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.parametrize("alternation", [("this", "this")], indirect=True, ids=["this keeper, this daemon first"]),
    pytest.mark.parametrize("scene", [["write-behind=60s"]], indirect=True),
]


def hold_back(scene: Scene, writer: Writer) -> None:
    """A file and a log, of which the NAS has nothing."""
    writer.open("file")
    writer.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in range(20):
        scene.write(writer, "file", number * 4 * KIB, number, 4 * KIB)
        scene.write(writer, "log", -1, number, 100)
    assert (scene.behind / "file").stat().st_size == 0


def upgrade_to_former(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("EFC_BIN_DIR", str(FOLDERS["former"]))
        scene.keeper.efc("upgrade", str(scene.mount))


def test_an_upgrade_sends_it_first(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(scene.mount) as writer:
        hold_back(scene, writer)
        upgrade_to_former(scene, monkeypatch)
        assert runs(scene.keeper.daemon_pid(scene.mount), "former")
        scene.check()
        scene.write(writer, "log", -1, 99, 100)
        scene.write(writer, "file", 7, 98, 100)
        scene.keeper.efc("upgrade", str(scene.mount))
        scene.write(writer, "log", -1, 97, 100)
        for name in scene.files:
            writer.sync(name)
        scene.check()


def test_a_daemon_that_dies_is_followed_by_one_that_knows_of_it(
    scene: Scene,
    alternation: Alternation,
) -> None:
    with Writer(scene.mount) as writer:
        hold_back(scene, writer)
        alternation.next(scene.keeper.run_dir)
        scene.nas.pause()
        scene.keeper.replace_daemon(scene.mount)
        assert runs(scene.keeper.daemon_pid(scene.mount), "this")
        scene.nas.resume()
        for name in scene.files:
            writer.sync(name)
        scene.daemon_dies()
        wait_until(lambda: runs(scene.keeper.daemon_pid(scene.mount), "former"), what="a daemon of the former release")
        scene.write(writer, "log", -1, 99, 100)
        for name in scene.files:
            writer.sync(name)
        scene.check()


def test_an_upgrade_whose_data_the_nas_does_not_take_is_taken_back(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Writer(scene.mount) as writer:
        hold_back(scene, writer)
        scene.nas.pause()
        with pytest.raises(subprocess.CalledProcessError) as refused:
            upgrade_to_former(scene, monkeypatch)
        assert "the NAS has not taken written data in time" in refused.value.stderr
        scene.nas.resume()
        assert runs(scene.keeper.daemon_pid(scene.mount), "this")
        scene.write(writer, "log", -1, 99, 100)
        for name in scene.files:
            writer.sync(name)
        scene.check()
