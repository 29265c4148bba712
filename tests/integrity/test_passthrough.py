"""Files that the kernel reads from a local store by itself: which ones are, and that nobody notices but by the speed.

Files of the store must lie where the kernel takes them from: not on overlayfs, which temporary folders may be on.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integrity.rested import rested_datasets
from tests.integrity.test_workers import MIB
from tests.support.keeper import Keeper
from tests.support.mounts import mounts_below, small_disk
from tests.support.nas import Nas
from tests.support.processes import stop_process, wait_until
from tests.support.site import REST_S

_SIZE = 16 * MIB + 4711
_DATASETS = 8
#: Reads the whole file again and again until its standard input ends, and says what it has found.
_READER = """
import hashlib, os, select, sys
name, digest = sys.argv[1:]
file = os.open(name, os.O_RDONLY)
print("open", flush=True)
rounds, size = 0, os.fstat(file).st_size
while not select.select([sys.stdin], [], [], 0)[0]:
    found = hashlib.sha256()
    for offset in range(0, size, 1 << 20):
        found.update(os.pread(file, 1 << 20, offset))
    assert found.hexdigest() == digest, "other data"
    rounds += 1
os.close(file)
print(rounds, flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A mount with a store, and the file in it."""

    keeper: Keeper
    mount: Path
    file: Path
    origin: Path
    stores: Path

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.origin.read_bytes()).hexdigest()

    def status(self) -> dict[str, Any]:
        return self.keeper.status(self.mount)

    def passing(self) -> tuple[int, int]:
        """Opens that were passed through so far, and files that are open so."""
        figures = self.status()["stats"]["passthrough"]
        return figures["opens"], figures["files"]

    def reader(self) -> subprocess.Popen[str]:
        """A process that reads the file until it is told to stop."""
        process = subprocess.Popen(
            [sys.executable, "-c", _READER, self.file, self.digest],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    def pass_through(self) -> None:
        """Reads the file until an open of it is passed through."""

        def is_passed() -> bool:
            before = self.passing()[0]
            with self.file.open("rb", buffering=0) as file:
                while file.read(MIB):
                    pass
            return self.passing()[0] > before

        (self.mount / "clock").stat()
        wait_until(is_passed, what="an open that is passed through", limit_s=60, interval_s=0.5)


def stop(reader: subprocess.Popen[str]) -> int:
    """How often it has read all of the file, which was right each time."""
    out, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    return int(out)


@pytest.fixture(scope="module")
def datasets() -> Iterator[tuple[Nas, list[Path]]]:
    """A server, and datasets with a file each that has rested."""
    with rested_datasets(_DATASETS, size=_SIZE) as made:
        yield made


@pytest.fixture
def stores() -> Iterator[Path]:
    """A directory for caches."""
    folder = Path(tempfile.mkdtemp(prefix="efc-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be ended after a test."""
    with ExitStack() as stack:
        yield stack


def mounted(nas: Nas, folder: Path, stores: Path, stack: ExitStack, *options: str) -> Dataset:
    keeper = stack.enter_context(Keeper())
    options = (f"cache-dir={stores}", "cache-size=128MiB", *options)
    mount = keeper.mount(nas.url_of(f"export/{folder.name}"), options=options)
    return Dataset(keeper=keeper, mount=mount, file=mount / "file", origin=folder / "file", stores=stores)


@pytest.fixture
def dataset(datasets: tuple[Nas, list[Path]], stores: Path, stack: ExitStack) -> Dataset:
    """A sealed dataset of its own for each test, with a file that is passed through."""
    nas, folders = datasets
    dataset = mounted(nas, folders.pop(), stores, stack, "consistency=sealed")
    dataset.pass_through()
    return dataset


def test_a_second_reading_asks_the_daemon_for_nothing(dataset: Dataset) -> None:
    """All ways to read: read, mmap, sendfile, O_DIRECT, many processes; and the store's file removed meanwhile."""
    assert dataset.status()["passthrough"] == "on"
    readers = [dataset.reader() for _ in range(8)]
    before = dataset.status()["stats"]
    time.sleep(1)
    after = dataset.status()["stats"]
    assert after["fuse"]["requests"] - before["fuse"]["requests"] < 10, "beats of the keeper, and no READs"
    assert after["nfs"]["bytes_read"] == before["nfs"]["bytes_read"]
    assert after["passthrough"]["files"] == 1
    assert all(stop(reader) > 0 for reader in readers)
    content = dataset.origin.read_bytes()
    with dataset.file.open("rb", buffering=0) as file:
        direct = os.open(dataset.file, os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for data in dataset.stores.rglob("*.data"):
                data.unlink()
            assert mapped[:] == content
        target = dataset.keeper.folder / "copied"
        with target.open("wb") as copied:
            os.sendfile(copied.fileno(), file.fileno(), 0, _SIZE)
        assert target.read_bytes()[:MIB] == content[:MIB]
        buffer = mmap.mmap(-1, MIB)
        assert os.preadv(direct, [buffer], MIB) == MIB
        assert buffer[:] == content[MIB : 2 * MIB]
        os.close(direct)
    wait_until(lambda: dataset.passing()[1] == 0, what="the last close")
    assert dataset.file.read_bytes() == content


def test_readers_notice_no_death(dataset: Dataset) -> None:
    """Daemons killed, upgraded; the keeper killed, and another one started."""
    reader, late = dataset.reader(), dataset.reader()
    for _ in range(5):
        dataset.keeper.replace_daemon(dataset.mount)
        assert dataset.reader().communicate(timeout=60)[0]
    dataset.keeper.efc("upgrade", str(dataset.mount))
    daemon = dataset.keeper.daemon_pid(dataset.mount)
    stop_process(daemon)
    with pytest.raises(subprocess.TimeoutExpired):
        late.wait(0.5)  # it reads on
    os.kill(daemon, signal.SIGCONT)
    wait_until(lambda: dataset.passing()[1] == 1, what="the number of open files under the last daemon")
    dataset.keeper.kill()
    during = dataset.reader()
    dataset.keeper.start()
    wait_until(lambda: dataset.status()["passthrough"] == "on", what="a keeper that registers files")
    assert all(stop(process) > 0 for process in (reader, late, during))
    wait_until(lambda: dataset.passing()[1] == 0, what="the last close")
    dataset.pass_through()


def test_what_a_keeper_did_not_hear_any_more_takes_no_room(
    datasets: tuple[Nas, list[Path]], tmp_path: Path, stack: ExitStack
) -> None:
    """A file is closed while the keeper hangs, which is killed then, and replaced in the store: its room comes back."""
    nas, folders = datasets
    stores = stack.enter_context(small_disk(tmp_path / "stores", size_mib=128))
    dataset = mounted(nas, folders[0], stores, stack, "consistency=sealed", "cache-free=1")
    dataset.pass_through()
    wait_until(lambda: dataset.passing()[1] == 0, what="the last close")
    with dataset.file.open("rb"):
        stop_process(dataset.keeper.pid)
    time.sleep(0.5)  # the daemon tells the keeper, and nothing says when it has
    dataset.keeper.kill()
    dataset.keeper.start()
    wait_until(lambda: dataset.status()["passthrough"] == "on", what="a keeper that registers files")
    dataset.origin.write_bytes(os.urandom(_SIZE))
    time.sleep(REST_S)
    (dataset.origin.parent / "later").touch()
    dataset.keeper.efc("upgrade", str(dataset.mount))
    (dataset.mount / "later").stat()  # tells what the server's clock shows by now
    dataset.pass_through()  # of the other content, which comes in its place
    space = os.statvfs(stores)
    assert (space.f_blocks - space.f_bfree) * space.f_frsize < 1.5 * _SIZE, "room of a file that has gone"


def test_without_a_keeper_files_are_read_as_ever(dataset: Dataset) -> None:
    wait_until(lambda: dataset.passing()[1] == 0, what="the last close")
    dataset.keeper.kill()
    assert dataset.file.read_bytes() == dataset.origin.read_bytes()
    dataset.keeper.start()
    dataset.pass_through()


def test_a_file_that_is_read_so_cannot_be_changed(dataset: Dataset) -> None:
    with dataset.file.open("rb", buffering=0) as file:
        wait_until(lambda: dataset.passing()[1] == 1, what="an open file")
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC):
            with pytest.raises(OSError, match=os.strerror(errno.ETXTBSY)):
                os.open(dataset.file, flags)
        with pytest.raises(OSError, match=os.strerror(errno.ETXTBSY)):
            os.truncate(dataset.file, 5)
        dataset.file.chmod(0o640)
        dataset.file.rename(dataset.mount / "renamed")
        (dataset.mount / "renamed").unlink()
        assert file.read(MIB) == os.pread(file.fileno(), MIB, 0)
    (dataset.mount / "file").write_bytes(b"another one")
    assert dataset.origin.read_bytes() == b"another one"


def test_it_stops_when_it_is_switched_off_and_when_nothing_is_left(dataset: Dataset) -> None:
    dataset.keeper.efc("upgrade", str(dataset.mount), "-o", "passthrough=off")
    assert dataset.status()["passthrough"] == "off"
    opens = dataset.passing()[0]
    assert dataset.file.read_bytes() == dataset.origin.read_bytes()
    assert dataset.passing() == (opens, 0)
    dataset.keeper.efc("upgrade", str(dataset.mount), "-o", "passthrough=auto")
    dataset.pass_through()
    dataset.keeper.unmount(dataset.mount)
    assert mounts_below(dataset.keeper.folder) == []
    with suppress(FileNotFoundError):
        assert not any(dataset.keeper.daemon_pids())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("consistency=sealed", "fuse-features=6.1"), "mounted without"),
        (("consistency=bounded",), "consistency=sealed"),
        (("consistency=sealed", "passthrough=off"), "off"),
    ],
)
def test_status_says_why_it_is_not_on(
    datasets: tuple[Nas, list[Path]], stores: Path, stack: ExitStack, options: tuple[str, ...], reason: str
) -> None:
    nas, folders = datasets
    dataset = mounted(nas, folders[0], stores, stack, *options)
    wait_until(lambda: dataset.status()["stats"], what="a report")
    assert reason in dataset.status()["passthrough"]
    assert dataset.file.read_bytes() == dataset.origin.read_bytes()
