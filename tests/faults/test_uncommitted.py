"""Data that an application has written and nobody has synced survives its daemon *and* its server.

The server takes it into its memory (UNSTABLE) and is killed. Its memory is the kernel's page cache here, which a
SIGKILL spares: so while it is down, what it had not committed is destroyed on its disk. What is there in the end has
been sent again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.proxy import Procedure, Proxy
from tests.faults.writer import Write, Writer, content
from tests.support.keeper import Keeper
from tests.support.nas import Export, Nas
from tests.support.processes import wait_until

KIB, MIB = 1 << 10, 1 << 20
KILLS = int(os.environ.get("FAULTS_KILLS", "5"))


@dataclass(kw_only=True)
class Scene:
    """A mount, what its files are to hold, and the deaths."""

    nas: Nas
    keeper: Keeper
    mount: Path
    behind: Path
    files: dict[str, bytearray] = field(default_factory=dict)

    def uncommitted_bytes(self) -> int:
        """As the daemon says."""
        return int(self.keeper.status(self.mount)["stats"]["uncommitted_bytes"])

    def daemon_dies(self) -> None:
        """SIGKILL; returns when the next one serves."""
        self.keeper.replace_daemon(self.mount)

    def keeper_dies(self) -> None:
        """SIGKILL; returns when the next one has the mount."""
        self.keeper.kill()
        self.keeper.start()
        wait_until(lambda: self.keeper.daemon_pid(self.mount), what="the takeover")

    def upgrade(self) -> None:
        """A hot upgrade, to the same program."""
        self.keeper.efc("upgrade", str(self.mount))

    def server_dies(self) -> None:
        """SIGKILL, and what it had not committed is lost. Returns when the next one answers."""
        self.nas.kill()
        for name in self.files:
            lose(self.behind / name)
        self.nas.start()

    def write(self, writer: Writer, name: str, offset: int, seed: int, length: int) -> None:
        """Through the mount; offset -1 appends."""
        data = writer.write(name, max(offset, 0), seed, length)
        file = self.files.setdefault(name, bytearray())
        place = len(file) if offset < 0 else offset
        file.extend(bytes(max(0, place - len(file))))
        file[place : place + length] = data

    def check(self) -> None:
        """On the server's side."""
        for name, expected in self.files.items():
            found = (self.behind / name).read_bytes()
            assert len(found) == len(expected), name
            assert found == expected, name


def lose(path: Path) -> None:
    """In the first half of the file all bytes are others, but for holes; the second half is gone."""
    half = path.stat().st_size // 2
    os.truncate(path, half)
    path.write_bytes(path.read_bytes().translate(bytes([0]) + b"\xdb" * 255))


@pytest.fixture
def scene(nas: Nas, keeper: Keeper, request: pytest.FixtureRequest) -> Iterator[Scene]:
    folder = nas.export_folder() / request.node.name.translate({ord("["): "-", ord("]"): None, ord(" "): "-"})
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    options = getattr(request, "param", [])
    with keeper.mounted(nas.url_of(f"export/{folder.name}"), options=options) as mount:
        yield Scene(nas=nas, keeper=keeper, mount=mount, behind=folder)


#: Methods of the scene.
DEATHS: dict[str, list[str]] = {
    "server": ["server_dies"],  # the control: what the daemon has it has
    "daemon": ["daemon_dies"],  # and what the server has
    "daemon, server": ["daemon_dies", "server_dies"],
    "server, daemon": ["server_dies", "daemon_dies"],
    "daemon, daemon, server": ["daemon_dies", "daemon_dies", "server_dies"],
    "daemon, server, daemon": ["daemon_dies", "server_dies", "daemon_dies"],
    "server, daemon, server": ["server_dies", "daemon_dies", "server_dies"],
    "upgrade, server": ["upgrade", "server_dies"],
    "keeper, daemon, server": ["keeper_dies", "daemon_dies", "server_dies"],
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("deaths", DEATHS)
def test_nothing_is_lost(scene: Scene, deaths: str) -> None:
    with Writer(scene.mount) as writer:
        writer.open("committed")
        scene.write(writer, "committed", 0, 1, 100 * KIB)
        writer.sync("committed")
        for name in ("large", "small", "over", "sparse"):
            writer.open(name)
        writer.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in range(5):
            scene.write(writer, "large", number * MIB, number, MIB)
            scene.write(writer, "small", number * 10, number, 10)
            scene.write(writer, "over", 3000 * number, number, 5 * KIB)
            scene.write(writer, "log", -1, number, 100 * (number + 1))
        scene.write(writer, "over", 1, 9, 3)
        scene.write(writer, "sparse", 3 * MIB + 17, 5, 40 * KIB)
        committed = scene.files.pop("committed")
        assert scene.uncommitted_bytes() >= sum(len(file) for name, file in scene.files.items() if name != "sparse")
        for death in DEATHS[deaths]:
            getattr(scene, death)()
        for name in scene.files:
            writer.sync(name)
        scene.files["committed"] = committed
        scene.check()
        assert scene.uncommitted_bytes() == 0
        # The next write is one like another.
        scene.write(writer, "over", 2, 11, 4 * KIB)
        scene.write(writer, "log", -1, 12, 4 * KIB)
        for name in scene.files:
            writer.close(name)
        scene.check()


@pytest.mark.timeout(120)
def test_writes_of_several_daemons_and_servers_keep_their_order(scene: Scene) -> None:
    moments = random.Random("order")
    deaths = [Scene.daemon_dies, Scene.server_dies, Scene.daemon_dies, Scene.upgrade, Scene.server_dies]
    with Writer(scene.mount) as writer:
        writer.open("file")
        for number in range(120):
            length = moments.choice([1, 100, 4 * KIB, 30 * KIB, 200 * KIB])
            scene.write(writer, "file", moments.randrange(300 * KIB), number, length)
            if number % 20 == 19 and number < 100:
                deaths[number // 20](scene)
        scene.daemon_dies()
        scene.server_dies()
        writer.sync("file")
    scene.check()


@pytest.mark.timeout(120)
def test_each_write_is_sent_again_by_the_rights_of_its_writer(keeper: Keeper) -> None:
    """Each file is open to its writer alone: its owner, or a supplementary group; not to root, who is nobody there."""
    with (
        Nas(exports=[Export(squash="Root_Squash")]) as nas,
        keeper.mounted(nas.url) as mount,
    ):
        nas.export_folder().chmod(0o777)
        _write_as_two_users(Scene(nas=nas, keeper=keeper, mount=mount, behind=nas.export_folder()))


def _write_as_two_users(scene: Scene) -> None:
    users = {
        "owner": {"uid": 4001, "gid": 4001},
        "group": {"uid": 4002, "gid": 4002, "groups": [5001, 5002, 5003]},
    }
    for name in users:
        path = scene.behind / name
        path.touch()
        path.chmod(0o600 if name == "owner" else 0o060)
        os.chown(path, 4001 if name == "owner" else 0, 5002 if name == "group" else 0)
    owner, group = (Writer(scene.mount, **arguments) for arguments in users.values())  # type: ignore[arg-type]
    with owner, group:
        for number, (name, writer) in enumerate([("owner", owner), ("group", group)] * 5):
            if number < 2:
                writer.open(name, os.O_WRONLY)
            scene.write(writer, name, number * 1000, number, 2500)
        scene.daemon_dies()
        scene.server_dies()
        owner.sync("owner")
        group.sync("group")
    scene.check()


@pytest.mark.timeout(120 + 30 * KILLS)
def test_storm(scene: Scene) -> None:
    """Daemons and servers die in the middle of writes. Nothing is synced before, so all may be destroyed each time.

    No two writes of a round meet: a late copy of a dead daemon's may cover a newer one (docs/SEMANTICS.md).
    """
    moments = random.Random("storm")
    deaths = [Scene.daemon_dies, Scene.daemon_dies, Scene.server_dies, Scene.upgrade]
    with Writer(scene.mount) as writer:
        for turn in range(KILLS):
            writes = _round(moments, turn)
            for name in {write[0] for write in writes}:
                writer.open(name)
                scene.files[name] = bytearray()
            writer.begin_burst(writes, pause_s=0.005)
            moments.shuffle(deaths)
            for death in deaths:
                time.sleep(moments.uniform(0, 0.5))
                death(scene)
            writer.end(60)
            for name, offset, seed, length in writes:
                file = scene.files[name]
                file.extend(bytes(max(0, offset + length - len(file))))
                file[offset : offset + length] = content(seed, length)
            for name in scene.files:
                writer.sync(name)
                writer.close(name)
            scene.check()
            scene.files.clear()


def _round(moments: random.Random, turn: int) -> list[Write]:
    """300 writes to 3 files, in any order, with gaps."""
    writes, ends = [], [0, 0, 0]
    for number in range(300):
        file, length = moments.randrange(3), moments.choice([1, 700, 4 * KIB, 9 * KIB, 70 * KIB])
        offset = ends[file] + moments.choice([0, 0, 10, 5000])
        writes.append((f"file-{turn}-{file}", offset, number, length))
        ends[file] = offset + length
    moments.shuffle(writes)
    return writes


@pytest.mark.timeout(180)
def test_daemons_die_while_it_is_sent_again(scene: Scene) -> None:
    with Writer(scene.mount) as writer:
        writer.open("file")
        for number in range(30):
            scene.write(writer, "file", number * MIB - number * 1000, number, MIB)
        scene.daemon_dies()
        scene.nas.kill()
        lose(scene.behind / "file")
        writer.begin("sync", "file")
        scene.nas.start()
        for _ in range(5):
            scene.daemon_dies()
            time.sleep(0.02)
        writer.end(60)
    scene.check()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scene", [["uncommitted=4MiB"]], indirect=True)
def test_more_than_the_budget_is_committed_meanwhile(scene: Scene) -> None:
    """Only what is committed may be gone from memory: all deaths, at random moments of a long write."""
    moments = random.Random("budget")
    with Writer(scene.mount) as writer:
        writer.open("file")
        for number in range(80):
            scene.write(writer, "file", number * 300 * KIB, number, moments.choice([4 * KIB, 300 * KIB, MIB]))
            assert number % 16 or scene.uncommitted_bytes() <= 4 * MIB
            if number % 20 == 19:
                scene.daemon_dies()
        scene.daemon_dies()
        # What is committed by now cannot be told from outside, so nothing is destroyed: the verifier has it sent again.
        scene.nas.restart(crash=True)
        scene.daemon_dies()
        writer.sync("file")
    scene.check()


@pytest.mark.timeout(120)
def test_what_finds_no_room_is_committed_before_its_write_returns(nas: Nas, keeper: Keeper) -> None:
    """More writes at once than the budget has memory for, and no COMMIT comes through for a while."""
    room, count = 4, 8
    with (
        Proxy(nas.port) as proxy,
        keeper.mounted(nas.url_of("export", port=proxy.port), options=["uncommitted=4MiB", "write-behind=0s"]) as mount,
        ExitStack() as stack,
    ):
        writers = [stack.enter_context(Writer(mount)) for _ in range(count)]
        for number, writer in enumerate(writers):
            writer.open(f"room-{number}")
        nas.pause()
        for number, writer in enumerate(writers):
            writer.begin("write", f"room-{number}", 0, number, MIB)
        wait_until(lambda: proxy.count(Procedure.WRITE) == count, what="all writes")
        with ExitStack() as holds:
            for _ in range(2 * count):
                holds.enter_context(proxy.held(Procedure.COMMIT, reply=False))
            nas.resume()
            wait_until(lambda: sum(writer.is_done() for writer in writers) >= room, what="those that have room")
            time.sleep(0.5)
            assert sum(writer.is_done() for writer in writers) == room
        assert [writer.end() for writer in writers] == [MIB] * count
        assert keeper.status(mount)["stats"]["uncommitted_bytes"] <= room * MIB
    for number in range(count):
        assert (nas.export_folder() / f"room-{number}").read_bytes() == content(number, MIB)


@pytest.mark.timeout(120)
def test_close_and_the_end_of_a_process_send_it_too(scene: Scene) -> None:
    with Writer(scene.mount) as writer:
        for name in ("closed", "left"):
            writer.open(name)
            scene.write(writer, name, 0, 1, 50 * KIB)
        scene.daemon_dies()
        scene.server_dies()
        writer.close("closed")
    wait_until(lambda: scene.uncommitted_bytes() == 0, what="the commit of a process that was killed")
    scene.check()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("scene", "server_dies"),
    [(["write-behind=0s"], True), (["write-behind=60s"], True), (["write-behind=60s"], False)],
    indirect=["scene"],
    ids=["sent", "held back", "held back with the server alive"],
)
def test_what_is_damaged_is_reported_and_costs_nobody_else(scene: Scene, *, server_dies: bool) -> None:
    marker = 4242
    with Writer(scene.mount) as writer:
        for name in ("whole", "damaged"):
            writer.open(name)
        scene.write(writer, "whole", 0, 1, 100 * KIB)
        scene.write(writer, "damaged", 0, marker, 4 * KIB)
        damage(scene.keeper, bytes(scene.files["damaged"]))
        scene.daemon_dies()
        if server_dies:
            scene.server_dies()
        writer.sync("whole")
        with pytest.raises(OSError, match="Input/output error"):
            writer.sync("damaged")
        writer.sync("damaged")  # said once
        scene.write(writer, "damaged", 0, 3, 4 * KIB)
        writer.sync("damaged")
    scene.check()
    assert scene.keeper.log.read_text().count("uncommitted data is damaged") == 1


@pytest.mark.timeout(120)
def test_a_failure_that_nobody_was_told_of_is_told_by_the_next_daemon(scene: Scene) -> None:
    """A process that ends is told nothing of its commit; another one has the file open."""
    with Writer(scene.mount) as other:
        with Writer(scene.mount) as writer:
            for name in ("gone", "there"):
                writer.open(name)
                other.open(name)
                writer.write(name, 0, 1, 50 * KIB)
            scene.nas.kill()
            (scene.behind / "gone").unlink()  # its handle is worth nothing now
            scene.nas.start()
        wait_until(lambda: scene.uncommitted_bytes() == 0, what="the commits of a process that was killed")
        scene.daemon_dies()
        other.sync("there")
        with pytest.raises(OSError, match=r"Input/output error|Stale file handle"):
            other.sync("gone")
    assert (scene.behind / "there").read_bytes() == content(1, 50 * KIB)


def damage(keeper: Keeper, data: bytes) -> None:
    """One byte of what the saved state keeps of it."""
    links = Path(f"/proc/{keeper.pid}/fd").iterdir()
    state = next(link for link in links if "memfd:efc-state" in os.readlink(link))
    with state.open("r+b", buffering=0) as memory:
        size, offset = os.fstat(memory.fileno()).st_size, 0
        while offset < size:
            try:
                start = os.lseek(memory.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(memory.fileno(), start, os.SEEK_HOLE)
            found = os.pread(memory.fileno(), offset - start, start).find(data)
            if found >= 0:
                os.pwrite(memory.fileno(), bytes([data[7] ^ 1]), start + found + 7)
                return
    raise AssertionError("the data is not there")


@pytest.mark.timeout(120)
def test_an_idle_daemon_is_small_again(scene: Scene) -> None:
    def state_bytes() -> int:
        links = Path(f"/proc/{scene.keeper.pid}/fd").iterdir()
        return next(link.stat().st_blocks * 512 for link in links if "memfd:efc-state" in os.readlink(link))

    empty = state_bytes()
    with Writer(scene.mount) as writer:
        writer.open("file")
        for number in range(25):
            scene.write(writer, "file", number * MIB, number, MIB)
        assert state_bytes() > empty + 25 * MIB
        scene.daemon_dies()
        writer.sync("file")
        wait_until(lambda: state_bytes() < empty + 8 * MIB, what="memory to be given back")
    scene.check()
