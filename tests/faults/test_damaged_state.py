"""A word of the saved state is damaged and the daemon dies: the next one serves, or the session is given up loudly.

What must not be is a daemon that starts for ever, or a mount that counts as served and serves nothing.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.node import keeper as csi_keeper
from tests.support.driver import Driver, static_volume
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import stop_process, wait_until

#: Ends a hang. What is waited for takes some milliseconds.
LIMIT_S = 30
#: A daemon that lives for so long has not died young, and the keeper waits only after several that have in a row.
YOUNG_S, STRIKES = 0.31, 3
WORD = 8
#: efc/state/src: the header's words, and the tags of what is looked at.
SESSION, TABLE, ROW = 2, 8, 4
NODES, BLOB, NEGOTIATED, PORTS = 1, 4, 5, 7
#: Of a word, one in each half.
BITS = 1 << 5 | 1 << 37
_SERVING, _ABORTED = efc_pb2.MountStatus.SERVING, efc_pb2.MountStatus.ABORTED


@dataclass(kw_only=True)
class Region:
    """Where equally large records lie, in words."""

    row: int
    first: int
    words: int


class Damage:
    """The saved state of the only mount of a keeper, opened beside it."""

    def __init__(self, keeper_pid: int) -> None:
        [self.path] = [link for link in Path(f"/proc/{keeper_pid}/fd").iterdir() if _is_state(link)]

    def regions(self) -> dict[int, Region]:
        """By tag."""
        count = self.read(1) >> 32
        rows = [TABLE + ROW * number for number in range(count)]
        return {
            self.read(row) & 0xFF: Region(row=row, first=self.read(row + 2), words=self.read(row) >> 32) for row in rows
        }

    def read(self, word: int) -> int:
        with self.path.open("rb") as file:
            return int(struct.unpack("=Q", os.pread(file.fileno(), WORD, word * WORD))[0])

    def flip(self, word: int) -> None:
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), struct.pack("=Q", self.read(word) ^ BITS), word * WORD)


def _is_state(link: Path) -> bool:
    try:
        return os.readlink(link).startswith("/memfd:efc-state")
    except FileNotFoundError:  # of a connection that has ended meanwhile
        return False


def header(damage: Damage) -> Iterator[int]:
    """All words but those of the table, and what finds one of the regions."""
    yield from range(TABLE)
    row = damage.regions()[BLOB].row
    yield from range(row, row + ROW - 1)


def last_columns(damage: Damage) -> Iterator[int]:
    """How many slots a region has."""
    for region in damage.regions().values():
        yield region.row + ROW - 1


def pair(tag: int, words: int) -> Callable[[Damage], Iterator[int]]:
    """The first words of both records of a region."""

    def of_both(damage: Damage) -> Iterator[int]:
        region = damage.regions()[tag]
        for record in range(2):
            first = region.first + record * region.words
            yield from range(first, first + words)

    return of_both


def root(damage: Damage) -> Iterator[int]:
    """The record of node 1."""
    region = damage.regions()[NODES]
    yield from range(region.first + region.words, region.first + 2 * region.words)


PLACES: dict[str, Callable[[Damage], Iterator[int]]] = {
    "header": header,
    "slots": last_columns,
    "negotiated": pair(NEGOTIATED, 5),
    "blob": pair(BLOB, 4),
    "ports": pair(PORTS, 4),
    "root": root,
}


class Scene:
    """A mount that is damaged again and again, and made anew when it is given up."""

    def __init__(self, keeper: Keeper, url: str, export: Path) -> None:
        self.keeper, self.url, self.export = keeper, url, export
        self.asked = csi_keeper.Keeper(str(keeper.run_dir))
        self.target = keeper.mount(url)
        self.number = 0

    def status(self) -> efc_pb2.MountStatus:
        [mount] = asyncio.run(self.asked.status()).mounts
        return mount

    def use(self) -> None:
        """The root, a name that nobody has asked for, and its content."""
        self.number += 1
        (self.export / f"new-{self.number}").write_text("content")
        target = shlex.quote(str(self.target))
        script = f"stat {target} && cat {target}/new-{self.number} && echo more > {target}/made-{self.number}"
        with subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as user:
            try:
                _, complaints = user.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                self.keeper.close()  # so that the process can end
                raise
        assert user.returncode == 0, complaints.decode()

    def strike(self, words: Sequence[int]) -> str:
        """Damages words beside a daemon that dies then; what has become of the mount."""
        self.use()
        if self.number % STRIKES == 0:
            time.sleep(YOUNG_S)
        former = self.status().pid
        stop_process(former)
        damage = Damage(self.keeper.pid)
        for word in words:
            damage.flip(word)
        os.kill(former, signal.SIGKILL)
        now = self.status()

        def is_over() -> bool:
            nonlocal now
            now = self.status()
            return now.state == _ABORTED or (now.state == _SERVING and now.pid not in (0, former))

        wait_until(is_over, what=f"the end of the damage to {words}", limit_s=LIMIT_S, interval_s=0.01)
        if now.state == _SERVING:
            self.use()
            return "serves"
        assert "saved state" in now.reason
        self.keeper.unmount(self.target)
        self.target = self.keeper.mount(self.url)
        return "given up"


@pytest.fixture
def scene(nas: Nas, keeper: Keeper) -> Iterator[Scene]:
    scene = Scene(keeper, nas.url, nas.export_folder())
    yield scene
    keeper.unmount(scene.target)


@pytest.mark.parametrize("place", PLACES)
def test_a_damaged_word(scene: Scene, place: str) -> None:
    outcomes: dict[str, list[int]] = {"serves": [], "given up": []}
    for word in list(PLACES[place](Damage(scene.keeper.pid))):
        outcomes[scene.strike([word])].append(word)
    # Each word of the header that its checksum covers, and no other word.
    assert len(outcomes["given up"]) == (7 if place == "header" else 0), outcomes
    assert outcomes["serves"]


def test_a_root_that_is_damaged_under_its_daemon(scene: Scene) -> None:
    damage = Damage(scene.keeper.pid)
    for word in list(root(damage)):
        damage.flip(word)
        scene.use()
    assert scene.strike([]) == "serves"


def test_both_copies_damaged(scene: Scene) -> None:
    """The server is found anew, by the NAS; what was agreed with the kernel is not to be had again."""
    regions = Damage(scene.keeper.pid).regions()
    blobs, negotiated, nodes = (regions[tag] for tag in (BLOB, NEGOTIATED, NODES))
    assert scene.strike([blobs.first + 3, blobs.first + blobs.words + 3]) == "serves"
    root_handle = nodes.first + nodes.words + 9
    assert scene.strike([blobs.first + 3, blobs.first + blobs.words + 3, root_handle]) == "serves"
    assert scene.strike([negotiated.first + 3, negotiated.first + negotiated.words + 3]) == "given up"
    assert "the session is given up" in scene.keeper.log.read_text()


def test_a_published_volume_is_mounted_anew(nas: Nas) -> None:
    """By the node plugin, without a word of kubelet's."""
    (nas.export_folder() / "file").write_text("content")
    with Driver(source=nas.url) as driver:
        volume, target = static_volume("damaged", nas.url), driver.target()
        driver.publish(volume, target)
        [before] = driver.published()
        [daemon] = driver.daemons()
        stop_process(daemon.pid)
        Damage(driver.pid("keeper")).flip(SESSION)
        os.kill(daemon.pid, signal.SIGKILL)
        keeper = csi_keeper.Keeper(str(driver.run_dir))
        wait_until(
            lambda: [mount.state for mount in asyncio.run(keeper.status()).mounts] == [_ABORTED],
            what="the end of the session",
            limit_s=LIMIT_S,
        )
        condition = driver.stats(volume, target).volume_condition
        assert condition.abnormal
        assert "saved state" in condition.message or "replaced" in condition.message, condition.message
        driver.crash("node")  # it looks at once then
        wait_until(lambda: driver.published()[-1].device != before.device, what="the new mount", limit_s=LIMIT_S)
        assert (target / "file").read_text() == "content"
        driver.unpublish(volume, target)
