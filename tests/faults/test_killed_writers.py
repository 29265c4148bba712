"""What a killed process had asked the NAS for is executed before what others ask for later, or not at all.

The NAS holds a call of a process back, the process is killed, and another one changes the same object. The NAS executes
the calls of one connection in any order, as real servers do, so only the client can keep the order.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.writer import Writer, content
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import wait_until
from tests.support.scripted_nas import PROCEDURES, Node, ScriptedNas

pytestmark = pytest.mark.timeout(120)

_LENGTH = 4096
#: For how long a call that must not be sent is looked for.
_LOOK_S = 0.5


class HeldNas(ScriptedNas):
    """Executes all calls at once, but for those that a test holds back: they wait before they are executed."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[str] = []
        #: A cache of replies: copies of a call that is held back are dropped, as real servers do, and counted by xid.
        self.remembers = False
        self.dropped: Counter[int] = Counter()
        self._held: set[int] = set()
        self._gates: dict[str, threading.Event] = {}

    def _execute(self, connection: socket.socket, message: bytes) -> None:
        threading.Thread(target=self._execute_alone, args=(connection, message), daemon=True).start()

    def _execute_alone(self, connection: socket.socket, message: bytes) -> None:
        is_nfs = int.from_bytes(message[12:16], "big") == 100003
        procedure = PROCEDURES[int.from_bytes(message[20:24], "big")] if is_nfs else ""
        gate = self._gates.pop(procedure, None)
        xid = int.from_bytes(message[:4], "big")
        if self.remembers and xid in self._held:
            self.dropped[xid] += 1
            return
        self.arrived.append(procedure)
        if gate is not None:
            self._held.add(xid)
            gate.wait(60)
            self._held.discard(xid)
        try:
            super()._execute(connection, message)
        except OSError:
            return  # the client has given the connection up

    @contextmanager
    def held(self, procedure: str) -> Iterator[Callable[[], None]]:
        """Holds the next call of this procedure back until the yielded function is called, or the block ends."""
        gate = self._gates[procedure] = threading.Event()
        try:
            yield gate.set
        finally:
            gate.set()

    def count(self, procedure: str) -> int:
        """Calls of this procedure that have arrived."""
        return self.arrived.count(procedure)


@pytest.fixture
def held_nas() -> Iterator[HeldNas]:
    with HeldNas() as nas:
        yield nas


@pytest.fixture
def mounted(held_nas: HeldNas) -> Iterator[tuple[Keeper, Path]]:
    # Writes are calls of their callers.
    with Keeper() as keeper, keeper.mounted(held_nas.url, options=["connections=4", "write-behind=0s"]) as path:
        yield keeper, path


def kill_in_call(nas: HeldNas, folder: Path, procedure: str, prepare: Callable[[Writer], None], *call: object) -> None:
    """Kills a process while `procedure` of its `call` is held back; returns when the process is gone."""
    with Writer(folder) as victim:
        prepare(victim)
        before = nas.count(procedure)
        victim.begin(*call)
        wait_until(lambda: nas.count(procedure) > before, what=f"the {procedure}")


def expect_none_before_release(nas: HeldNas, procedure: str, count: int, release: Callable[[], None]) -> None:
    """No further call of `procedure` comes while the first is held back."""
    end = time.monotonic() + _LOOK_S
    while time.monotonic() < end:
        assert nas.count(procedure) == count, f"a {procedure} was sent before the killed process's was answered"
        time.sleep(0.02)
    release()


def add_file(nas: HeldNas, name: str) -> Node:
    return nas.add(nas.root, name, data=bytes(_LENGTH))


@pytest.mark.parametrize("ending", ["answered", "connection lost"])
def test_a_write(held_nas: HeldNas, mounted: tuple[Keeper, Path], ending: str) -> None:
    file = add_file(held_nas, "file")
    with Writer(mounted[1]) as writer, held_nas.held("WRITE") as release:
        writer.open("file", os.O_RDWR)
        kill_in_call(
            held_nas, mounted[1], "WRITE", lambda victim: victim.open("file", os.O_RDWR),
            "write", "file", 0, 1, _LENGTH,
        )  # fmt: skip
        writer.begin("write", "file", 0, 2, _LENGTH)
        if ending == "connection lost":
            held_nas.cut_connections()  # the call goes out again, and the first copy of it remains held
            writer.end()
            writer.sync("file")
            assert held_nas.count("WRITE") >= 3  # both, and the first once more; on a busy machine more often
            assert bytes(file.data) == content(2, _LENGTH)
            return
        expect_none_before_release(held_nas, "WRITE", 1, release)
        writer.end()
        writer.sync("file")
        assert bytes(file.data) == content(2, _LENGTH)
        wait_until(lambda: held_nas.counts["WRITE"] == 2, what="both")
        assert bytes(file.data) == content(2, _LENGTH)


@pytest.mark.parametrize("features", ["running", "6.1"])
@pytest.mark.parametrize("length", [_LENGTH, 1 << 20])
def test_a_write_whose_daemons_are_killed_too(held_nas: HeldNas, features: str, length: int) -> None:
    """Each next daemon asks for it again, under its old number, and later writes wait for the answer."""
    file = held_nas.add(held_nas.root, "file", data=bytes(length))
    held_nas.remembers = True
    options = ["connections=4", *([f"fuse-features={features}"] if features != "running" else [])]
    with (
        Keeper() as keeper,
        keeper.mounted(held_nas.url, options=options) as path,
        Writer(path) as writer,
        held_nas.held("WRITE") as release,
    ):
        writer.open("file", os.O_RDWR)
        kill_in_call(
            held_nas, path, "WRITE", lambda victim: victim.open("file", os.O_RDWR), "write", "file", 0, 1, length
        )  # fmt: skip
        for _ in range(2):
            held_nas.dropped.clear()
            keeper.replace_daemon(path)
            wait_until(lambda: held_nas.dropped, what="the same call again")
        writer.begin("write", "file", 0, 2, length)
        expect_none_before_release(held_nas, "WRITE", 1, release)
        writer.end()
        writer.sync("file")
        assert bytes(file.data) == content(2, length)
        stats = keeper.status(path)["stats"]
        assert stats["uncommitted_bytes"] == 0, "the killed process's write is still kept"


def test_a_truncation(held_nas: HeldNas, mounted: tuple[Keeper, Path]) -> None:
    file = add_file(held_nas, "file")
    with Writer(mounted[1]) as writer, held_nas.held("SETATTR") as release:
        writer.open("file", os.O_RDWR)
        kill_in_call(
            held_nas, mounted[1], "SETATTR", lambda victim: victim.open("file", os.O_RDWR), "truncate", "file", 0
        )  # fmt: skip
        writer.begin("write", "file", 0, 2, _LENGTH)
        expect_none_before_release(held_nas, "WRITE", 0, release)
        writer.end()
        writer.sync("file")
        wait_until(lambda: held_nas.counts["SETATTR"] == 1, what="the truncation")
        assert bytes(file.data) == content(2, _LENGTH)


def test_fsync_waits_for_a_write(held_nas: HeldNas, mounted: tuple[Keeper, Path]) -> None:
    file = add_file(held_nas, "file")
    with Writer(mounted[1]) as writer, held_nas.held("WRITE") as release:
        writer.open("file", os.O_RDWR)
        kill_in_call(
            held_nas, mounted[1], "WRITE", lambda victim: victim.open("file", os.O_RDWR),
            "write", "file", 0, 1, _LENGTH,
        )  # fmt: skip
        writer.begin("sync", "file")
        time.sleep(_LOOK_S)
        assert not writer.is_done(), "fsync returned while a WRITE of the file may still be executed"
        release()
        writer.end()
        assert bytes(file.data) == content(1, _LENGTH)


def test_a_rename(held_nas: HeldNas, mounted: tuple[Keeper, Path]) -> None:
    for name in ("first", "second"):
        held_nas.add(held_nas.root, name, data=name.encode())
    with Writer(mounted[1]) as writer, held_nas.held("RENAME") as release:
        kill_in_call(held_nas, mounted[1], "RENAME", lambda _: None, "rename", "first", "name")
        writer.begin("rename", "second", "name")
        expect_none_before_release(held_nas, "RENAME", 1, release)
        writer.end()
    assert bytes(held_nas.root.children[b"name"].data) == b"second"
    assert list(held_nas.root.children) == [b"name"]


def test_what_was_made_for_a_killed_process_is_given_back(held_nas: HeldNas, mounted: tuple[Keeper, Path]) -> None:
    keeper, path = mounted
    stats = lambda: keeper.status(path)["stats"]  # noqa: E731
    before = stats()["open_files"]
    with held_nas.held("CREATE") as release:
        kill_in_call(held_nas, path, "CREATE", lambda _: None, "open", "made", os.O_CREAT | os.O_WRONLY)
        with Writer(path) as writer:
            writer.begin("open", "other", os.O_CREAT | os.O_WRONLY)
            expect_none_before_release(held_nas, "CREATE", 1, release)
            writer.end()
    wait_until(lambda: b"made" in held_nas.root.children, what="the file")
    wait_until(lambda: stats()["open_files"] == before, what="its handle to be closed")


def test_many_killed_processes_of_one_file_and_the_next_writer(held_nas: HeldNas, mounted: tuple[Keeper, Path]) -> None:
    """Those that waited behind the first have sent nothing, and never do."""
    file = add_file(held_nas, "file")
    with Writer(mounted[1]) as writer, held_nas.held("WRITE") as release:
        writer.open("file", os.O_RDWR)
        for number in range(5):
            with Writer(mounted[1]) as victim:
                victim.open("file", os.O_RDWR)
                victim.begin("write", "file", 0, 10 + number, _LENGTH)
                wait_until(lambda: held_nas.count("WRITE") == 1, what="the first WRITE")
                time.sleep(0.1)
        writer.begin("write", "file", 0, 2, _LENGTH)
        expect_none_before_release(held_nas, "WRITE", 1, release)
        writer.end()
        writer.sync("file")
        assert bytes(file.data) == content(2, _LENGTH)
        assert held_nas.count("WRITE") == 2


def test_a_soft_mount_gives_up_and_keeps_the_order(held_nas: HeldNas) -> None:
    file = add_file(held_nas, "file")
    options = ["connections=4", "soft", "timeout=2s"]
    with (
        Keeper() as keeper,
        keeper.mounted(held_nas.url, options=options) as path,
        Writer(path) as writer,
        Writer(path) as other,
        held_nas.held("WRITE") as release,
    ):
        for each in (writer, other):
            each.open("file", os.O_RDWR)
        for each, seed in ((writer, 1), (other, 2)):
            each.begin("write", "file", 0, seed, _LENGTH)
            with pytest.raises(OSError, match="Input/output error"):
                each.end()
        assert held_nas.count("WRITE") == 1, "the second was sent before the first was answered"
        release()
        wait_until(lambda: bytes(file.data) == content(1, _LENGTH), what="the first WRITE")
        other.write("file", 0, 3, _LENGTH)
        other.sync("file")
        assert bytes(file.data) == content(3, _LENGTH)


def test_on_a_real_nas(paused_nas: Nas, keeper: Keeper) -> None:
    """The same with a server that executes what it received in an order of its own."""
    wrong = []
    with keeper.mounted(paused_nas.url, options=["connections=4"]) as path:
        for turn in range(6):
            with Writer(path) as writer:
                writer.open("file", os.O_RDWR)
                with Writer(path) as victim:
                    victim.open("file", os.O_RDWR)
                    paused_nas.pause()
                    victim.begin("write", "file", 0, 2 * turn, 1 << 20)
                    time.sleep(0.2)
                writer.begin("write", "file", 0, 2 * turn + 1, 1 << 20)
                time.sleep(0.1)
                paused_nas.resume()
                writer.end()
                writer.sync("file")
            time.sleep(0.1)
            with (paused_nas.export_folder() / "file").open("rb") as file:
                if file.read(1 << 20) != content(2 * turn + 1, 1 << 20):
                    wrong.append(turn)
    assert not wrong, "the last fsynced write is not what the NAS holds"
