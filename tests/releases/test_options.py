"""Options change, and counters go on, whatever releases keeper and daemon are of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.test_options import Counters
from tests.releases.programs import FOLDERS, Alternation, mixed, runs
from tests.support.keeper import Keeper
from tests.support.nas import Nas

KILLS = 4


def kill(keeper: Keeper, target: Path, alternation: Alternation) -> None:
    """The next daemon is of the other release."""
    release = alternation.next(keeper.run_dir)
    keeper.replace_daemon(target)
    assert runs(keeper.daemon_pid(target), release)


def test_options_change_in_place_only_where_keeper_and_daemon_know_how(
    nas: Nas, alternation: Alternation, monkeypatch: pytest.MonkeyPatch
) -> None:
    nas.export_folder()
    with Keeper() as keeper:
        stays = os.environ["EFC_BIN_DIR"].endswith("this-keeper-this-daemon")
        target = keeper.mount(nas.url, options=["attr-ttl=5s"])
        first = keeper.status(target)
        monkeypatch.setenv("EFC_BIN_DIR", str(FOLDERS["this"]))  # the command and the program beside it
        keeper.efc("upgrade", str(target), "-o", "attr-ttl=7s")
        alternation.current = "this"
        status = keeper.status(target)
        assert status["options"]["attr_ttl_ms"] == 7000
        assert (status["pid"] == first["pid"], status["restarts"]) == (stays, 0 if stays else 1)
        for _ in range(2):
            kill(keeper, target, alternation)
            assert keeper.status(target)["options"]["attr_ttl_ms"] == 7000
        (target / "file").write_text("content")
        keeper.unmount(target)


def test_counters_go_on_under_a_keeper_of_this_release(
    nas: Nas, alternation: Alternation, monkeypatch: pytest.MonkeyPatch
) -> None:
    nas.export_folder()
    with Keeper() as keeper:
        target = keeper.mount(nas.url)
        (target / "first").write_bytes(bytes(1 << 16))
        monkeypatch.setenv("EFC_BIN_DIR", str(mixed(keeper="this", daemon=alternation.current)))
        keeper.kill()
        keeper.start()
        counters = Counters(keeper, target)
        counters.look()
        assert counters.last["bytes_written"] >= 1 << 16, "what the daemon has counted under an earlier keeper"
        for number in range(2, KILLS + 2):
            kill(keeper, target, alternation)
            (target / f"file-{number}").write_bytes(bytes(1 << 16))
            counters.look()
            assert counters.last["bytes_written"] >= number << 16
        keeper.unmount(target)


def test_what_the_keeper_does_not_know_is_said(nas: Nas, tmp_path: Path) -> None:
    nas.export_folder()
    with Keeper() as keeper:
        is_former = os.environ["EFC_BIN_DIR"].rpartition("/")[2].startswith("former")
        options = "consistency=sealed,prefetch=off,threads=2"
        command = [FOLDERS["this"] / "efc", "mount", nas.url, tmp_path, "-o", options]
        environment = dict(os.environ, RUN_DIR=str(keeper.run_dir))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        keeper.efc("umount", str(tmp_path))
    said, _, names = done.stderr.strip().partition("the keeper is of an earlier release and knows no ")
    unknown = set(names.split(", ")) & {"consistency", "prefetch", "threads"}
    assert (said, unknown) == ((f"{tmp_path}: ", {"consistency", "prefetch"}) if is_former else ("", set()))
