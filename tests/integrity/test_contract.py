"""The contract of fsync and close: what was acknowledged is on the NAS, whoever is killed at whatever moment.

Writers run on the mount and say after each record that it is safe: after fsync, after close, or after a write with
O_SYNC. Meanwhile the NAS is killed, loses power, or the daemon is killed. At the end the NAS's own file system must
hold every record that was called safe. An operation that failed promised nothing; how many fail is reported.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from tests.integrity.conftest import SECONDS, Scene
from tests.integrity.disk import Disk, disk_that_loses_power
from tests.integrity.storm import Blow, storm
from tests.support.keeper import Keeper
from tests.support.nas import Export, Nas

pytestmark = pytest.mark.timeout(SECONDS * 3 + 240)

SIZES = (0, 1, 100, 4096, 70_001, 1 << 20, (3 << 20) + 7)
FORK = multiprocessing.get_context("fork")


def record_bytes(name: str, size: int) -> bytes:
    """What record `name` holds: its own bytes, repeated at a distance that is no multiple of a page."""
    part = hashlib.shake_128(name.encode()).digest(65_521)
    return (part * (size // len(part) + 1))[:size]


# ---------------------------------------------------------------- ways to make a record safe


def by_fsync(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        write_all(file.fileno(), data)
        os.fsync(file.fileno())


def by_close(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    write_all(descriptor, data)
    os.close(descriptor)


def by_synchronous_write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_SYNC, 0o644)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def by_rename(path: Path, data: bytes) -> None:
    """What editors and databases do: a new file, synced, takes the name."""
    new = path.with_suffix(".new")
    by_fsync(new, data)
    new.rename(path)


WAYS: Mapping[str, Callable[[Path, bytes], None]] = {
    "fsync": by_fsync,
    "close": by_close,
    "sync": by_synchronous_write,
    "rename": by_rename,
}


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[: 128 << 10]) :]


# ---------------------------------------------------------------- writers


def write_records(folder: Path, *, way: str, seed: int, says: Connection) -> None:
    """Writes records until it is ended; says ("safe", name, size) and ("error", name, errno)."""
    choice = random.Random(f"{seed} {way}")
    log = folder / f"{way}.log"
    number = 0
    while True:
        name, size = f"{way}-{number}", choice.choice(SIZES)
        try:
            WAYS[way](folder / name, record_bytes(name, size))
            says.send(("safe", name, size))
            append(log, number)
            says.send(("line", way, number))
        except OSError as error:
            says.send(("error", name, error.errno))
            time.sleep(0.05)
        number += 1


def append(path: Path, number: int) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"%08d\n" % number)
        os.fsync(file.fileno())


class Writers:
    """The writers' processes and what they said."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.safe: dict[str, int] = {}
        self.lines: dict[str, list[int]] = {way: [] for way in WAYS}
        self.errors: list[tuple[str, int]] = []
        self._pipes: dict[str, Connection] = {}
        self._processes: list[ForkProcess] = []
        for way in WAYS:
            hears, says = FORK.Pipe(duplex=False)
            arguments = {"way": way, "seed": seed, "says": says}
            process = FORK.Process(target=write_records, args=(folder,), kwargs=arguments, daemon=True)
            process.start()
            says.close()
            self._pipes[way] = hears
            self._processes.append(process)

    def listen(self, limit_s: float) -> None:
        """Takes down what they say for `limit_s` seconds."""
        end = time.monotonic() + limit_s
        while (left_s := end - time.monotonic()) > 0:
            for pipe in multiprocessing.connection.wait(list(self._pipes.values()), timeout=left_s):
                assert isinstance(pipe, Connection)
                self._note(pipe.recv())

    def _note(self, message: tuple[str, str, int]) -> None:
        kind, name, number = message
        if kind == "safe":
            self.safe[name] = number
        elif kind == "line":
            self.lines[name].append(number)
        else:
            self.errors.append((name, number))

    def end(self) -> None:
        """Kills them, and takes down what they had said before."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(10)
            assert not process.is_alive(), "a killed writer does not end"
        for pipe in self._pipes.values():
            try:
                while pipe.poll():
                    self._note(pipe.recv())
            except EOFError:
                continue


# ---------------------------------------------------------------- the tests


def kill_daemon(scene: Scene) -> None:
    """SIGKILL; returns when another daemon serves."""
    scene.keeper.replace_daemon(scene.mount)


def kill_both(scene: Scene) -> None:
    scene.nas.kill()
    killed = scene.keeper.kill_daemon(scene.mount)
    scene.nas.start()
    scene.keeper.await_successor(scene.mount, killed)


CASES = {
    "NAS killed": lambda scene: {"NAS killed": lambda: scene.nas.restart(crash=True)},
    "daemon killed": lambda scene: {"daemon killed": lambda: kill_daemon(scene)},
    "both killed": lambda scene: {
        "NAS killed": lambda: scene.nas.restart(crash=True),
        "daemon killed": lambda: kill_daemon(scene),
        "both killed": lambda: kill_both(scene),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_acknowledged_records_outlive_kills(scene: Scene, case: str, details: dict[str, object]) -> None:
    check_contract(scene, CASES[case](scene), name=case, details=details)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """The disk of a NAS whose power can fail."""
    with disk_that_loses_power(tmp_path / "disk", size_mib=max(4096, int(SECONDS * 8))) as disk:
        yield disk


def test_power_failure_takes_what_is_not_synced(disk: Disk) -> None:
    """Of the disk alone: a power failure that loses nothing would prove nothing."""
    by_fsync(disk.folder / "synced", b"x" * 100_000)
    (disk.folder / "not-synced").write_bytes(b"x" * 100_000)
    disk.lose_power()
    assert stored(disk.folder / "synced") == b"x" * 100_000
    assert not stored(disk.folder / "not-synced")


def test_acknowledged_records_outlive_a_power_failure_of_the_nas(
    disk: Disk, seed: int, details: dict[str, object]
) -> None:
    with Nas(exports=[Export(path=disk.folder)]) as nas, Keeper() as keeper, keeper.mounted(nas.url) as mount:

        def power_failure() -> None:
            nas.kill()
            disk.lose_power()
            nas.start()

        scene = Scene(nas=nas, keeper=keeper, mount=mount, seed=seed)
        check_contract(scene, {"power failure": power_failure}, name="power failure", details=details)


def check_contract(scene: Scene, blows: Mapping[str, Blow], *, name: str, details: dict[str, object]) -> None:
    """Writers under a storm; then every acknowledged record is compared with what the NAS has."""
    (scene.mount / "records").mkdir()
    with storm(blows, seed=scene.seed, pause_s=(0.3, 2.0)) as weather:
        writers = Writers(scene.mount / "records", seed=scene.seed)
        try:
            writers.listen(SECONDS * 0.1)
        finally:
            writers.end()
    found = {
        "records": len(writers.safe),
        "lines": sum(map(len, writers.lines.values())),
        "errors": dict(Counter(errno.errorcode[code] for _, code in writers.errors)),
        "storm": str(weather),
    }
    details[name] = found
    print(f"{name}: {found}")
    behind = scene.behind / "records"
    lost = [record for record, size in writers.safe.items() if stored(behind / record) != record_bytes(record, size)]
    assert lost == [], f"{len(lost)} of {len(writers.safe)} acknowledged records are not on the NAS"
    for way, lines in writers.lines.items():
        log = [int(line) for line in (stored(behind / f"{way}.log") or b"").splitlines()]
        assert sorted(set(lines) - set(log)) == [], f"acknowledged lines of {way}.log are not on the NAS"
    assert sum(weather.counts.values()) >= 1
    assert len(writers.safe) >= 20, "the writers made no progress"
    if "daemon killed" not in blows:
        assert writers.errors == [], "a hard mount waits for its NAS: no operation fails"
    sync_is_possible_again(scene)


def stored(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def sync_is_possible_again(scene: Scene) -> None:
    """The mount works after all that."""
    by_fsync(scene.mount / "after", b"the storm")
    assert (scene.behind / "after").read_bytes() == b"the storm"
