"""`efc warmup` of what it refuses, in one line and with status 2, and `efc top`; on real mounts without workers."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import clean_environment
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import wait_until

_LIMIT_S = 60.0
MIB = 1 << 20


def efc(keeper: Keeper, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("efc"), *arguments], env=clean_environment(RUN_DIR=str(keeper.run_dir)), input=text,
        capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip


def refused(keeper: Keeper, *arguments: str, text: str = "") -> str:
    done = efc(keeper, "warmup", *arguments, text=text)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    return done.stderr


def test_what_is_refused(nas: Nas, keeper: Keeper, tmp_path: Path) -> None:
    (nas.export_folder() / "file").write_bytes(b"x" * MIB)
    assert "name a PATH" in refused(keeper)
    assert "is not on a mount of EFC" in refused(keeper, str(tmp_path))
    assert "is not on a mount of EFC" in refused(keeper, "/")
    with keeper.mounted(nas.url) as mount:
        assert "has no caches (options workers, cache-size)" in refused(keeper, str(mount))
        assert "has no local store (options cache-dir, cache-size)" in refused(keeper, str(mount), "--to=local")
        assert "has no workers (options workers" in refused(keeper, str(mount), "--to=workers")
        assert "--to workers needs one" in refused(keeper, str(mount), "--to=workers", "--force")
        assert "is not on a mount of EFC" in refused(keeper, str(mount), str(tmp_path / "x"))
        assert "is not on a mount of EFC" in refused(keeper, "--list", "-", text=f"{mount}\n/etc/passwd\n")
        assert "cannot read the list" in refused(keeper, "--list", str(tmp_path / "none"))
        with Keeper() as other:
            assert "is not served by a keeper in" in refused(other, str(mount))
    assert not (keeper.run_dir / "warmup").exists(), "what is refused leaves nothing"


def test_a_link_and_a_bind_mount_lead_to_the_mount(nas: Nas, keeper: Keeper, tmp_path: Path) -> None:
    (nas.export_folder() / "below").mkdir()
    (nas.export_folder() / "below" / "file").write_bytes(b"x" * MIB)
    with keeper.mounted(nas.url) as mount:
        (tmp_path / "link").symlink_to(mount)
        bound = tmp_path / "bound"
        bound.mkdir()
        subprocess.run(["mount", "--bind", mount / "below", bound], check=True, timeout=10)
        try:
            for path in (tmp_path / "link" / "below", bound, bound / "file"):
                done = efc(keeper, "warmup", "--force", "--json", "--passes=1", str(path))
                assert json.loads(done.stdout)["files"] == 1, done.stderr
        finally:
            subprocess.run(["umount", bound], check=True, timeout=10)
        (nas.export_folder() / "inner").symlink_to("below")
        done = efc(keeper, "warmup", "--force", str(mount / "inner"))
        assert (done.returncode, "not followed" in done.stderr) == (1, True)


def test_a_dead_mount_is_refused(nas: Nas, keeper: Keeper) -> None:
    mount = keeper.mount(nas.url)
    daemon = keeper.daemon_pid(mount)
    keeper.kill()
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{daemon}").exists(), what="the daemon to end")
    said = refused(keeper, str(mount), "--force")
    assert "not connected" in said
    assert f"efc mount {shlex.quote(nas.url)} {mount}" in said
    keeper.start()


def test_a_nas_that_does_not_answer_is_named(paused_nas: Nas) -> None:
    with Keeper() as keeper, keeper.mounted(paused_nas.url) as mount:
        paused_nas.pause()
        try:
            said = refused(keeper, str(mount), "--force")
        finally:
            paused_nas.resume()
    assert "the NAS has not answered for" in said or "nor does its NAS" in said, said
    assert "efc-mount-helper" not in said


def test_top_says_what_is_read(nas: Nas, keeper: Keeper) -> None:
    (nas.export_folder() / "file").write_bytes(os.urandom(64 * MIB))
    assert efc(keeper, "top", "--once", "--interval=100ms").stdout == "Nothing is mounted.\n"
    with keeper.mounted(nas.url) as mount, keeper.mounted(nas.url, options=["ro"]) as idle:
        command = [program("efc"), "top", "--once", "--json", "--interval=3s"]
        with subprocess.Popen(
            command, env=clean_environment(RUN_DIR=str(keeper.run_dir)), stdout=subprocess.PIPE, text=True
        ) as top:
            time.sleep(1.0)  # its first look
            assert len((mount / "file").read_bytes()) == 64 * MIB
            out, _ = top.communicate(timeout=_LIMIT_S)
        views: list[dict[str, Any]] = json.loads(out)
        assert [view["target"] for view in views] == [str(mount), str(idle)], "who reads most comes first"
        assert views[0]["read_bytes_per_second"] > 0
        assert views[0]["nas_calls_per_second"] > 0
        assert views[0]["levels"]["nas"] == 1
        assert views[0]["memory_bytes"] > MIB
        assert (views[1]["read_bytes_per_second"], views[1]["levels"]) == (0, {})
        lines = efc(keeper, "top", "--once", "--interval=100ms").stdout.splitlines()
        assert lines[0].split()[:2] == ["SOURCE", "STATE"]
        assert len(lines) == 3
    keeper.kill()
    done = efc(keeper, "top", "--once")
    assert (done.returncode, done.stdout) == (0, f"Nothing is mounted (run directory {keeper.run_dir}).\n")
    keeper.start()


@pytest.mark.parametrize("ending", ["q", "\x03", "SIGTERM"])
def test_top_leaves_the_terminal_as_it_was(nas: Nas, keeper: Keeper, ending: str) -> None:
    """Ctrl-C is the terminal's own signal: the command leads its session there."""
    with keeper.mounted(nas.url):
        ours, theirs = os.openpty()
        before = termios.tcgetattr(theirs)
        command = [program("efc"), "top", "--interval=200ms", "--run-dir", str(keeper.run_dir)]
        process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs,
            env=clean_environment(TERM="xterm"),
        )  # fmt: skip
        shown = ""
        while "serving" not in shown:
            shown += _shown(ours)
        if ending == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            os.write(ours, ending.encode())
        while "\x1b[?1049l" not in shown:
            shown += _shown(ours)
        assert process.wait(_LIMIT_S) == {"q": 0, "\x03": 130, "SIGTERM": 143}[ending]
        assert termios.tcgetattr(theirs) == before
        assert "\x1b[?25h" in shown
        os.close(ours)
        os.close(theirs)


def _shown(descriptor: int) -> str:
    assert select.select([descriptor], [], [], _LIMIT_S)[0], "it shows nothing"
    return os.read(descriptor, 1 << 16).decode(errors="replace")
