"""What happens to a local store's directory, its disk and its daemons: reads stay right, and the status says it."""

# ruff: noqa: F811 - fixtures of another module
from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from tests.integrity.test_store import _SIZE, World, datasets, world  # noqa: F401 - the fixtures
from tests.integrity.test_workers import MIB, Reader, digest_of
from tests.support.keeper import Keeper
from tests.support.processes import wait_until
from tests.support.scripted_nas import Call, ScriptedNas
from tests.support.site import REST_S

_STATE = efc_pb2.StoreStats
#: A daemon keeps blocks that it has just read for two seconds at most.
_RECENT_S = 2.0
_CENTURY_S = 100 * 365 * 86_400


def test_two_keepers_with_one_directory_have_stores_of_their_own(world: World) -> None:
    """Also when all their daemons die at once; and the files stay those of whom they belong to."""
    nodes, digest = [world.node(), world.node()], digest_of(world.folder / "file")
    for node in nodes:
        fill(node, digest)
    directories = [directory_of(node) for node in nodes]
    assert len(set(directories)) == 2
    for _ in range(3):
        for node in nodes:
            os.kill(node.keeper.mount_status(node.mount).pid, signal.SIGKILL)
        for node in nodes:
            assert node.read() == digest
    assert [directory_of(node) for node in nodes] == directories
    for node in nodes:
        read_from_store(node, digest)
        assert store(node).state == _STATE.SERVING


def test_a_store_that_is_removed_under_reads_is_said_and_the_next_daemon_has_another(world: World) -> None:
    """Or the whole directory for caches."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    with reading(node, digest):
        shutil.rmtree(directory_of(node))
        node.forget()
        (world.folder / "new").write_bytes(os.urandom(MIB))
        time.sleep(REST_S)
        (world.folder / "clock").touch()
        (node.mount / "clock").stat()
        assert node.read("new") == digest_of(world.folder / "new")
        wait_until(lambda: store(node).state == _STATE.FAILED, what="it to be said", limit_s=20)
        assert "directory has gone" in node.keeper.efc("status")
        node.keeper.efc("upgrade", str(node.mount))
    read_from_store(node, digest)
    assert store(node).state == _STATE.SERVING
    shutil.rmtree(world.caches)
    assert node.read() == digest
    node.keeper.replace_daemon(node.mount)
    assert node.read() == digest
    assert "no local store" in node.keeper.efc("status")
    world.caches.mkdir(mode=0o755)
    node.keeper.replace_daemon(node.mount)
    fill(node, digest)


def test_a_link_is_no_directory_for_caches(world: World) -> None:
    (world.caches.parent / "link").symlink_to(world.caches)
    keeper = world.stack.enter_context(Keeper())
    with pytest.raises(subprocess.CalledProcessError) as caught:
        keeper.mount(world.url, options=[f"cache-dir={world.caches.parent / 'link'}", "cache-size=64MiB"])
    assert "symbolic link" in str(caught.value.stderr)


def test_times_of_another_century_cost_nothing(world: World) -> None:
    """A clock that was wrong when files were used last, or is now."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    for years in (_CENTURY_S, -_CENTURY_S):
        node.keeper.unmount(node.mount)
        for path in world.caches.rglob("*"):
            os.utime(path, (max(time.time() + years, 0),) * 2)
        node = world.node(keeper=node.keeper)
        read_from_store(node, digest)


def test_nobody_removes_a_store_whose_daemon_has_just_died(world: World) -> None:
    """`efc cache clear` again and again, while daemons are killed under reads."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    directory = directory_of(node)
    with reading(node, digest):
        for _ in range(4):
            node.keeper.replace_daemon(node.mount)
            said = node.keeper.efc("cache", "--directory", str(world.caches), "clear", "--unused")
            assert "Nothing to remove" in said
    assert directory_of(node) == directory
    read_from_store(node, digest)


def test_bytes_that_flip_under_reads_are_not_given(world: World) -> None:
    """Of files that were compared before; the daemon has them open."""
    node, digest = world.node(), digest_of(world.folder / "file")
    fill(node, digest)
    with reading(node, digest):
        for _ in range(3):
            for path in directory_of(node).glob("files/*/*.data"):
                with path.open("r+b") as file:
                    for place in range(100, _SIZE, MIB):
                        file.seek(place)
                        (byte,) = file.read(1)
                        file.seek(place)
                        file.write(bytes([byte ^ 1]))
            node.forget()
            assert node.read() == digest
            time.sleep(1)
    assert store(node).damaged > 0
    read_from_store(node, digest)


def test_a_store_as_it_was_at_any_moment_is_sound_or_empty(world: World) -> None:
    """Copied while it was written to, some of it cut short and some of a former moment: as after a loss of power."""
    for number in range(4):
        (world.folder / f"more{number}").write_bytes(os.urandom(4 * MIB))
    time.sleep(REST_S)
    (world.folder / "clock").touch()
    names = ["file", "small", *(f"more{number}" for number in range(4))]
    digests = {name: digest_of(world.folder / name) for name in names}
    dice, node, found = random.Random(5), world.node(), 0
    for number in range(4):
        (node.mount / "clock").stat()
        directory = directory_of(node)
        copies = []
        for name in dice.sample(names, len(names)):
            assert node.read(name) == digests[name]
            copies.append(_copied(directory, world.caches.parent / f"copy-{number}-{name}"))
        node.keeper.kill()
        for pid in [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_daemon_of(path, directory)]:
            os.kill(pid, signal.SIGKILL)
        node.keeper.close()
        _restore(dice.choice(copies), directory)
        _restore(dice.choice(copies), directory, dice)
        node = world.node()
        (node.mount / "clock").stat()
        before = given(node)
        for name in names:
            assert node.read(name) == digests[name], f"{name} after the loss of power {number}"
        found += given(node) - before
        assert store(node).state in (_STATE.SERVING, _STATE.LOADING)
    assert found > 0, "nothing was left of any of them"


def test_a_disk_that_takes_a_second_for_each_read_is_not_waited_for(world: World) -> None:
    """A directory on a file system that is slow: reads ask it a few times, then the NAS, and the status says so."""
    slow_s, slow = [0.0], world.stack.enter_context(ScriptedNas())

    def hook(call: Call) -> bytes | None:
        if call.procedure == "READ":
            time.sleep(slow_s[0])
        return call.reply

    slow.hook = hook
    slow_mount = world.mounted().keeper.mount(slow.url)
    (slow_mount / "caches").mkdir(mode=0o755)
    node = world.mounted(f"cache-dir={slow_mount / 'caches'}", "cache-size=64MiB", "cache-free=1")
    digest = digest_of(world.folder / "file")
    fill(node, digest)
    slow_s[0], times_s = 1.0, []

    def is_slow() -> bool:
        forget_pages(directory_of(node))
        node.forget()
        began = time.monotonic()
        assert node.read() == digest
        times_s.append(round(time.monotonic() - began, 2))
        return store(node).state == _STATE.SLOW

    wait_until(is_slow, what="it to be given up", limit_s=60)
    before = store(node)
    assert is_slow()
    print(f"reads of 16 MiB with a disk that takes a second: {times_s} s, {before.late} late answers")
    assert (store(node).late, store(node).hits) == (before.late, before.hits), "it is not asked any more"
    assert "slower than the NAS" in node.keeper.efc("status")
    slow_s[0] = 0.0
    assert node.read() == digest
    node.keeper.close()


def test_few_descriptors_are_not_all_the_stores(world: World) -> None:
    """Many large files of a store are read, with few descriptors; then the NAS is restarted, which takes new ones."""
    count = 200
    for number in range(count):
        (world.folder / f"large{number}").write_bytes(os.urandom(70_000))
    time.sleep(REST_S)
    (world.folder / "clock").touch()
    keeper = world.stack.enter_context(Keeper(command_prefix=["prlimit", "--nofile=128:128"]))
    node = world.node(keeper=keeper)
    (node.mount / "clock").stat()
    digests = [digest_of(world.folder / f"large{number}") for number in range(count)]
    for _ in range(3):
        for number in range(count):
            node.forget(f"large{number}")
            assert node.read(f"large{number}") == digests[number]
        time.sleep(2)
        opened = len(os.listdir(f"/proc/{keeper.mount_status(node.mount).pid}/fd"))
        assert opened <= 96, "some are left for the NAS"
    assert store(node).state == _STATE.SERVING


def store(node: Reader) -> efc_pb2.StoreStats:
    """What the node's store does."""
    return node.keeper.mount_status(node.mount).stats.store


def directory_of(node: Reader) -> Path:
    """Where its store is."""
    return Path(node.keeper.mount_status(node.mount).store)


def given(node: Reader) -> int:
    """Bytes that its store has given."""
    return node.keeper.mount_status(node.mount).stats.cache.store_bytes


def fill(node: Reader, digest: str) -> None:
    """Reads the file until all of it comes from the store."""
    (node.mount / "clock").stat()
    read_from_store(node, digest)


def read_from_store(node: Reader, digest: str) -> None:
    """Reads it, again if need be, until a reading takes all of it from the store."""

    def is_from_store() -> bool:
        time.sleep(_RECENT_S)
        before = given(node)
        node.forget()
        assert node.read() == digest
        return given(node) - before >= _SIZE

    wait_until(is_from_store, what="all of it from the store", limit_s=60)


def forget_pages(directory: Path) -> None:
    """The kernel lets its pages of a store's large files go."""
    for path in directory.glob("files/*/*.data"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def reading(node: Reader, digest: str) -> Iterator[None]:
    """Somebody reads the file all the time, and finds what he should."""
    is_over, wrong = threading.Event(), list[str]()

    def keep_reading() -> None:
        while not is_over.is_set():
            try:
                found = node.read()
                node.forget()
            except OSError as error:
                found = repr(error)
            if found != digest:
                wrong.append(found)

    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        yield
    finally:
        is_over.set()
        reader.join()
    assert wrong == []


def _is_daemon_of(process: Path, directory: Path) -> bool:
    with suppress(OSError):
        return os.readlink(process / "fd" / "0") == str(directory)
    return False


def _copied(directory: Path, to: Path) -> Path:
    """The directory as it is found, while it changes."""
    for path in directory.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(path, target)
    return to


def _restore(copy: Path, directory: Path, dice: random.Random | None = None) -> None:
    """Puts the copy in the place of what is there; with dice, half of the files, and pages of them cut off."""
    for path in copy.rglob("*"):
        if not path.is_file() or path.name in ("lock", "source"):
            continue
        if dice is not None and dice.random() < 0.5:
            continue
        target = directory / path.relative_to(copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if dice is not None and dice.random() < 0.3:
            os.truncate(target, dice.randrange(target.stat().st_size + 1))
        target.chmod(0o666)
