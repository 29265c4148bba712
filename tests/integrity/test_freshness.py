"""What a node reads after another node, or another process of its own, has changed a file; and what it need not.

Servers here tell less than one would like: times that were set back, whole seconds, two changes within one tick.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.nodes import two_nodes
from tests.support.scripted_nas import Node, ScriptedNas

FORK = multiprocessing.get_context("fork")
SECOND_NS = 10**9
_MAP_LOCKED = 0x2000  # Linux: mmap(2)
HOUR_NS = 3600 * SECOND_NS


@pytest.fixture
def whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted server's times have no fractions of a second."""
    monkeypatch.setattr(Node, "granularity_ns", SECOND_NS)


@pytest.mark.parametrize("size", [100, 300_000])
def test_other_content_of_the_same_size_and_mtime_is_seen_at_the_next_open(size: int) -> None:
    """An overwrite in place with the old mtime restored, as `rsync --inplace` and `cp -p` do: only ctime tells."""
    with Nas() as nas, two_nodes(nas.url, options=("attr-ttl=0s",)) as (reader, writer):
        (writer / "file").write_bytes(bytes(size))
        for number in range(1, 6):
            for _ in range(3):
                (reader / "file").read_bytes()
                time.sleep(0.03)  # longer than a tick of the server's clock: the reader's pages are kept now
            data = bytes([number]) * size
            with (writer / "file").open("r+b") as file:
                file.write(data)
            os.utime(writer / "file", ns=(HOUR_NS, HOUR_NS))
            assert (reader / "file").stat().st_mtime_ns == HOUR_NS  # the kernel is told the new attributes
            assert (reader / "file").read_bytes() == data, f"change {number}"


@pytest.mark.usefixtures("whole_seconds")
def test_what_was_read_at_open_dies_with_a_write_on_the_same_node() -> None:
    """A opens, B writes and closes, A reads: within one second of the server's clock, which has no finer stamps."""
    with ScriptedNas() as nas, Keeper() as keeper, keeper.mounted(nas.url) as mount:
        stale = 0
        for number in range(20):
            path = mount / f"file-{number}"
            nas.add(nas.root, path.name, data=b"old" * 100)
            assert path.stat().st_size == 300  # a small file is read when it is opened
            with path.open("rb", buffering=0) as reader:
                with path.open("r+b", buffering=0) as writer:
                    writer.write(b"new" * 50)
                stale += reader.read(300) != b"new" * 50 + b"old" * 50
        assert stale == 0, f"{stale} of 20 reads were of what was overwritten"


@pytest.mark.usefixtures("whole_seconds")
def test_a_second_change_within_a_tick_is_seen_at_the_next_open() -> None:
    """Another client changes a file twice within a second, between which it is read: both changes have one version."""
    with ScriptedNas() as nas, Keeper() as keeper:
        files = [nas.add(nas.root, f"file-{number}", data=b"0" * 100_000) for number in range(10)]
        with keeper.mounted(nas.url) as mount:
            for number, file in enumerate(files):
                now_ns = time.time_ns()
                for data in (b"1" * 100_000, b"2" * 100_000):
                    file.data[:] = data
                    file.mtime_ns = file.ctime_ns = now_ns
                    assert (mount / f"file-{number}").read_bytes() == data
            time.sleep(1)
            for number in range(10):
                assert (mount / f"file-{number}").read_bytes() == b"2" * 100_000


def reads_of(nas: ScriptedNas, path: Path) -> int:
    """How many READs it takes to read a file."""
    before = nas.counts["READ"]
    assert len(path.read_bytes()) > 0
    return nas.counts["READ"] - before


def test_pages_stay_over_a_long_listing_a_kill_and_an_upgrade() -> None:
    """A file that is cached is not read again because 133,000 others were listed, or the daemon is another one."""
    with ScriptedNas() as nas, Keeper() as keeper:
        nas.page_entries = 4000
        file = nas.add(nas.root, "cached", data=b"x" * 1_000_000)
        file.mtime_ns = file.ctime_ns = time.time_ns() - HOUR_NS
        many = nas.add(nas.root, "many", kind=2)
        for number in range(133_000):
            nas.add(many, f"{number:06}")
        # No look-up tells the daemon of the file again, and the kernel does not forget it for want of memory.
        options = ("attr-ttl=600s", "entry-ttl=600s")
        with keeper.mounted(nas.url, options=options) as mount, (mount / "cached").open("rb", buffering=0) as held:
            cached = mount / "cached"
            assert reads_of(nas, cached) > 0
            # Nor does it reclaim the pages.
            locked = mmap.mmap(held.fileno(), 0, flags=mmap.MAP_SHARED | _MAP_LOCKED, prot=mmap.PROT_READ)
            assert reads_of(nas, cached) == 0
            with os.scandir(mount / "many") as entries:
                assert sum(entry.stat(follow_symlinks=False).st_nlink for entry in entries) == 133_000
            assert reads_of(nas, cached) == 0, "after the listing"
            keeper.replace_daemon(mount)
            assert reads_of(nas, cached) == 0, "after the daemon was killed"
            keeper.efc("upgrade", str(mount))
            assert reads_of(nas, cached) == 0, "after the upgrade"
            file.data[:] = b"y" * 1_000_000
            file.changed()
            assert cached.read_bytes() == file.data, "another version is read anew"
            locked.close()


def test_idle_opens_do_not_make_opens_of_others_dearer() -> None:
    """An open of a small file is one READ, however many files are open and not read."""
    with ScriptedNas() as nas, Keeper() as keeper:
        names = [f"file-{number}" for number in range(100)]
        for name in names:
            nas.add(nas.root, name, data=b"small")
        with keeper.mounted(nas.url) as mount, ExitStack() as opened:
            assert {entry.stat().st_size for entry in os.scandir(mount)} == {5}
            for name in names[:70]:
                opened.enter_context((mount / name).open("rb", buffering=0))
            before = nas.counts["READ"], nas.counts["ACCESS"]
            assert all((mount / name).read_bytes() == b"small" for name in names[70:])
            after = nas.counts["READ"], nas.counts["ACCESS"]
            assert (after[0] - before[0], after[1] - before[1]) == (30, 0)


READERS = 8
LINES = [b"line %d of a log that grows\n" % number for number in range(2500)]


def follow(path: Path, length: int, ready: Event, found: Connection) -> None:
    """Reads a growing file to its end, as `tail -f` does; sends the count of NULs, and whether all was as written."""
    text = b""
    with path.open("rb", buffering=0) as log:
        ready.set()
        while len(text) < length:
            text += log.read(1 << 16)
    found.send((text.count(0), text == b"".join(LINES)))


@pytest.mark.parametrize("attr_ttl", ["0s", "50ms"])
def test_readers_of_a_growing_log_see_what_was_written_and_nothing_else(attr_ttl: str) -> None:
    """Several readers on one node, a writer elsewhere: what is behind the end of a cached page is not read."""
    length = sum(map(len, LINES))
    with Nas() as nas, Keeper() as keeper, keeper.mounted(nas.url, options=(f"attr-ttl={attr_ttl}",)) as mount:
        behind = nas.export_folder() / "log"
        behind.write_bytes(b"")
        ready = [FORK.Event() for _ in range(READERS)]
        pipes = [FORK.Pipe(duplex=False) for _ in ready]
        readers = [
            FORK.Process(target=follow, args=(mount / "log", length, event, pipe[1]))
            for event, pipe in zip(ready, pipes, strict=True)
        ]
        for reader in readers:
            reader.start()
        try:
            assert all(event.wait(30) for event in ready)
            grow_under_readers(behind, [pipe[0] for pipe in pipes])
        finally:
            end(readers)


def grow_under_readers(behind: Path, found: list[Connection]) -> None:
    """Writes the lines, one at a time; each reader has read them, and no NULs."""
    with behind.open("ab", buffering=0) as log:
        for line in LINES:
            log.write(line)
            time.sleep(0.0003)
    assert all(one.poll(30) for one in found), "a reader does not get to the end"
    assert [one.recv() for one in found] == [(0, True)] * READERS


def end(processes: list[ForkProcess]) -> None:
    """SIGKILL, if they have not ended by themselves."""
    for process in processes:
        process.kill()
        process.join()


def test_who_is_shown_a_size_can_map_a_growing_file_so_far() -> None:
    """Maps ask nobody: they end where the kernel takes the file to end, and SIGBUS is behind that."""
    with Nas() as nas, Keeper() as keeper, keeper.mounted(nas.url, options=("attr-ttl=0s",)) as mount:
        behind = nas.export_folder() / "log"
        behind.write_bytes(b"x" * 100)
        mapper = FORK.Process(target=map_to_the_end, args=(mount / "log", behind))
        mapper.start()
        mapper.join(30)
        status = mapper.exitcode
        mapper.kill()
        mapper.join()
        assert status == 0


def map_to_the_end(path: Path, behind: Path) -> None:
    """Maps all of the file each time that it has grown, and finds in it what was written."""
    with path.open("rb", buffering=0) as log:
        for size in (100, 5000, 9000):
            with behind.open("ab") as writer:
                writer.write(b"x" * (size - behind.stat().st_size))
            shown = os.fstat(log.fileno()).st_size
            assert shown == size
            with mmap.mmap(log.fileno(), shown, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == b"x" * size


def test_processes_that_share_one_descriptor_see_what_was_written_and_nothing_else() -> None:
    """To the daemon that is one reader."""
    length = sum(map(len, LINES))
    with Nas() as nas, Keeper() as keeper, keeper.mounted(nas.url, options=("attr-ttl=0s",)) as mount:
        behind = nas.export_folder() / "log"
        behind.write_bytes(b"")
        with (mount / "log").open("rb", buffering=0) as log:
            pipes = [FORK.Pipe(duplex=False) for _ in range(READERS)]
            readers = [FORK.Process(target=follow_shared, args=(log.fileno(), length, pipe[1])) for pipe in pipes]
            for reader in readers:
                reader.start()
            try:
                grow_under_readers(behind, [pipe[0] for pipe in pipes])
            finally:
                end(readers)


def follow_shared(log: int, length: int, found: Connection) -> None:
    """As :func:`follow`, at places of its own."""
    text = b""
    while len(text) < length:
        text += os.pread(log, 1 << 16, len(text))
    found.send((text.count(0), text == b"".join(LINES)))
