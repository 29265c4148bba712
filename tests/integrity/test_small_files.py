"""Files that the kernel opens without asking (`small-files`): in whose name, how fresh, and what deaths cost."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Export, Nas
from tests.support.processes import stop_process
from tests.support.site import REST_S

_OWNER = 4711
_OPTIONS = ("ro", "consistency=bounded", f"small-files={_OWNER}:{_OWNER}")
_FILES = 200
_HOUR_NS = 3600 * 10**9
#: Reads all files again and again, maps some, until its standard input ends; says how often each was what it should be.
_READER = """
import hashlib, mmap, os, select, sys
folder, digest = sys.argv[1:]
print("begun", flush=True)
rounds = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    found = hashlib.sha256()
    for number in range(int(os.environ["FILES"])):
        with open(f"{folder}/{number}", "rb", buffering=0) as file:
            if number % 7:
                data = file.read(1 << 20)
            else:
                data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:]
            if number % 5 == 0:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found.update(data)
    assert found.hexdigest() == digest, "other data"
    rounds += 1
print(rounds, flush=True)
"""


@pytest.fixture(scope="module")
def nas(nothing_left: None) -> Iterator[Nas]:
    """A server that squashes root, with files that have rested."""
    with Nas(exports=(Export(squash="Root_Squash"),)) as nas:
        folder = nas.export_folder() / "small"
        folder.mkdir()
        for number in range(_FILES):
            (folder / str(number)).write_bytes(os.urandom(4096 + number * 100))
        (folder / "large").write_bytes(os.urandom(3 << 20))
        for name, mode, owner in (("mine", 0o400, _OWNER), ("others", 0o400, _OWNER + 1), ("program", 0o111, 0)):
            shutil.copy("/bin/true", folder / name)
            (folder / name).chmod(mode)
            os.chown(folder / name, owner, owner)
        time.sleep(REST_S)
        (nas.export_folder() / "clock").touch()  # tells what the server's clock shows by now
        yield nas


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


def requests(keeper: Keeper, mount: Path) -> int:
    return int(keeper.status(mount)["stats"]["fuse"]["requests"])


def settle(keeper: Keeper, mount: Path) -> None:
    """Waits until a report of the daemon's is younger than now."""
    before = keeper.status(mount)["stats"]["uptime_ms"]
    while keeper.status(mount)["stats"]["uptime_ms"] < before + 1000:
        time.sleep(0.1)


def read_all(folder: Path) -> str:
    """By open, read and close alone: what Python's own files ask besides (is it a terminal?) goes to the daemon."""
    found = hashlib.sha256()
    for number in range(_FILES):
        file = os.open(folder / str(number), os.O_RDONLY)
        while data := os.read(file, 1 << 20):
            found.update(data)
        os.close(file)
    return found.hexdigest()


@contextmanager
def reading(folder: Path, digest: str) -> Iterator[list[int]]:
    """A process that reads all files of `folder` during the block; afterwards, how often it has."""
    process = subprocess.Popen(
        [sys.executable, "-c", _READER, folder, digest], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, FILES=str(_FILES)),
    )  # fmt: skip
    assert process.stdout is not None
    rounds: list[int] = []
    try:
        assert process.stdout.readline() == "begun\n"
        yield rounds
    finally:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    rounds.append(int(out))


@pytest.mark.parametrize("features", ["running", "5.10"])
def test_a_second_reading_asks_the_daemon_for_nothing(nas: Nas, keeper: Keeper, features: str) -> None:
    options = (*_OPTIONS, "attr-ttl=3600s", f"fuse-features={features}")
    mount = keeper.mount(nas.url, options=options)
    for _ in range(3):
        digest = read_all(mount / "small")
        time.sleep(0.1)
    assert digest == read_all(nas.export_folder() / "small")
    settle(keeper, mount)
    before = keeper.status(mount)["stats"]
    for _ in range(5):
        assert read_all(mount / "small") == digest
    settle(keeper, mount)
    after = keeper.status(mount)["stats"]
    assert after["fuse"]["requests"] - before["fuse"]["requests"] < 50, "beats of the keeper, and status"
    again = after["nfs"]["bytes_read"] - before["nfs"]["bytes_read"]
    assert again < before["nfs"]["bytes_read"] / 20, "but for pages that the kernel has taken back"
    assert after["state"]["open_files"] == 0


def test_all_is_asked_in_one_name(nas: Nas, keeper: Keeper) -> None:
    """Root, whom the server squashes, reads what is that user's alone, and nobody what is not."""
    folder = keeper.mount(nas.url, options=_OPTIONS) / "small"
    assert (folder / "mine").read_bytes() == Path("/bin/true").read_bytes()
    with (folder / "others").open("rb", buffering=0) as file, pytest.raises(PermissionError):
        file.read(1)
    subprocess.run([folder / "program"], check=True, timeout=60)  # may be executed, though not read
    nobody = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"]
    refused = subprocess.run([*nobody, "cat", folder / "mine"], capture_output=True, text=True, check=False)
    assert "Permission denied" in refused.stderr, "the mode bits still hold"
    assert subprocess.run([*nobody, "cat", folder / "1"], capture_output=True, check=True).stdout
    plain = keeper.mount(nas.url, options=("ro", "consistency=bounded")) / "small"
    with pytest.raises(PermissionError):
        (plain / "mine").read_bytes()


def test_nothing_can_be_written(nas: Nas, keeper: Keeper) -> None:
    folder = keeper.mount(nas.url, options=_OPTIONS) / "small"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT):
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(folder / "1", flags)
    with pytest.raises(OSError, match="Read-only file system"):
        os.truncate(folder / "1", 5)
    descriptor = os.open(folder / "1", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("kills", [False, True])
@pytest.mark.parametrize("size", [100, 300_000])
def test_what_changes_elsewhere_is_seen_within_the_bound(keeper: Keeper, size: int, kills: bool) -> None:  # noqa: FBT001
    """By a new open, one that stays, and a mapping made anew; also where the time of change alone tells."""
    with Nas() as nas:
        origin = nas.export_folder() / "file"
        origin.write_bytes(bytes(size))
        os.utime(origin, ns=(_HOUR_NS, _HOUR_NS))
        mount = keeper.mount(nas.url, options=(*_OPTIONS, "attr-ttl=200ms"))
        held = os.open(mount / "file", os.O_RDONLY)
        for number in range(1, 6):
            for _ in range(3):
                (mount / "file").read_bytes()
                time.sleep(0.25)  # then its pages are known to be of one version
            (mount / "file").read_bytes()
            data = bytes([number]) * size
            with origin.open("r+b") as changed:
                changed.write(data)
            os.utime(origin, ns=(_HOUR_NS, _HOUR_NS))
            if kills:
                keeper.replace_daemon(mount)
            time.sleep(0.25)
            if number % 2:
                assert os.pread(held, size, 0) == data, f"change {number}"
            assert (mount / "file").read_bytes() == data, f"change {number}"
            with (mount / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == data
        os.close(held)


def test_readers_notice_no_death(nas: Nas, keeper: Keeper) -> None:
    """Daemons killed, hung and upgraded; the keeper killed, and another one started."""
    options = (*_OPTIONS, "attr-ttl=300ms", "hang-limit=1s")
    mount = keeper.mount(nas.url, options=options)
    digest = read_all(nas.export_folder() / "small")
    with reading(mount / "small", digest) as first, reading(mount / "small", digest) as second:
        for _ in range(3):
            keeper.replace_daemon(mount)
            time.sleep(0.2)
        keeper.efc("upgrade", str(mount))
        stop_process(keeper.daemon_pid(mount))
        time.sleep(3)  # the keeper ends it, and starts the next
        keeper.kill()
        time.sleep(0.5)
        keeper.start()
        keeper.replace_daemon(mount)
        keeper.efc("upgrade", str(mount), "-o", "threads=4")
        time.sleep(0.5)
    assert min(first + second) > 0
    assert keeper.status(mount)["state"] == "serving"


def test_a_daemon_on_a_kernel_without_resend_is_followed_by_another(nas: Nas, keeper: Keeper) -> None:
    mount = keeper.mount(nas.url, options=(*_OPTIONS, "attr-ttl=0s", "fuse-features=5.10"))
    digest = read_all(nas.export_folder() / "small")
    with reading(mount / "small", digest) as rounds:
        for _ in range(4):
            keeper.replace_daemon(mount)
            time.sleep(0.2)
    assert rounds[0] > 0


def test_with_a_store_and_sealed_there_is_no_passthrough_and_the_status_says_why(nas: Nas, keeper: Keeper) -> None:
    stores = Path(tempfile.mkdtemp(prefix="efc-test-", dir="/dev/shm"))
    try:
        options = ("ro", "consistency=sealed", "small-files=0:0", f"cache-dir={stores}", "cache-size=64MiB")
        mount = keeper.mount(nas.url, options=options)
        for _ in range(3):
            with (mount / "small" / "large").open("rb") as file:
                assert file.read() == (nas.export_folder() / "small" / "large").read_bytes()
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            time.sleep(1)
        status = keeper.status(mount)
        assert "small-files" in status["passthrough"]
        assert status["options"]["small_files"] == "0:0"
        assert status["stats"]["cache"]["store_bytes"] > 0
    finally:
        keeper.close()
        shutil.rmtree(stores)
