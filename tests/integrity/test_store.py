"""A node that keeps what it reads in a local store: what comes from where after whatever has happened, always right."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integrity.rested import rested_datasets
from tests.integrity.test_workers import MIB, SMALL_SIZES, Reader, digest_of, files_of
from tests.support.keeper import Keeper
from tests.support.mounts import small_disk
from tests.support.nas import Nas
from tests.support.processes import wait_until
from tests.support.site import REST_S
from tests.support.workers import Worker, new_key

_SIZE = 16 * MIB
_DATASETS = 21
#: A daemon keeps blocks that it has just read for two seconds at most.
_RECENT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class World:
    """A dataset where the NAS has it, a directory for caches, and mounts as they are asked for."""

    url: str
    folder: Path
    caches: Path
    stack: ExitStack

    def node(self, *options: str, size: str = "64MiB", keeper: Keeper | None = None) -> Reader:
        """A node, or one more mount on one, with a store."""
        # The machine's disk may be as full as it likes.
        if not any(option.startswith("cache-free=") for option in options):
            options = ("cache-free=1", *options)
        return self.mounted(f"cache-dir={self.caches}", f"cache-size={size}", *options, keeper=keeper)

    def mounted(self, *options: str, keeper: Keeper | None = None) -> Reader:
        """The same with these options only."""
        keeper = keeper or self.stack.enter_context(Keeper())
        return Reader(keeper=keeper, mount=keeper.mount(self.url, options=options))

    def stores(self) -> list[dict[str, Any]]:
        """What `efc cache` knows of."""
        keeper = self.stack.enter_context(Keeper())
        found: list[dict[str, Any]] = json.loads(keeper.efc("cache", "--json", "--directory", str(self.caches)))
        return found


@pytest.fixture(scope="module")
def datasets() -> Iterator[tuple[Nas, list[Path]]]:
    """A server, and datasets with a file each, and small ones, that have rested."""
    with rested_datasets(_DATASETS, size=_SIZE, small_sizes=SMALL_SIZES) as made:
        yield made


@pytest.fixture
def world(datasets: tuple[Nas, list[Path]], tmp_path: Path) -> Iterator[World]:
    """A dataset of its own for each test."""
    nas, folders = datasets
    folder, caches = folders.pop(), tmp_path / "caches"
    caches.mkdir(mode=0o755)
    with ExitStack() as stack:
        yield World(url=nas.url_of(f"export/{folder.name}"), folder=folder, caches=caches, stack=stack)


def from_nas(node: Reader) -> int:
    """Bytes that it has read from the NAS so far."""
    return int(node.keeper.status(node.mount)["stats"]["nfs"]["bytes_read"])


def store(node: Reader) -> dict[str, Any]:
    """What the node's store does."""
    figures = node.keeper.status(node.mount)["store"]
    assert isinstance(figures, dict)
    return figures


def fill(node: Reader, digest: str, name: str = "file", size: int = _SIZE) -> None:
    """Reads it until all of it comes from the store: what is read in a hurry is not all put there."""
    os.stat(node.mount / "clock")
    read_from_store(node, digest, name, size)


def read_from_store(node: Reader, digest: str, name: str = "file", size: int = _SIZE) -> None:
    """Reads it, again if need be, until a reading takes all of it from the store."""

    def is_from_store() -> bool:
        time.sleep(_RECENT_S)
        before = node.cache()["store_bytes"]
        node.forget(name)  # which opens small files, and so has them read
        assert node.read(name) == digest
        return bool(node.cache()["store_bytes"] - before == size)

    wait_until(is_from_store, what="all of it from the store", limit_s=60)


def test_what_was_read_comes_from_the_store(world: World) -> None:
    """Large files and small ones, and the NAS is not read for them."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    small, small_size = digest_of(world.folder / "small"), sum(SMALL_SIZES)
    fill(node, small, "small", small_size)
    before = from_nas(node)
    read_from_store(node, digest)
    read_from_store(node, small, "small", small_size)
    assert from_nas(node) == before
    figures = store(node)
    assert (figures["state"], figures["damaged"], figures["capacity_bytes"]) == ("serving", 0, 64 * MIB)
    assert _SIZE + small_size <= figures["held_bytes"] <= 1.2 * (_SIZE + small_size)
    assert figures["files"] == 1 + len(SMALL_SIZES) or figures["files"] == 2 + len(SMALL_SIZES)  # perhaps `clock`


@pytest.mark.parametrize("how", ["killed", "upgraded", "mounted again", "another keeper"])
def test_it_is_found_again(world: World, how: str) -> None:
    """By the next daemon, and by the next mount."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    match how:
        case "killed":
            node.keeper.replace_daemon(node.mount)
        case "upgraded":
            node.keeper.efc("upgrade", str(node.mount))
        case "mounted again":
            node.keeper.unmount(node.mount)
            node = world.node(keeper=node.keeper)
        case _:
            node.keeper.close()
            node = world.node()
    os.stat(node.mount / "clock")
    before = from_nas(node)
    wait_until(lambda: store(node)["state"] == "serving", what="the store to be loaded", limit_s=20)
    assert node.read() == digest
    assert from_nas(node) - before <= 0.1 * _SIZE


def test_two_mounts_of_a_source_have_a_store_each(world: World) -> None:
    """And each finds its own again, or at least one."""
    node, digest = world.node(), digest_of(world.folder / "file")
    other = world.node(keeper=node.keeper)
    for one in (node, other):
        fill(one, digest)
    assert len({store(one)["directory"] for one in (node, other)}) == 2
    assert [found["in_use"] for found in world.stores()] == [True, True]
    for one in (node, other):
        one.keeper.unmount(one.mount)
    read_from_store(world.node(keeper=node.keeper), digest)
    assert len(world.stores()) == 2


@pytest.mark.parametrize("consistency", ["cto", "bounded"])
def test_what_changes_is_read_anew_whatever_its_size_and_time(world: World, consistency: str) -> None:
    """An open after the change, and after the bound, sees it, also when size and modification time are as before."""
    node, digest = world.node(f"consistency={consistency}", "attr-ttl=1s"), digest_of(world.folder / "file")
    fill(node, digest)
    status = (world.folder / "file").stat()
    for _ in range(3):
        (world.folder / "file").write_bytes(os.urandom(_SIZE))
        os.utime(world.folder / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
        if consistency == "bounded":
            time.sleep(1.1)
        assert node.read() == digest_of(world.folder / "file")


def test_what_the_node_writes_it_reads(world: World) -> None:
    """Rounds of write, close, open and read in a file that lies in the store, on this node and on another."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    other = world.node()
    fill(other, digest)
    for number in range(8):
        writer = (node, other)[number % 2]
        with (writer.mount / "file").open("r+b") as file:
            file.seek((number * 7 % 16) * MIB + 12_345)
            file.write(os.urandom(100_000))
        expected = digest_of(world.folder / "file")
        assert [one.read() for one in (node, other)] == [expected] * 2, f"round {number}"


def test_bytes_that_somebody_has_changed_are_not_given(world: World) -> None:
    """One flipped bit in each page of all that lies there: read from the NAS, and counted."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    directory = Path(store(node)["directory"])
    node.keeper.unmount(node.mount)
    for path in directory.rglob("*"):
        if path.is_file() and path.name not in ("source", "lock"):
            data = bytearray(path.read_bytes())
            for place in range(100, len(data), 4096):
                data[place] ^= 1
            path.write_bytes(data)
    node = world.node(keeper=node.keeper)
    os.stat(node.mount / "clock")
    assert node.read() == digest
    assert store(node)["directory"] == str(directory)
    node.forget()
    fill(node, digest)


def test_readers_notice_nothing_of_daemons_that_are_killed(world: World) -> None:
    """Deaths and upgrades under readers that check each byte."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    is_over, found = threading.Event(), set()

    def keep_reading() -> None:
        while not is_over.is_set():
            found.add(node.read())
            node.forget()

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(keep_reading) for _ in range(2)]
        try:
            for number in range(6):
                if number % 2:
                    node.keeper.efc("upgrade", str(node.mount))
                else:
                    node.keeper.replace_daemon(node.mount)
                time.sleep(0.3)
        finally:
            is_over.set()
        for reader in reading:
            reader.result()
    assert found == {digest}
    read_from_store(node, digest)


def test_its_size_is_kept_and_changes_while_mounted(world: World) -> None:
    """More than it may hold is read: it never holds more, and less when it may hold less; the daemon stays."""
    node = world.node(size="64MiB")
    os.stat(node.mount / "clock")
    for number in range(6):
        (world.folder / f"large{number}").write_bytes(os.urandom(_SIZE))
    time.sleep(REST_S)
    (world.folder / "clock").touch()
    os.stat(node.mount / "clock")
    daemon = node.keeper.daemon_pid(node.mount)
    for number in range(6):
        assert node.read(f"large{number}") == digest_of(world.folder / f"large{number}")
    wait_until(
        lambda: 32 * MIB <= store(node)["held_bytes"] <= 64 * MIB, what="the store to keep to its size", limit_s=20
    )
    assert store(node)["refused"] + store(node)["evicted_bytes"] > 0
    node.keeper.efc("upgrade", str(node.mount), "-o", "cache-size=128MiB")
    assert store(node)["capacity_bytes"] == 128 * MIB
    assert node.keeper.daemon_pid(node.mount) == daemon


def test_a_store_can_be_had_and_given_up_later(world: World) -> None:
    """By a new daemon each time, which applications do not notice."""
    node, digest = world.mounted(), digest_of(world.folder / "file")
    assert node.keeper.status(node.mount)["store"] is None
    with (node.mount / "file").open("rb", buffering=0) as file:
        file.read(MIB)
        node.keeper.efc("upgrade", str(node.mount), "-o", f"cache-dir={world.caches},cache-size=64MiB,cache-free=1")
        file.read(MIB)
    fill(node, digest)
    node.keeper.efc("upgrade", str(node.mount), "-o", "cache-size=128MiB")
    read_from_store(node, digest)


def test_a_store_moves_to_another_directory(world: World) -> None:
    """By the option that says where it is alone; what lay in the former stays there, and is found again."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    other = world.caches.parent / "other"
    other.mkdir(mode=0o755)
    node.keeper.efc("upgrade", str(node.mount), "-o", f"cache-dir={other}")
    fill(node, digest)
    assert Path(store(node)["directory"]).parent == other
    node.keeper.efc("upgrade", str(node.mount), "-o", f"cache-dir={world.caches},cache-free=2")
    assert Path(store(node)["directory"]).parent == world.caches
    read_from_store(node, digest)
    node.keeper.efc("upgrade", str(node.mount), "-o", "cache-free=1")


def test_a_store_does_not_move_where_it_cannot_be(world: World) -> None:
    """The former options and the former store stay in force, as after any other change that is refused."""
    node, without = world.node(), world.mounted()
    had, daemon = store(node)["directory"], node.keeper.daemon_pid(node.mount)

    def refusal(of: Reader, *options: str) -> str:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            of.keeper.efc("upgrade", str(of.mount), "-o", ",".join(options))
        return str(caught.value.stderr)

    missing, others = world.caches.parent / "missing", world.caches.parent / "others"
    others.mkdir()
    others.chmod(0o777)
    assert f"make it: mkdir -p {missing}" in refusal(node, f"cache-dir={missing}", "log-level=debug")
    assert "must belong to root" in refusal(node, f"cache-dir={others}")
    assert f"make it: mkdir -p {missing}" in refusal(without, f"cache-dir={missing}", "cache-size=64MiB")
    assert "needs cache-dir" in refusal(without, "cache-size=64MiB")
    assert (store(node)["directory"], node.keeper.daemon_pid(node.mount)) == (had, daemon)
    assert without.keeper.status(without.mount)["store"] is None
    world.caches.rename(world.caches.parent / "moved")
    node.keeper.efc("upgrade", str(node.mount), "-o", "log-level=debug,threads=3")
    assert node.keeper.daemon_pid(node.mount) != daemon, "one that has gone keeps nobody from changing something else"


def test_what_is_in_the_store_is_not_read_from_workers(world: World) -> None:
    """And what the store has not got comes from workers, and stays in the store."""
    worker = world.stack.enter_context(Worker())
    key = new_key(Path(world.stack.enter_context(tempfile.TemporaryDirectory())))
    options = (f"workers={worker.endpoint}", f"workers-key={key}")
    digest = digest_of(world.folder / "file")
    first = world.mounted(*options)
    first.await_workers(1)
    first.read_from_workers(digest)
    node = world.node(*options)
    node.await_workers(1)
    before = from_nas(node)
    fill(node, digest)
    assert from_nas(node) - before <= 0.5 * _SIZE
    workers_bytes = node.cache()["workers_bytes"]
    assert workers_bytes > 0
    read_from_store(node, digest)
    worker.end()
    read_from_store(node, digest)


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_disk_that_takes_nothing_in(world: World, what: str) -> None:
    """Reads are right, what is there is given, and the status says what is wrong."""
    with small_disk(world.caches, size_mib=24) as disk:
        node, digest = world.node(), digest_of(world.folder / "file")
        fill(node, digest)
        if what == "full":
            (disk / "ballast").write_bytes(bytes((os.statvfs(disk).f_bavail - 2) * 4096))
        else:
            node.keeper.unmount(node.mount)
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            node = world.node(keeper=node.keeper)
        for number in range(3):
            (world.folder / f"new{number}").write_bytes(os.urandom(_SIZE))
        time.sleep(REST_S)
        (world.folder / "clock").touch()
        os.stat(node.mount / "clock")
        for number in range(3):
            assert node.read(f"new{number}") == digest_of(world.folder / f"new{number}")
        assert node.read() == digest
        if what == "read-only":
            assert store(node)["state"] == "read_only"
            assert "read-only" in node.keeper.efc("status")
            read_from_store(node, digest)
        node.keeper.unmount(node.mount)


def test_directories_that_cannot_be_used_are_said_when_mounting(world: World) -> None:
    """One that is not there, one that everybody writes to, and none at all."""
    keeper = world.stack.enter_context(Keeper())

    def refusal(*options: str) -> str:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            keeper.mount(world.url, options=options)
        return str(caught.value.stderr)

    assert "No such file or directory" in refusal("cache-dir=/no/such/place", "cache-size=64MiB")
    world.caches.chmod(0o777)
    assert "must belong to root" in refusal(f"cache-dir={world.caches}", "cache-size=64MiB")
    world.caches.chmod(0o755)
    assert "needs cache-dir" in refusal("cache-size=64MiB")
    assert "needs 'cache-size'" in refusal(f"cache-dir={world.caches}")


def test_stores_are_listed_and_removed(world: World) -> None:
    """But never one that is in use; what is no store is left alone."""
    (world.caches / "precious").mkdir()
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    efc: Callable[..., str] = node.keeper.efc
    listed = efc("cache", "--directory", str(world.caches))
    assert str(node.mount) in listed
    assert world.url in listed
    with pytest.raises(subprocess.CalledProcessError) as caught:
        efc("cache", "--directory", str(world.caches), "clear", world.url)
    assert "in use" in caught.value.stderr
    assert "Nothing to remove" in efc("cache", "--directory", str(world.caches), "clear", "--unused")
    node.keeper.unmount(node.mount)
    [found] = world.stores()
    assert (found["source"], found["in_use"], found["mount"]) == (world.url, False, None)
    assert found["held_bytes"] >= _SIZE
    assert "Nothing to remove" in efc("cache", "--directory", str(world.caches), "clear", "--unused", "--days", "1")
    efc("cache", "--directory", str(world.caches), "clear", "--unused")
    assert names_of(world.caches) == ["precious"]


def names_of(folder: Path) -> Sequence[str]:
    """What lies in a folder."""
    return [path.name for path in files_of(folder)]


def test_a_disk_with_less_free_than_is_asked_for_takes_nothing_in_and_the_status_says_so(world: World) -> None:
    """It is not the store's to fill it."""
    with small_disk(world.caches, size_mib=24) as disk:
        (disk / "ballast").write_bytes(bytes(12 << 20))
        node, digest = world.node("cache-free=60"), digest_of(world.folder / "file")
        os.stat(node.mount / "clock")
        assert node.read() == digest
        wait_until(lambda: store(node)["state"] == "full", what="the store to be full", limit_s=20)
        assert "cache-free" in node.keeper.efc("status")
        assert store(node)["held_bytes"] == 0
        (disk / "ballast").unlink()

        def takes_some() -> bool:
            node.forget()
            assert node.read() == digest
            return bool(store(node)["held_bytes"]) and store(node)["state"] == "serving"

        wait_until(takes_some, what="the store to take something in", limit_s=60, interval_s=_RECENT_S)
        node.keeper.unmount(node.mount)
