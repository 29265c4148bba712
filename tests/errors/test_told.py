"""What an administrator of a host is told: by a command that is refused, by the reason in the status, by the log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi.cli.worker import write_key
from tests.support.keeper import Keeper
from tests.support.nas import Nas, free_ports
from tests.support.processes import wait_until

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture(scope="module")
def nas(nothing_left: None) -> Iterator[Nas]:
    with Nas() as nas:
        yield nas


@pytest.fixture
def keeper(nothing_left: None) -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_key(tmp_path / "key")
    return tmp_path / "key"


def refusal(keeper: Keeper, *arguments: str) -> str:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        keeper.efc(*arguments)
    return str(refused.value.stderr)


def test_a_file_of_workers_that_is_misspelt_is_refused(keeper: Keeper, nas: Nas, key: Path, tmp_path: Path) -> None:
    target, workers, misspelt = keeper.folder / "mount", tmp_path / "workers", tmp_path / "wrokers"
    target.mkdir()
    (port,) = free_ports("127.0.0.1", count=1)
    workers.write_text(f"# ours\n127.0.0.1:{port}\nthis is wrong\n")
    options = f"workers-key={key},workers="
    said = refusal(keeper, "mount", nas.url, str(target), "-o", f"{options}{misspelt}")
    assert f"workers: {misspelt} cannot be read: No such file" in said
    assert "make it, with HOST:PORT" in said
    assert not os.path.ismount(target), "nothing is left of it"
    keeper.efc("mount", nas.url, str(target), "-o", f"{options}{workers}")
    line = f'workers: {workers}, line 3 ("this is wrong"): this: it has no port'
    wait_until(lambda: line in keeper.log.read_text(), what="the bad line in the log", limit_s=30)
    down = f"worker 127.0.0.1:{port} does not answer and is tried again: "
    wait_until(lambda: down in keeper.log.read_text(), what="the worker that is down in the log", limit_s=30)
    assert keeper.log.read_text().count(line) == 1
    said = refusal(keeper, "upgrade", str(target), "-o", f"workers={misspelt}")
    assert f"workers: {misspelt} cannot be read" in said
    keeper.efc("upgrade", str(target), "-o", "workers=,workers-key=")
    assert "workers" not in keeper.status(target)["options"]
    keeper.unmount(target)


def test_a_death_has_its_time_and_the_log_too(keeper: Keeper, nas: Nas) -> None:
    with keeper.mounted(nas.url) as target:
        os.kill(keeper.status(target)["pid"], signal.SIGKILL)
        wait_until(
            lambda: keeper.status(target)["restarts"] == 1 and keeper.status(target)["state"] == "serving",
            what="the next daemon", limit_s=30,
        )  # fmt: skip
        assert re.fullmatch(f"the daemon was killed by signal 9 at {_TIME}", keeper.status(target)["reason"])
    lines = keeper.log.read_text().splitlines()
    assert lines
    assert [line for line in lines if not re.match(rf"\[{_TIME} [A-Z]+ +efc", line)] == []


def test_a_session_that_nobody_holds_is_named_by_its_mount(keeper: Keeper, nas: Nas) -> None:
    target = keeper.mount(nas.url)
    daemon = keeper.status(target)["pid"]
    keeper.kill()
    os.kill(daemon, signal.SIGKILL)
    keeper.start()
    said = rf"{re.escape(str(target))}: session [0-9a-f]{{8}}: its daemon has died with its keeper"
    wait_until(lambda: re.search(said, keeper.log.read_text()), what="the session in the log", limit_s=30)
    assert list((keeper.run_dir / "s").iterdir()) == []
    keeper.efc("umount", "--force", str(target))


def test_who_mounts_otherwise_is_told_what_differs(keeper: Keeper, nas: Nas) -> None:
    with keeper.mounted(nas.url, options=["attr-ttl=5s", "threads=3"]) as target:
        said = refusal(keeper, "mount", nas.url, str(target), "-o", "attr-ttl=6s,threads=3")
        assert "is mounted with another value of: attr-ttl; change its options by `efc upgrade -o`" in said
        said = refusal(keeper, "mount", nas.url, str(target), "-o", "ro,attr-ttl=5s,threads=3")
        assert "is mounted with another value of: ro; unmount it first" in said


def test_a_cache_directory_that_is_not_there_says_how_it_is_made(keeper: Keeper, nas: Nas, tmp_path: Path) -> None:
    target = keeper.folder / "mount"
    target.mkdir()
    said = refusal(keeper, "mount", nas.url, str(target), "-o", f"cache-dir={tmp_path}/none,cache-size=64MiB")
    assert f"make it: mkdir -p {tmp_path}/none" in said
