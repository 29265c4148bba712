"""Who is told that written data is lost: each open description once, as with local files, by whichever daemon."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.writer import Writer
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import wait_until
from tests.support.scripted_nas import Arguments, Call, ScriptedNas, u32, wcc

pytestmark = pytest.mark.timeout(120)

_NOSPC = 28
_FILE_SYNC = 2


class LossyNas(ScriptedNas):
    """A server that can lose what it has not committed, and refuse to take it again."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = 0  # so many stable WRITEs
        self.hook = self._refuse

    def lose(self) -> None:
        """As after a restart: another verifier, and the disk is full for what comes again."""
        self.verifier = struct.pack(">Q", int.from_bytes(self.verifier, "big") + 1)
        self.refuses = 1

    def _refuse(self, call: Call) -> bytes:
        if call.procedure == "WRITE" and self.refuses and _how(call) == _FILE_SYNC:
            self.refuses -= 1
            return call.answer(u32(_NOSPC) + wcc(None))
        return call.reply


def _how(call: Call) -> int:
    """How stable a WRITE is to be."""
    arguments = Arguments(call.arguments)
    _file, _offset, _count = arguments.opaque(), arguments.u64(), arguments.u32()
    return arguments.u32()


@pytest.fixture
def lossy() -> Iterator[tuple[LossyNas, Keeper, Path]]:
    with LossyNas() as nas, Keeper() as keeper, keeper.mounted(nas.url) as path:
        nas.add(nas.root, "file", data=bytes(100))
        yield nas, keeper, path


def open_all(stack: ExitStack, folder: Path, count: int) -> list[Writer]:
    writers = [stack.enter_context(Writer(folder)) for _ in range(count)]
    for writer in writers:
        writer.open("file", os.O_RDWR)
    return writers


@pytest.mark.parametrize("deaths", [0, 1], ids=["one daemon", "killed in between"])
def test_each_open_hears_once(lossy: tuple[LossyNas, Keeper, Path], deaths: int) -> None:
    nas, keeper, path = lossy
    with ExitStack() as stack:
        first, second, third, fourth = open_all(stack, path, 4)
        first.write("file", 0, 1, 100)
        nas.lose()
        assert first.errno_of("sync", "file") == errno.ENOSPC
        assert first.errno_of("sync", "file") == 0
        for _ in range(deaths):
            keeper.replace_daemon(path)
        assert first.errno_of("sync", "file") == 0
        assert second.errno_of("sync", "file") == errno.ENOSPC
        assert second.errno_of("close", "file") == 0
        assert third.errno_of("close", "file") == errno.ENOSPC
        assert fourth.errno_of("write", "file", 0, 2, 10) == errno.ENOSPC
        assert fourth.errno_of("write", "file", 0, 2, 10) == 0
        assert fourth.errno_of("sync", "file") == 0
        for _ in range(deaths):
            keeper.replace_daemon(path)
        assert fourth.errno_of("close", "file") == 0
        third.open("file", os.O_RDWR)
        assert third.errno_of("sync", "file") == 0, "others had heard before it was opened"
        third.write("file", 0, 3, 100)
        nas.lose()
        assert third.errno_of("close", "file") == errno.ENOSPC, "the next failure"
        assert first.errno_of("sync", "file") == errno.ENOSPC


@pytest.mark.parametrize("deaths", [0, 1], ids=["one daemon", "killed in between"])
def test_neither_a_truncation_nor_the_end_of_a_process_nor_anothers_write_takes_it_away(
    lossy: tuple[LossyNas, Keeper, Path], deaths: int
) -> None:
    nas, keeper, path = lossy
    with ExitStack() as stack:
        holder, other = open_all(stack, path, 2)
        with Writer(path) as ended:
            ended.open("file", os.O_RDWR)
            ended.write("file", 0, 1, 100)
            nas.lose()
        wait_until(lambda: keeper.status(path)["stats"]["uncommitted_bytes"] == 0, what="the commit of a dead process")
        assert nas.refuses == 0
        for _ in range(deaths):
            keeper.replace_daemon(path)
        os.truncate(path / "file", 50)
        assert other.errno_of("write", "file", 0, 2, 10) == errno.ENOSPC
        assert other.errno_of("truncate", "file", 20) == 0
        assert other.errno_of("write", "file", 0, 2, 10) == 0
        assert other.errno_of("sync", "file") == 0
        assert holder.errno_of("sync", "file") == errno.ENOSPC
        assert holder.errno_of("close", "file") == 0


def test_who_opens_before_anybody_has_heard_is_told(lossy: tuple[LossyNas, Keeper, Path]) -> None:
    nas, keeper, path = lossy
    with ExitStack() as stack:
        (holder,) = open_all(stack, path, 1)
        with Writer(path) as ended:
            ended.open("file", os.O_RDWR)
            ended.write("file", 0, 1, 100)
            nas.lose()
        wait_until(lambda: keeper.status(path)["stats"]["uncommitted_bytes"] == 0, what="the commit of a dead process")
        (late,) = open_all(stack, path, 1)
        keeper.replace_daemon(path)
        assert late.errno_of("sync", "file") == errno.ENOSPC
        (later,) = open_all(stack, path, 1)
        assert later.errno_of("sync", "file") == 0
        assert holder.errno_of("sync", "file") == errno.ENOSPC


def test_a_reader_hears_from_fsync(lossy: tuple[LossyNas, Keeper, Path]) -> None:
    """Its close tells the daemon nothing: there is nothing to flush."""
    nas, _, path = lossy
    with ExitStack() as stack:
        (writer,) = open_all(stack, path, 1)
        reader = stack.enter_context(Writer(path))
        reader.open("file", os.O_RDONLY)
        writer.write("file", 0, 1, 100)
        nas.lose()
        assert writer.errno_of("close", "file") == errno.ENOSPC
        assert reader.errno_of("sync", "file") == errno.ENOSPC
        assert reader.errno_of("close", "file") == 0


def test_after_a_crash_of_a_real_nas(nas: Nas, keeper: Keeper) -> None:
    folder = nas.export_folder() / "lost"
    folder.mkdir(mode=0o777)
    (folder / "file").write_bytes(bytes(100))
    with keeper.mounted(nas.url_of("export/lost")) as path, ExitStack() as stack:
        writers = open_all(stack, path, 3)
        for number, writer in enumerate(writers):
            writer.write("file", 100 * number, number, 100)
        nas.kill()
        (folder / "file").unlink()  # its handle is worth nothing now
        nas.start()
        assert writers[0].errno_of("sync", "file") == errno.ESTALE
        keeper.replace_daemon(path)
        assert [writer.errno_of("sync", "file") for writer in writers] == [0, errno.ESTALE, errno.ESTALE]
        assert [writer.errno_of("close", "file") for writer in writers] == [0, 0, 0]
