"""A daemon at its memory limit: an error for whoever asks for more, and no SIGKILL after SIGKILL for itself."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.node.mount_status import condition_of
from tests.support.keeper import Keeper
from tests.support.processes import wait_until
from tests.support.scripted_nas import DIRECTORY, Call, ScriptedNas, u32

FILES = 75_000
MIB = 1 << 20
PARALLEL = 64
#: Names that are looked up and forgotten, what each takes of the saved state, and what is kept of that.
FORGOTTEN, NODE_BYTES, KEPT_BYTES = 10_000, 128, 512 << 10


def keeper_with_limit(memory_max: int | None) -> Keeper:
    """A keeper whose daemons may use so much memory, in bytes; None: as much as they like."""
    cgroup = f"efc-test-{uuid.uuid4().hex[:8]}"
    command = 'exec "$@" --daemon-cgroup "$0"' + (f" --daemon-memory-max {memory_max}" if memory_max else "")
    return Keeper(command_prefix=("sh", "-c", command, cgroup))


def errno_of_stat(entry: os.DirEntry[str]) -> int:
    """0 if it can be looked up."""
    try:
        entry.stat(follow_symlinks=False)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.timeout(240)
def test_more_names_than_fit_are_an_error_and_no_end() -> None:
    """With more names than the limit allows listings go on, look-ups fail with ENOMEM, and what is known is served."""
    with ScriptedNas() as nas, keeper_with_limit(32 * MIB) as keeper:
        nas.page_entries = 4000
        folder = nas.add(nas.root, "folder", kind=DIRECTORY)
        for number in range(FILES):
            nas.add(folder, f"{number:06}", data=b"data")
        first = nas.add(nas.root, "first", data=b"first")
        with keeper.mounted(nas.url, options=("attr-ttl=600s", "entry-ttl=600s")) as mount:
            assert (mount / "first").read_bytes() == b"first"
            pid = keeper.daemon_pid(mount)
            with os.scandir(mount / "folder") as entries:
                found = Counter(map(errno_of_stat, entries))
            assert (found.total(), set(found)) == (FILES, {0, errno.ENOMEM})
            assert (mount / "first").read_bytes() == bytes(first.data)
            with pytest.raises(OSError, match="Cannot allocate memory"):
                (mount / "new").write_bytes(b"")
            assert b"new" not in nas.root.children, "nothing is made that nobody can be told of"
            status = keeper.status(mount)
            assert (status["restarts"], status["pid"]) == (0, pid)
            metadata = status["stats"]["metadata"]
            taken = sum(int(metadata[kind]) for kind in ("inode_bytes", "name_bytes", "listing_bytes"))
            assert taken <= int(metadata["bytes_max"]) * 9 // 8, metadata


class Held:
    """Holds the answers to calls of one procedure back until it is told; the NAS takes pieces of 256 KiB only."""

    def __init__(self, procedure: str) -> None:
        self.procedure = procedure
        self.asked = threading.Event()
        self.answered = threading.Event()

    def __call__(self, call: Call) -> bytes:
        """The hook."""
        if call.procedure == self.procedure:
            self.asked.set()
            assert self.answered.wait(60)
        if call.procedure == "FSINFO":
            transfer = u32(256 << 10) + u32(256 << 10) + u32(1)  # behind the status, and no attributes
            return call.answer(call.body[:8] + transfer * 2 + call.body[32:])
        return call.reply


def in_parallel(work: Callable[[int], int], held: Held) -> Counter[int]:
    """The errnos, 0 for none, of so many threads that do `work` while the NAS is silent, and a moment longer."""

    def run(number: int) -> int:
        try:
            return work(number)
        except OSError as error:
            return error.errno or -1

    with ThreadPoolExecutor(PARALLEL) as pool:
        running = [pool.submit(run, number) for number in range(PARALLEL)]
        assert held.asked.wait(30)
        threading.Event().wait(3)  # all that is asked for is with the daemon by then, or waits in the kernel
        held.answered.set()
        return Counter(future.result(60) for future in running)


def paths(mount: Path) -> list[Path]:
    """The files, which are to be open before the NAS is silent."""
    return [mount / f"file-{number}" for number in range(PARALLEL)]


@pytest.mark.timeout(240)
def test_many_large_reads_at_once_take_turns() -> None:
    """Reads for which there is no buffer wait, however many the kernel sends; the daemon lives."""
    held = Held("READ")
    with ScriptedNas() as nas, keeper_with_limit(64 * MIB) as keeper:
        nas.hook = held
        for number in range(PARALLEL):
            nas.add(nas.root, f"file-{number}", data=bytes([number]) * MIB)
        with keeper.mounted(nas.url) as mount:
            pid = keeper.daemon_pid(mount)
            connection = Path("/sys/fs/fuse/connections", str(os.minor(mount.stat().st_dev)))
            (connection / "max_background").write_text("1000")

            direct = os.O_RDONLY | os.O_DIRECT
            files = [os.fdopen(os.open(path, direct), "rb", buffering=0) for path in paths(mount)]

            def read(number: int) -> int:
                with mmap.mmap(-1, MIB) as memory, files[number] as file:
                    assert file.readinto(memory) == MIB
                    assert memory[:] == bytes([number]) * MIB
                return 0

            assert in_parallel(read, held) == {0: PARALLEL}
            status = keeper.status(mount)
            assert (status["restarts"], status["pid"]) == (0, pid)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("options", [(), ("fuse-features=6.1",)], ids=["redelivered", "saved"])
def test_many_large_writes_at_once_are_done_or_fail(options: tuple[str, ...]) -> None:
    """Writes for which there is no memory fail with ENOMEM; what was acknowledged is there, and the daemon lives.

    Where the kernel does not deliver requests again, they are read into the saved state: that is the daemon's memory.
    """
    held = Held("WRITE")
    with ScriptedNas() as nas, keeper_with_limit(64 * MIB) as keeper:
        nas.hook = held
        nodes = [nas.add(nas.root, f"file-{number}") for number in range(PARALLEL)]
        with keeper.mounted(nas.url, options=options) as mount:
            pid = keeper.daemon_pid(mount)
            done = set()
            files = [path.open("r+b", buffering=0) for path in paths(mount)]

            def write(number: int) -> int:
                with files[number] as file:
                    assert file.write(bytes([number]) * MIB) == MIB
                    os.fsync(file)
                done.add(number)
                return 0

            ended = in_parallel(write, held)
            assert set(ended) <= {0, errno.ENOMEM}, ended
            assert ended[0] > 0, ended
            assert all(nodes[number].data == bytes([number]) * MIB for number in done)
            status = keeper.status(mount)
            assert (status["restarts"], status["pid"]) == (0, pid)
            assert (mount / "file-0").stat().st_size in (0, MIB)


@pytest.mark.timeout(240)
def test_directories_that_are_open_in_the_middle_of_their_listings_share_a_limit() -> None:
    """Each has read thousands of names ahead of its application, which still gets each of them once."""
    with ScriptedNas() as nas, keeper_with_limit(64 * MIB) as keeper:
        nas.page_entries = 4000
        folders = [nas.add(nas.root, f"folder-{number}", kind=DIRECTORY) for number in range(150)]
        for number in range(nas.page_entries):
            nas.add(folders[0], f"{number:06}")
        for folder in folders[1:]:
            folder.children = folders[0].children  # as hard links
        with keeper.mounted(nas.url) as mount, ExitStack() as stack:
            pid = keeper.daemon_pid(mount)
            listings = [stack.enter_context(os.scandir(mount / f"folder-{number}")) for number in range(len(folders))]
            names = [[next(listing).name] for listing in listings]
            for listing, found in list(zip(listings, names, strict=True))[::30]:
                found.extend(entry.name for entry in listing)
                assert (len(found), len(set(found))) == (nas.page_entries, nas.page_entries)
            status = keeper.status(mount)
            assert (status["restarts"], status["pid"]) == (0, pid)


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is neither a file's nor shared."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(kib) << 10


@pytest.mark.timeout(240)
def test_files_that_were_written_to_in_small_pieces_leave_no_memory_behind() -> None:
    """Thousands of writes wait for COMMIT until the file is closed; nothing of them is left then."""
    with ScriptedNas() as nas, Keeper() as keeper, keeper.mounted(nas.url) as mount:

        def write(number: int) -> None:
            with (mount / f"file-{number}").open("wb", buffering=0) as file:
                for _ in range(2500):
                    file.write(b"a line")

        write(0)
        pid = keeper.daemon_pid(mount)
        before = anonymous_bytes(pid)
        for number in range(1, 25):
            write(number)
        assert anonymous_bytes(pid) - before < 5 * MIB


def saved_bytes(keeper: Keeper) -> int:
    """Memory of the saved state of the keeper's only mount."""
    [state] = [
        link
        for link in Path(f"/proc/{keeper.pid}/fd").iterdir()
        if os.path.lexists(link) and os.readlink(link).startswith("/memfd:efc-state")
    ]
    return state.stat().st_blocks * 512


@pytest.mark.timeout(240)
def test_memory_of_forgotten_names_goes_back() -> None:
    """After the kernel has forgotten what it had looked up, the state is nearly as small as before, and stays so."""
    with ScriptedNas() as nas, Keeper() as keeper:
        nas.page_entries = 4000
        folder = nas.add(nas.root, "folder", kind=DIRECTORY)
        nas.add(nas.root, "first", data=b"first")
        with keeper.mounted(nas.url, options=("attr-ttl=5s", "entry-ttl=5s")) as mount:
            assert (mount / "first").read_bytes() == b"first"
            before = saved_bytes(keeper)
            for number in range(FORGOTTEN):
                nas.add(folder, f"{number:06}", data=b"data")
            with os.scandir(mount / "folder") as entries:
                assert {errno_of_stat(entry) for entry in entries} == {0}
            full = saved_bytes(keeper)
            assert full - before > FORGOTTEN * NODE_BYTES * 3 // 4  # the first of them had memory before
            del nas.root.children[b"folder"]  # the kernel forgets with it all that was in it
            wait_until(lambda: not (mount / "folder").exists(), what="the folder to be gone")
            wait_until(
                lambda: saved_bytes(keeper) - before < KEPT_BYTES,
                what=f"memory to go back: {before} bytes before, {full} then",
            )
            keeper.replace_daemon(mount)
            assert (mount / "first").read_bytes() == b"first"
            assert saved_bytes(keeper) - before < KEPT_BYTES, "the next daemon has looked at what had gone"


def memory_limit_of(pid: int) -> int:
    """Of the cgroup of a process, in bytes."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controllers == "memory":
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())
    (path,) = [path for number, _, path in lines if number == "0"]
    return int(Path(f"/sys/fs/cgroup{path}/memory.max").read_text())


@pytest.mark.parametrize(("keepers_mib", "wanted_mib", "limit_mib"), [(None, 96, 96), (256, 96, 96), (96, 256, 96)])
def test_a_mount_has_a_limit_of_its_own(keepers_mib: int | None, wanted_mib: int, limit_mib: int) -> None:
    """It is the daemon's, and each successor's, also under the next keeper; the keeper's own is never exceeded."""
    with ScriptedNas() as nas, keeper_with_limit(keepers_mib and keepers_mib * MIB) as keeper:
        nas.add(nas.root, "file", data=b"data")
        nodes_max = []
        with keeper.mounted(nas.url) as mount:
            nodes_max.append(keeper.status(mount)["stats"]["state"]["nodes_max"])
        with keeper.mounted(nas.url, options=(f"memory-max={wanted_mib}MiB",)) as mount:
            nodes_max.append(keeper.status(mount)["stats"]["state"]["nodes_max"])
            assert memory_limit_of(keeper.daemon_pid(mount)) == limit_mib * MIB
            keeper.replace_daemon(mount)
            assert memory_limit_of(keeper.daemon_pid(mount)) == limit_mib * MIB
            keeper.kill()
            keeper.start()
            keeper.replace_daemon(mount)
            assert memory_limit_of(keeper.daemon_pid(mount)) == limit_mib * MIB
            nodes_max.append(keeper.status(mount)["stats"]["state"]["nodes_max"])
            assert (mount / "file").read_bytes() == b"data"
            for changed_mib in (128, 64):
                keeper.efc("upgrade", str(mount), "-o", f"memory-max={changed_mib}MiB")
                changed = min(changed_mib, keepers_mib or changed_mib)
                assert memory_limit_of(keeper.daemon_pid(mount)) == changed * MIB
                assert (mount / "file").read_bytes() == b"data"
                keeper.replace_daemon(mount)
                assert memory_limit_of(keeper.daemon_pid(mount)) == changed * MIB
    of_keeper, own, own_of_successor = map(int, nodes_max)
    assert own == own_of_successor > 0
    assert (own == of_keeper) == (keepers_mib == limit_mib)


def test_no_limit_comes_into_force_that_the_saved_state_would_be_killed_for() -> None:
    """What is refused changes nothing: the daemon goes on with the former limit."""
    options = ("memory-max=1GiB", "uncommitted=256MiB")
    with ScriptedNas() as nas, keeper_with_limit(None) as keeper, keeper.mounted(nas.url, options=options) as mount:
        pid = keeper.daemon_pid(mount)
        with (mount / "file").open("wb", buffering=0) as file:
            for _ in range(64):
                file.write(bytes(MIB))
            with pytest.raises(subprocess.CalledProcessError, match="needs a memory-max of"):
                keeper.efc("upgrade", str(mount), "-o", "memory-max=64MiB")
            assert keeper.daemon_pid(mount) == pid
            assert memory_limit_of(pid) == 1024 * MIB


def test_a_limit_that_nobody_can_keep_is_refused() -> None:
    """By a keeper that makes no cgroups; no mount is left."""
    with ScriptedNas() as nas, Keeper() as keeper:
        with pytest.raises(subprocess.CalledProcessError, match="--daemon-cgroup"):
            keeper.mount(nas.url, options=("memory-max=64MiB",))
        with pytest.raises(subprocess.CalledProcessError, match="64MiB to 1TiB"):
            keeper.mount(nas.url, options=("memory-max=63MiB",))


def test_a_full_table_of_files_is_a_condition() -> None:
    """The volume's condition says what is full, and what to do."""
    stats = efc_pb2.DaemonStats(state=efc_pb2.StateStats(nodes=70_000, nodes_max=70_000))
    status = efc_pb2.MountStatus(state=efc_pb2.MountStatus.SERVING, stats=stats)
    assert "--daemon-memory-max" in condition_of(status)
    stats.state.nodes = 69_999
    assert condition_of(efc_pb2.MountStatus(state=efc_pb2.MountStatus.SERVING, stats=stats)) == ""
