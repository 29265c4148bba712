"""Nodes that share what they read through workers: what comes from where, and that it is always right."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integrity.rested import rested_datasets
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.nodes import Node
from tests.support.processes import wait_until
from tests.support.workers import Worker, certificates, new_key

MIB = 1 << 20
_SIZE = 16 * MIB
_DATASETS = 16
#: A file that says where workers are is looked at so often, and a little more.
_FOLLOWED_S = 2.5
#: A daemon keeps blocks that it has just read for two seconds at most.
_RECENT_S = 2.0


#: Of the files in the dataset's folder of small ones, in bytes: up to 64 KiB they are read when they are opened.
SMALL_SIZES = tuple(range(4 << 10, 150 << 10, 5 << 10))


def files_of(path: Path) -> list[Path]:
    """A file, or those in a folder."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def digest_of(path: Path) -> str:
    """A digest of the data of a file or of those in a folder, read as programs read: from the beginning to the end."""
    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as data:
            while part := data.read(MIB):
                digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reader(Node):
    """A node that reads the dataset's file."""

    def read(self, name: str = "file") -> str:
        """A digest of the data."""
        return digest_of(self.mount / name)

    def forget(self, name: str = "file") -> None:
        """The kernel lets its pages of it go."""
        for file in files_of(self.mount / name):
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def read_from_workers(self, digest: str, name: str = "file", size: int = _SIZE) -> None:
        """Reads it until all of it comes from workers: not each block is put there that is read in a hurry."""
        os.stat(self.mount / "clock")
        before = self.cache()["workers_bytes"]

        def is_from_workers() -> bool:
            nonlocal before
            time.sleep(_RECENT_S)
            self.forget(name)
            assert self.read(name) == digest
            last, before = before, self.cache()["workers_bytes"]
            return before - last == size

        wait_until(is_from_workers, what="all of it from workers", limit_s=60)


class World:
    """The NAS, a key, and nodes and workers as they are asked for."""

    def __init__(self, nas: Nas, folder: Path, stack: ExitStack) -> None:
        """``folder`` is the dataset where the NAS has it."""
        self.folder, self.stack = folder, stack
        self.url = nas.url_of(f"export/{folder.name}")
        self.key = new_key(Path(stack.enter_context(tempfile.TemporaryDirectory())))

    def worker(self) -> Worker:
        """One more worker."""
        return self.stack.enter_context(Worker())

    def node(self, *workers: Worker, key: Path | None = None) -> Reader:
        """One more node."""
        node = self.mounted("+".join(worker.endpoint for worker in workers), key or self.key)
        node.await_workers(len(workers))
        return node

    def mounted(self, workers: str, key: Path | None = None) -> Reader:
        """One more node, with this option."""
        options = (f"workers={workers}", f"workers-key={key or self.key}")
        return self.stack.enter_context(Reader.mounted(self.url, options=options))

    def write(self) -> str:
        """Writes the file anew where the NAS has it; the digest of its data."""
        (self.folder / "file").write_bytes(os.urandom(_SIZE))
        return self.digest()

    def digest(self) -> str:
        """Of the file that has rested."""
        return digest_of(self.folder / "file")

    def filled(self, *workers: Worker) -> tuple[str, Reader]:
        """A node has read the file onto the workers: the digest of its data, and the node."""
        digest, node = self.digest(), self.node(*workers)
        node.read_from_workers(digest)
        return digest, node


@pytest.fixture(scope="module")
def datasets() -> Iterator[tuple[Nas, list[Path]]]:
    """A server, and datasets with a file each that has rested."""
    with rested_datasets(_DATASETS, size=_SIZE, small_sizes=SMALL_SIZES) as made:
        yield made


@pytest.fixture
def world(datasets: tuple[Nas, list[Path]]) -> Iterator[World]:
    """A dataset of its own for each test."""
    nas, folders = datasets
    with ExitStack() as stack:
        yield World(nas, folders.pop(), stack)


def test_a_second_node_reads_from_the_workers_and_not_from_the_nas(world: World) -> None:
    """And neither does the third."""
    worker = world.worker()
    digest, _ = world.filled(worker)
    for _ in range(2):
        other = world.node(worker)
        other.read_from_workers(digest)
    assert other.cache()["workers_bytes"] >= _SIZE
    assert other.cache()["workers_capacity_bytes"] == 256 * MIB
    wait_until(lambda: _SIZE <= other.cache()["workers_held_bytes"] <= 1.1 * _SIZE, what="its bytes", limit_s=20)


def test_small_files_come_from_workers_too(world: World) -> None:
    """Also those that would come with their open."""
    worker = world.worker()
    digest, size = digest_of(world.folder / "small"), sum(SMALL_SIZES)
    world.node(worker).read_from_workers(digest, "small", size)
    second = world.node(worker)
    before = second.cache()
    second.read_from_workers(digest, "small", size)
    assert second.cache()["nas_bytes"] - before["nas_bytes"] <= 0.1 * size


def test_a_worker_as_efc_starts_it(world: World) -> None:
    """It is not root's, and gives what was put there."""
    worker = world.stack.enter_context(Worker(is_ours=True))
    assert worker.user() != 0
    digest, node = world.digest(), world.node(worker)
    os.stat(node.mount / "clock")
    node.read_from_workers(digest)
    world.node(worker).read_from_workers(digest)


def test_what_changes_is_read_anew_whatever_its_size_and_time(world: World) -> None:
    """An open after the change sees it, as without workers, also when size and modification time are as before."""
    worker = world.worker()
    _, first = world.filled(worker)
    second = world.node(worker)
    second.read()
    status = (world.folder / "file").stat()
    for _ in range(3):
        digest = world.write()
        os.utime(world.folder / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert [node.read() for node in (second, first, second)] == [digest] * 3


def test_what_a_node_writes_the_others_read(world: World) -> None:
    """Rounds of write, close, open and read on three nodes, in a file that lies at the worker."""
    worker = world.worker()
    _, first = world.filled(worker)
    nodes = [first, world.node(worker), world.node(worker)]
    for number in range(12):
        writer = nodes[number % 3]
        with (writer.mount / "file").open("r+b") as file:
            file.seek((number * 7 % 16) * MIB + 12_345)
            file.write(os.urandom(100_000))
        expected = hashlib.sha256((world.folder / "file").read_bytes()).hexdigest()
        assert [node.read() for node in nodes] == [expected] * 3, f"round {number}"


def test_damaged_blocks_are_refused_and_read_from_the_nas(world: World) -> None:
    """One flipped bit in each: no byte of them is given to anybody, and the figures say so."""
    worker = world.worker()
    digest, _ = world.filled(worker)
    spoiled = worker.spoil()
    assert spoiled == _SIZE // MIB
    second = world.node(worker)
    assert second.read() == digest
    cache = second.cache()
    assert cache["workers_bytes"] == 0
    assert 0.5 * spoiled <= cache["workers_refused"] <= spoiled, "a worker that is slow is not asked for each"
    second.read_from_workers(digest)
    world.node(worker).read_from_workers(digest)


def test_a_node_with_another_key_finds_nothing_and_harms_nothing(world: World) -> None:
    """It has other names for its blocks."""
    worker = world.worker()
    digest, _ = world.filled(worker)
    stranger = world.node(worker, key=new_key(Path(world.stack.enter_context(tempfile.TemporaryDirectory()))))
    assert stranger.read() == digest
    assert stranger.cache()["workers_bytes"] == 0
    world.node(worker).read_from_workers(digest)


@pytest.mark.parametrize("fate", ["killed", "frozen", "emptied"])
def test_a_worker_that_fails_while_it_is_read_from_costs_no_error(world: World, fate: str) -> None:
    """Of two workers one is lost in the middle of a file: the rest comes from the other and from the NAS."""
    workers = [world.worker(), world.worker()]
    digest, _ = world.filled(*workers)
    second = world.node(*workers)
    found = hashlib.sha256()
    with (second.mount / "file").open("rb", buffering=0) as file:
        found.update(file.read(4 * MIB))
        match fate:
            case "killed":
                workers[0].end()
            case "frozen":
                workers[0].freeze()
            case _:
                workers[0].end()
                workers[0].start()
        while data := file.read(MIB):
            found.update(data)
    assert found.hexdigest() == digest
    if fate == "frozen":
        workers[0].thaw()
    elif fate == "killed":
        workers[0].start()

    second.read_from_workers(digest)
    assert workers[0].questions() > 0


def test_a_daemon_that_is_killed_while_it_reads_is_followed_by_one_that_has_workers(world: World) -> None:
    """Deaths under readers that check each byte."""
    worker = world.worker()
    digest, _ = world.filled(worker)
    node = world.node(worker)
    is_over, found = threading.Event(), set()

    def keep_reading() -> None:
        while not is_over.is_set():
            found.add(node.read())
            node.forget("file")

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(keep_reading) for _ in range(2)]
        try:
            for _ in range(3):
                node.keeper.replace_daemon(node.mount)
                time.sleep(0.3)
        finally:
            is_over.set()
        for reader in reading:
            reader.result()
    assert found == {digest}
    node.forget("file")
    node.read()
    assert node.cache()["workers_bytes"] > 0


def test_workers_come_and_go_while_the_dataset_is_mounted(world: World) -> None:
    """The option changes in place: the daemon stays."""
    old, new = world.worker(), world.worker()
    digest, node = world.filled(old)
    daemon = node.keeper.daemon_pid(node.mount)
    node.keeper.efc("upgrade", str(node.mount), "-o", f"workers={new.endpoint}")
    wait_until(lambda: node.cache()["workers_ready"] == 1, what="the new worker")
    node.read_from_workers(digest)
    node.keeper.efc("upgrade", str(node.mount), "-o", "workers=")
    assert node.cache()["workers"] == 0
    node.forget("file")
    assert node.read() == digest
    assert node.keeper.daemon_pid(node.mount) == daemon


def test_a_key_that_cannot_be_used_is_said_when_mounting(world: World, tmp_path: Path) -> None:
    """A file that is not there, and one that holds no key."""
    (tmp_path / "short").write_text("1234\n")
    keeper = world.stack.enter_context(Keeper())
    for name, reason in {"missing": "cannot be read", "short": "64 hexadecimal digits"}.items():
        options = ("workers=127.0.0.1:1", f"workers-key={tmp_path / name}")
        with pytest.raises(subprocess.CalledProcessError) as caught:
            keeper.mount(world.url, options=options)
        assert reason in caught.value.stderr


def test_workers_of_one_name_whatever_their_addresses(world: World, tmp_path: Path) -> None:
    """Certificates without an address are good for nodes that have `server-name`, and only with that name."""
    tls = certificates(tmp_path, names=["worker.efc"])
    worker = world.stack.enter_context(Worker(is_ours=True, tls=tls, tls_name="worker.efc"))

    def node() -> Reader:
        options = [f"workers={worker.endpoint}", f"workers-key={world.key}", f"workers-tls={tls}"]
        return world.stack.enter_context(Reader.mounted(world.url, options=options))

    strangers = [node()]
    (tls / "server-name").write_text("master.efc\n")
    strangers.append(node())
    (tls / "server-name").write_text("worker.efc\n")
    friend = node()
    friend.await_workers(1)
    friend.read_from_workers(world.digest())
    for stranger in strangers:
        assert stranger.read() == world.digest()
        assert (stranger.cache()["workers_ready"], stranger.cache()["workers_bytes"]) == (0, 0)
    # A daemon that comes later has the file as it is then.
    strangers[0].keeper.replace_daemon(strangers[0].mount)
    strangers[0].await_workers(1)
    (tls / "server-name").write_text("no name\n")
    with pytest.raises(subprocess.CalledProcessError, match=r"server-name: .*no name"):
        node()


def test_a_file_that_says_where_workers_are_is_followed(world: World, tmp_path: Path) -> None:
    """By the daemon that serves, and by the next one from its start."""
    path, new = tmp_path / "workers", tmp_path / "new"
    path.write_text("# none yet\n")
    node = world.mounted(str(path))
    assert node.cache()["workers"] == 0
    worker, daemon = world.worker(), node.keeper.daemon_pid(node.mount)
    new.write_text(f"{worker.endpoint}  # the first\n")
    new.rename(path)
    wait_until(lambda: node.ready() == 1, what="the worker", interval_s=0.2, limit_s=20)
    node.read_from_workers(world.digest())
    path.unlink()
    time.sleep(_FOLLOWED_S)
    assert (node.ready(), node.keeper.daemon_pid(node.mount)) == (1, daemon)
    node.keeper.efc("upgrade", str(node.mount), "-o", "attr-ttl=4s")
    assert (node.ready(), node.keeper.daemon_pid(node.mount)) == (1, daemon)
    path.write_text(f"{worker.endpoint}\n{world.worker().endpoint}")
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: node.ready() == 2, what="both workers", interval_s=0.2, limit_s=20)
    assert node.read() == world.digest()
