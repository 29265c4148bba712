"""`efc status`, `doctor`, `umount` and `upgrade` where something is wrong: what they say is so, and programs can tell.

Real keepers, daemons and NAS, all of the test's own: each is killed or stopped.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.environment import clean_environment
from tests.support.keeper import Keeper
from tests.support.mounts import small_disk
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import wait_until
from tests.support.workers import Worker, new_key

_LIMIT_S = 60.0


@pytest.fixture
def keeper(nas: Nas) -> Iterator[Keeper]:
    """One of the test's own."""
    with Keeper() as running:
        yield running


def efc(keeper: Keeper, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("efc"), *arguments], env=clean_environment(RUN_DIR=str(keeper.run_dir)), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip


def findings(keeper: Keeper, check: str = "mounts") -> list[dict[str, str]]:
    """What the doctor says of mounts."""
    found = json.loads(efc(keeper, "doctor", "--json").stdout)
    return [finding for finding in found if finding["check"] == check]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the daemon to end", limit_s=_LIMIT_S)


def test_the_doctor_says_that_workers_are_dead(nas: Nas, keeper: Keeper) -> None:
    with Worker() as worker:
        options = [f"workers={worker.endpoint}", f"workers-key={new_key(keeper.folder)}"]
        with keeper.mounted(nas.url, options=options) as mount:

            def levels() -> list[str]:
                return [finding["level"] for finding in findings(keeper)]

            wait_until(lambda: levels() == ["ok"], what="the worker to answer", limit_s=_LIMIT_S, interval_s=0.5)
            worker.kill()
            wait_until(lambda: levels() == ["warn"], what="the doctor to warn", limit_s=_LIMIT_S, interval_s=0.5)
            (finding,) = findings(keeper)
            assert f"{nas.url} at {mount}: 1 of 1 workers do not answer" in finding["message"]
            assert finding["mend"]
            assert efc(keeper, "doctor").stdout.splitlines()[-1].startswith("0 fail, ")
            worker.start()  # its end is that of the block


def test_the_doctor_says_that_daemons_die_again_and_again_and_upgrades_are_none(nas: Nas, keeper: Keeper) -> None:
    with keeper.mounted(nas.url) as mount:
        for _ in range(3):
            efc(keeper, "upgrade", str(mount))
        (finding,) = findings(keeper)
        assert (finding["level"], "3 restarts, 3 of them by upgrades" in finding["message"]) == ("ok", True), finding
        for _ in range(3):
            keeper.replace_daemon(mount)
        (finding,) = findings(keeper)
        assert (finding["level"], "killed by signal 9" in finding["message"]) == ("warn", True), finding


def test_a_dead_mount_is_told_of_with_what_mends_it(nas: Nas, keeper: Keeper) -> None:
    assert efc(keeper, "status").returncode == 0
    mount, other = keeper.mount(nas.url), keeper.mount(nas.url, options=["ro"])
    daemon = keeper.daemon_pid(mount)
    keeper.kill()
    done = efc(keeper, "status", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, [])
    assert f"but these targets are mounted: {mount}, {other}. " in done.stderr
    assert [finding["level"] for finding in findings(keeper)] == ["warn", "warn"]

    kill(daemon)
    done, command = efc(keeper, "status"), f"efc mount {shlex.quote(nas.url)} {mount}"
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{mount} is dead" in done.stderr
    assert command in done.stderr
    assert f"but these targets are mounted: {other}. " in done.stderr
    dead, lives = findings(keeper)
    assert (dead["level"], dead["mend"].startswith(command)) == ("fail", True), dead
    assert (lives["level"], str(other) in lives["message"]) == ("warn", True), lives

    keeper.start()
    wait_until(lambda: str(other) in efc(keeper, "status").stdout, what="the other one to be taken over",
               limit_s=_LIMIT_S, interval_s=0.2)  # fmt: skip
    done = efc(keeper, "status")
    assert (done.returncode, f"{mount} is dead" in done.stderr) == (1, True), "also when a keeper answers"
    assert "no keeper answers" not in done.stderr
    assert ("fail", command) in [(one["level"], one["mend"].partition(",")[0]) for one in findings(keeper)]
    keeper.efc("mount", nas.url, str(mount))
    assert os.listdir(mount) == os.listdir(other)
    assert (efc(keeper, "status").returncode, efc(keeper, "status").stderr) == (0, "")
    for target in (mount, other):
        keeper.unmount(target)


def test_several_that_mount_a_dead_mount_anew_at_once_have_one(nas: Nas, keeper: Keeper) -> None:
    """None takes from the others what they have mounted, and maybe use."""
    mount = keeper.mount(nas.url)
    for round_ in range(1, 6):
        daemon = keeper.daemon_pid(mount)
        keeper.kill()
        kill(daemon)
        keeper.start()
        os.kill(keeper.pid, signal.SIGSTOP)
        mounting = [begin_efc(keeper, "mount", nas.url, str(mount)) for _ in range(3)]
        wait_until(lambda: all(map(asks_keeper, mounting)), what="them to ask the keeper", limit_s=_LIMIT_S)  # noqa: B023
        os.kill(keeper.pid, signal.SIGCONT)
        assert [process.communicate(timeout=_LIMIT_S)[1] for process in mounting] == [""] * 3
        assert keeper.log.read_text().count("mounted, connection") == 1 + round_
    keeper.unmount(mount)


def begin_efc(keeper: Keeper, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(program("efc")), *arguments], env=clean_environment(RUN_DIR=str(keeper.run_dir)),
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def asks_keeper(process: subprocess.Popen[str]) -> bool:
    """Whether it has a socket beside the two by which asyncio wakes itself up."""
    sockets = 0
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets += os.readlink(descriptor).startswith("socket:")
    return sockets > 2


def test_a_keeper_that_hangs_is_a_failure(nas: Nas, keeper: Keeper) -> None:
    os.kill(keeper.pid, signal.SIGSTOP)
    try:
        done = efc(keeper, "status", "--json")
        assert (done.returncode, done.stdout, "did not answer" in done.stderr) == (1, "", True)
        (finding,) = findings(keeper, "keeper")
        assert (finding["level"], "did not answer" in finding["message"]) == ("fail", True), finding
    finally:
        os.kill(keeper.pid, signal.SIGCONT)


def test_a_busy_mount_names_what_helps(nas: Nas, keeper: Keeper) -> None:
    (nas.export_folder() / "file").touch()
    with keeper.mounted(nas.url) as mount, (mount / "file").open():
        done = efc(keeper, "umount", str(mount))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"efc umount --force {mount}" in done.stderr


def test_a_mount_that_waits_for_its_nas_is_not_called_busy(paused_nas: Nas, keeper: Keeper) -> None:
    mount = keeper.mount(paused_nas.url)
    paused_nas.pause()
    reader = subprocess.Popen(["cat", mount / "file"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: keeper.status(mount)["state"] == "unresponsive_nas", what="the NAS to be missed",
                   limit_s=_LIMIT_S, interval_s=0.2)  # fmt: skip
        assert "the NAS has not answered for" in efc(keeper, "status").stdout
        done = efc(keeper, "umount", str(mount))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "the NAS has not answered for" in done.stderr
        assert f"efc umount --force {mount}" in done.stderr
        assert efc(keeper, "umount", "--force", str(mount)).returncode == 0
    finally:
        paused_nas.resume()
        reader.wait(_LIMIT_S)
    mount.rmdir()


def test_several_are_unmounted_and_what_stays_is_said(nas: Nas, keeper: Keeper) -> None:
    (nas.export_folder() / "file").touch()
    first, second, busy = (keeper.mount(nas.url, options=[option]) for option in ("ro", "soft", "threads=1"))
    with (busy / "file").open():
        done = efc(keeper, "umount", str(first), str(busy), str(keeper.folder), str(second))
        assert (done.returncode, done.stderr.count("\n")) == (1, 2)
        assert f"{str(keeper.folder)!r} is not a mount of EFC" in done.stderr
        assert not os.path.ismount(first)
        assert not os.path.ismount(second)
        keeper.efc("mount", nas.url, str(first))
        assert efc(keeper, "umount", "--all").returncode == 1
        assert not os.path.ismount(first)
    done = efc(keeper, "umount", "--all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for target in (first, second, busy):
        assert not os.path.ismount(target)
        target.rmdir()


def test_an_upgrade_says_whether_the_daemon_stayed(nas: Nas, keeper: Keeper) -> None:
    with keeper.mounted(nas.url) as mount:
        pid = keeper.daemon_pid(mount)
        said = keeper.efc("upgrade", str(mount), "-o", "attr-ttl=5s")
        assert f"process {pid} stays and has taken the options" in said
        said = keeper.efc("upgrade", str(mount))
        assert f"(process {pid}) -> " in said
        assert said.rstrip().endswith(f", process {keeper.daemon_pid(mount)}")
        assert keeper.daemon_pid(mount) != pid


def test_of_all_mounts_those_are_upgraded_that_are_found(nas: Nas, keeper: Keeper) -> None:
    """And what is said shows a terminal nothing but letters."""
    above = keeper.folder / "a\x1b[31m"
    above.mkdir()
    (above / "inner").mkdir()
    keeper.efc("mount", nas.url, str(above / "inner"))
    with keeper.mounted(nas.url) as plain:
        done = efc(keeper, "upgrade", "--all")
        assert (done.returncode, done.stderr, "\x1b" in done.stdout) == (0, "", False)
        assert "a\\x1b[31m/inner: " in done.stdout
        pid, moved = keeper.daemon_pid(plain), above.rename(keeper.folder / "a moved one")
        done = efc(keeper, "upgrade", "--all")
        assert (done.returncode, done.stderr.count("\n"), f"(process {pid}) -> " in done.stdout) == (1, 1, True), done
        assert f"a\\x1b[31m/inner is not upgraded: it is at '{moved}/inner'" in done.stderr
    moved.rename(above)
    keeper.efc("umount", str(above / "inner"))


def test_a_full_run_directory_keeps_no_keeper_from_its_mounts(nas: Nas, keeper: Keeper) -> None:
    """`/run` is a file system that many share."""
    (nas.export_folder() / "file").write_text("here")
    keeper.kill()
    with small_disk(keeper.run_dir, size_mib=1):
        with (
            pytest.raises(OSError, match="No space left"),
            (keeper.run_dir / "filler").open("wb", buffering=0) as filler,
        ):
            while True:
                filler.write(bytes(4096))
        keeper.start()
        mount = keeper.mount(nas.url)
        keeper.kill()
        keeper.start()
        keeper.replace_daemon(mount)
        assert (mount / "file").read_text() == "here"
        keeper.unmount(mount)
        keeper.kill()


def test_the_log_of_a_keeper_that_was_started_by_a_mount_stays_short(nas: Nas, keeper: Keeper) -> None:
    """It lies in the run directory, which is in memory."""
    keeper.kill()
    mount, log = keeper.mount(nas.url), keeper.run_dir / "keeper.log"
    before = log.read_bytes()
    assert b"mounted, connection" in before
    with log.open("ab") as as_a_daemon:
        as_a_daemon.write(b"a line of a daemon that is told to log all\n" * 500_000)
        as_a_daemon.write(b"the last line\n")
    wait_until(lambda: log.stat().st_size < 2 << 20, what="the log to be cut", limit_s=_LIMIT_S)
    keeper.efc("upgrade", str(mount))
    lines = log.read_bytes().splitlines()
    assert lines[0] == b"a line of a daemon that is told to log all"
    assert b"the last line" in lines
    assert any(b"upgraded in" in line for line in lines)
    keeper.unmount(mount)
    wait_until(lambda: not (keeper.run_dir / "keeper.sock").exists(), what="the keeper to end", limit_s=_LIMIT_S)


def test_a_keeper_closes_no_directory_that_the_system_needs() -> None:
    """`/run` or `/` in place of `/run/efc`: other users would be locked out of it. This one is the sandbox's own."""
    with small_disk(Path("/mnt"), size_mib=1) as directory:
        for run_dir in ("/mnt", "/mnt/../mnt/."):
            command = [program("efc-keeper"), "--run-dir", run_dir]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
            assert (done.returncode, "/mnt is everybody's" in done.stderr) == (1, True), done.stderr
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
        assert list(directory.iterdir()) == []
