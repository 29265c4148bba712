"""Names under servers and moments that no real server shows on demand: replies held back, lost, or refusing.

What an application sees must be what a local file system shows: a file that was opened can be read, whatever happened
to its name meanwhile; a name of ours does not stay behind; a look-up that fails costs nobody a mount.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.mounts import mounts_below
from tests.support.processes import wait_until
from tests.support.scripted_nas import (
    ACCES,
    DIRECTORY,
    IO,
    NOENT,
    OK,
    Arguments,
    Call,
    Node,
    ScriptedNas,
    post,
    send,
    u32,
)

SERVERFAULT = 10006
LIMIT_S = 20


@pytest.fixture
def nas(nothing_left: None) -> Iterator[ScriptedNas]:
    with ScriptedNas() as nas:
        yield nas


@pytest.fixture(scope="module")
def plain_keeper(nothing_left: None) -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


@pytest.fixture
def folder(nas: ScriptedNas, plain_keeper: Keeper) -> Iterator[Path]:
    """A mount that trusts names and attributes for a second."""
    with plain_keeper.mounted(nas.url) as path:
        try:
            yield path
        finally:
            nas.hook = lambda call: call.reply


def name_in(call: Call) -> bytes:
    """The name that a call is about, in the directory that it names first."""
    arguments = Arguments(call.arguments)
    arguments.opaque()
    return arguments.opaque()


class Held:
    """A hook that keeps back the answers to a procedure's calls until they are released; the calls are executed.

    `of`: only calls about this name.
    """

    def __init__(self, nas: ScriptedNas, *procedures: str, of: bytes = b"") -> None:
        self.nas, self.procedures, self.name = nas, procedures, of
        self.calls: list[Call] = []
        self.came = threading.Event()
        self._lock = threading.Lock()
        nas.hook = self._hook

    def _hook(self, call: Call) -> bytes | None:
        if call.procedure not in self.procedures or (self.name and self.name != name_in(call)):
            return call.reply
        with self._lock:
            if self.nas.hook != self._hook:
                return call.reply  # released in the meantime
            self.calls.append(call)
        self.came.set()
        return None

    def wait(self) -> None:
        """Waits until there is such a call."""
        assert self.came.wait(LIMIT_S), f"no {self.procedures}"

    def release(self) -> None:
        """Answers those that came and whose daemon still lives, and lets all others pass."""
        with self._lock:
            self.nas.hook = lambda call: call.reply
        for call in self.calls:
            with suppress(OSError):
                send(call.connection, call.reply)


@contextmanager
def beside(function: Callable[[], object]) -> Iterator[Callable[[], object]]:
    """Runs `function` in a thread; gives what waits for its result."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        yield lambda: future.result(LIMIT_S)


def silly_names(directory: Node) -> list[bytes]:
    return [name for name in directory.children if name.startswith(b".nfs")]


def in_process(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["python3", "-c", code, *map(str, arguments)])


# --- a daemon that hands over -------------------------------------------------------------------------------------


def test_a_daemon_that_drains_removes_no_file_that_is_open(nas: ScriptedNas, plain_keeper: Keeper) -> None:
    """Its only thread has taken a request that it leaves: nothing is left to serve, and yet its session is not over."""

    def drained() -> int:
        return plain_keeper.log.read_text().count("drained")

    nas.add(nas.root, "file", data=b"content")
    nas.add(nas.root, "other", data=b"x")
    with (
        plain_keeper.mounted(nas.url, options=("threads=1", "attr-ttl=0s", "entry-ttl=0s")) as folder,
        (folder / "file").open() as file,
        ThreadPoolExecutor(400) as pool,
    ):
        (folder / "file").unlink()
        silly = silly_names(nas.root)
        assert len(silly) == 1
        before, drained_before = plain_keeper.daemon_pid(folder), drained()
        (folder / "other").stat()  # the kernel knows the name, so that one look-up does not wait for another
        held = Held(nas, "LOOKUP", of=b"other")
        with beside(lambda: plain_keeper.efc("upgrade", str(folder))) as upgraded:
            asked = []
            # It drains for as long as it waits for the NAS, at most half a second, and says so in the end.
            while len(asked) < 400 and drained() == drained_before:
                asked.append(pool.submit((folder / "other").stat))
                time.sleep(0.01)
            held.release()  # also what the next daemon has asked by now
            upgraded()
        assert len(held.calls) > 1
        assert [question.result(LIMIT_S).st_size for question in asked] == [1] * len(asked)
        assert plain_keeper.daemon_pid(folder) not in (0, before)
        assert silly_names(nas.root) == silly
        assert file.read() == "content"
    wait_until(lambda: not silly_names(nas.root), what="the silly name to go")


# --- open against unlink and rename ------------------------------------------------------------------------------


@pytest.mark.parametrize("removal", ["unlink", "rename"])
@pytest.mark.parametrize("procedure", ["ACCESS", "READ"])
def test_a_file_whose_name_goes_while_it_is_being_opened_is_open(
    nas: ScriptedNas, folder: Path, removal: str, procedure: str
) -> None:
    size = 100_000 if procedure == "ACCESS" else 100  # a small file is read at once
    nas.add(nas.root, "file", data=b"x" * size)
    nas.add(nas.root, "other", data=b"y")
    assert (folder / "file").exists()
    assert (folder / "other").exists()
    held = Held(nas, procedure)
    with beside(lambda: os.open(folder / "file", os.O_RDONLY)) as opened:
        held.wait()
        nas.hook = lambda call: call.reply
        if removal == "unlink":
            (folder / "file").unlink()
        else:
            (folder / "other").rename(folder / "file")
        held.release()
        file = opened()
    assert isinstance(file, int)
    try:
        assert os.fstat(file).st_nlink == 0
        assert os.pread(file, 2 * size, 0) == b"x" * size
    finally:
        os.close(file)
    wait_until(lambda: not silly_names(nas.root), what="the silly name to go")
    assert (folder / "file").exists() == (removal == "rename")


@pytest.mark.parametrize("procedure", ["RENAME", "LINK"])
def test_a_last_close_while_the_silly_name_is_given_leaves_nothing(
    nas: ScriptedNas, folder: Path, procedure: str
) -> None:
    nas.add(nas.root, "file", data=b"x" * 100_000)
    nas.add(nas.root, "other", data=b"y")
    file = os.open(folder / "file", os.O_RDONLY)
    waiting: list[Callable[[], None]] = []
    came = threading.Event()

    def hook(call: Call) -> bytes | None:
        if call.procedure != procedure or came.is_set():
            return call.reply
        undo(nas, call)  # as if it had not been executed yet
        waiting.append(lambda: send(call.connection, call.answer(again(nas, call))))
        came.set()
        return None

    nas.hook = hook
    remove = (folder / "file").unlink if procedure == "RENAME" else lambda: (folder / "other").rename(folder / "file")
    with beside(remove) as removed:
        assert came.wait(LIMIT_S)
        calls = nas.counts["REMOVE"]
        os.close(file)
        # The close is not seen from outside; the wrong removal would be.
        for _ in range(10):
            os.statvfs(folder)
        assert nas.counts["REMOVE"] == calls, "the name is removed before it is given"
        waiting[0]()
        removed()
    wait_until(lambda: not silly_names(nas.root), what="the silly name to go")


def undo(nas: ScriptedNas, call: Call) -> None:
    """Takes back a RENAME or LINK within the root that was executed just now."""
    arguments = Arguments(call.arguments)
    with nas.lock:
        if call.procedure == "RENAME":
            _source, old, _target, new = (arguments.opaque() for _ in range(4))
            nas.root.children[old] = nas.root.children.pop(new)
        else:
            _node, _directory, name = (arguments.opaque() for _ in range(3))
            nas.root.children.pop(name).nlink -= 1


def again(nas: ScriptedNas, call: Call) -> bytes:
    """Executes a call once more."""
    with nas.lock:
        body: bytes = getattr(nas, f"_{call.procedure.lower()}")(Arguments(call.arguments))
    return body


def test_a_lost_answer_to_a_silly_rename_is_no_failure(nas: ScriptedNas, folder: Path) -> None:
    """The call is sent again, and its second copy finds no such name any more."""
    nas.add(nas.root, "file", data=b"x" * 100_000)
    file = os.open(folder / "file", os.O_RDONLY)

    def lose_first(call: Call) -> bytes | None:
        if call.procedure != "RENAME" or call.number > 1:
            return call.reply
        nas.cut_connections()
        return None

    nas.hook = lose_first
    (folder / "file").unlink()
    assert os.fstat(file).st_nlink == 0
    os.close(file)
    wait_until(lambda: not silly_names(nas.root), what="the silly name to go")


def test_a_silly_rename_that_was_not_executed_takes_no_link(nas: ScriptedNas, plain_keeper: Keeper) -> None:
    """Its daemon was killed before the NAS had it, and its caller as well: nobody asks for it again."""
    with plain_keeper.mounted(nas.url) as folder:
        nas.add(nas.root, "file", data=b"x" * 100_000)
        file = os.open(folder / "file", os.O_RDONLY)
        came = threading.Event()

        def never(call: Call) -> bytes | None:
            if call.procedure != "RENAME":
                return call.reply
            undo(nas, call)
            came.set()
            return None

        nas.hook = never
        unlinking = in_process("import os, sys; os.unlink(sys.argv[1])", folder / "file")
        try:
            assert came.wait(LIMIT_S)
            unlinking.kill()
            daemon = plain_keeper.kill_daemon(folder)
            unlinking.wait(LIMIT_S)
            nas.hook = lambda call: call.answer(u32(NOENT) + u32(0) * 4) if call.procedure == "RENAME" else call.reply
            plain_keeper.await_successor(folder, daemon)
            assert os.fstat(file).st_nlink == 1
            assert (folder / "file").stat().st_nlink == 1
        finally:
            unlinking.kill()
            unlinking.wait()
            nas.hook = lambda call: call.reply
            os.close(file)
    assert list(nas.root.children) == [b"file"]


def test_unmounting_right_after_the_last_close_leaves_nothing(nas: ScriptedNas, plain_keeper: Keeper) -> None:
    files = [nas.add(nas.root, f"file{number}", data=b"x" * 100) for number in range(20)]
    with plain_keeper.mounted(nas.url) as folder:
        opened = [os.open(folder / f"file{number}", os.O_RDONLY) for number in range(len(files))]
        for number in range(len(files)):
            (folder / f"file{number}").unlink()
        assert len(silly_names(nas.root)) == len(files)
        for file in opened:
            os.close(file)
    assert not nas.root.children


def test_removing_a_directory_waits_for_removals_in_it(nas: ScriptedNas, folder: Path) -> None:
    directory = nas.add(nas.root, "directory", kind=DIRECTORY)
    nas.add(directory, "file", data=b"x")
    file = os.open(folder / "directory" / "file", os.O_RDONLY)
    (folder / "directory" / "file").unlink()
    waiting: list[Callable[[], None]] = []
    came = threading.Event()

    def hold_first(call: Call) -> bytes | None:
        if call.procedure != "REMOVE" or came.is_set():
            return call.reply
        name = next(iter(silly_names(directory)), b".nfs")
        directory.children[name] = Node(fileid=99)  # as if it had not been executed yet

        def go_on() -> None:
            del directory.children[name]
            send(call.connection, call.reply)

        waiting.append(go_on)
        came.set()
        return None

    nas.hook = hold_first
    os.close(file)
    assert came.wait(LIMIT_S)
    with beside((folder / "directory").rmdir) as removed:
        for _ in range(10):
            os.statvfs(folder)
        waiting[0]()
        removed()
    assert not nas.root.children


def test_removing_a_directory_waits_for_files_whose_data_is_being_committed(nas: ScriptedNas, folder: Path) -> None:
    directory = nas.add(nas.root, "directory", kind=DIRECTORY)
    held = Held(nas, "COMMIT")
    code = "import os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.write(f, b'x'); os.unlink(sys.argv[1])"
    assert in_process(code, folder / "directory" / "file").wait(LIMIT_S) == 0
    held.wait()
    assert silly_names(directory)
    with beside((folder / "directory").rmdir) as removed:
        time.sleep(2)  # longer than the wait for a file that nobody closes
        held.release()
        removed()
    assert not nas.root.children


# --- look-ups that fail ------------------------------------------------------------------------------------------


@contextmanager
def tmpfs_at(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
    (path / "inside").touch()
    try:
        yield
    finally:
        if mounts_below(path):
            subprocess.run(["umount", str(path)], check=True)


def refuse_look_up(nas: ScriptedNas, name: str, status: int, *, times: int = 1) -> list[int]:
    """Fails the next LOOKUPs of this name. The list that is returned gets an entry for each."""
    refused: list[int] = []

    def hook(call: Call) -> bytes | None:
        if call.procedure == "LOOKUP" and len(refused) < times and name_in(call) == name.encode():
            refused.append(status)
            return call.answer(u32(status) + post(None))
        return call.reply

    nas.hook = hook
    return refused


@pytest.mark.parametrize(
    ("status", "is_new_daemon"),
    # A new daemon does not know what a name led to; of what it may not look up it asks as the directory's owner.
    [(ACCES, False), (IO, False), (SERVERFAULT, False), (ACCES, True)],
)
def test_a_mount_inside_survives_a_failing_look_up(
    nas: ScriptedNas, plain_keeper: Keeper, status: int, *, is_new_daemon: bool
) -> None:
    directory = nas.add(nas.root, "directory", kind=DIRECTORY)
    nas.add(directory, "mounted", kind=DIRECTORY)
    with plain_keeper.mounted(nas.url, options=("entry-ttl=0s",)) as folder:
        path = folder / "directory" / "mounted"
        path.stat()
        with tmpfs_at(path):
            if is_new_daemon:
                plain_keeper.replace_daemon(folder)
            refused = refuse_look_up(nas, "mounted", status)
            assert (path / "inside").exists()
            assert refused == [status], nas.latest
            assert [mount.kind for mount in mounts_below(path)] == ["tmpfs"]
            assert (path / "inside").exists()


def test_a_mount_inside_survives_a_failing_look_up_that_a_new_daemon_asks_for(
    nas: ScriptedNas, plain_keeper: Keeper
) -> None:
    # Nobody knows what the name led to, and the NAS does not say it: ENOMEM lets the kernel keep the name.
    directory = nas.add(nas.root, "directory", kind=DIRECTORY)
    nas.add(directory, "mounted", kind=DIRECTORY)
    with plain_keeper.mounted(nas.url, options=("entry-ttl=0s",)) as folder:
        path = folder / "directory" / "mounted"
        path.stat()
        with tmpfs_at(path):
            plain_keeper.replace_daemon(folder)
            refused = refuse_look_up(nas, "mounted", IO)
            with pytest.raises(OSError, match="Cannot allocate memory"):
                (path / "inside").stat()
            assert refused == [IO], nas.latest
            assert [mount.kind for mount in mounts_below(path)] == ["tmpfs"]
            assert (path / "inside").exists()


@pytest.mark.parametrize("is_new_daemon", [False, True])
def test_a_failing_look_up_of_a_name_that_nobody_knows(
    nas: ScriptedNas, plain_keeper: Keeper, *, is_new_daemon: bool
) -> None:
    """EIO: there is no name of the kernel's to keep, though more were looked up since than are remembered."""
    directory = nas.add(nas.root, "directory", kind=DIRECTORY)
    nas.add(directory, "old", kind=DIRECTORY)
    # Names that end alike in one directory are remembered in one place.
    names = [f"{number}w" for number in range(2100)]
    for name in names:
        nas.add(directory, name, data=b"x")
    with plain_keeper.mounted(nas.url, options=("entry-ttl=0s",)) as folder:
        path = folder / "directory"
        (path / "old").stat()
        if is_new_daemon:
            plain_keeper.replace_daemon(folder)
            (path / "old").stat()
        for name in names:
            (path / name).stat()
        refused = refuse_look_up(nas, "new", IO)
        with pytest.raises(OSError, match="Input/output error"):
            (path / "new").stat()
        assert refused == [IO]


@pytest.mark.parametrize(("status", "code"), [(ACCES, errno.EACCES), (IO, errno.EIO), (SERVERFAULT, errno.EIO)])
def test_a_failing_look_up_fails_whoever_asks_for_the_object(
    nas: ScriptedNas, plain_keeper: Keeper, status: int, code: int
) -> None:
    directory = nas.add(nas.root, "directory", kind=DIRECTORY)
    nas.add(directory, "file", data=b"x")
    nas.add(nas.root, "file", data=b"x")
    operations: dict[str, Callable[[Path], object]] = {
        "stat": os.stat,
        "open": lambda path: os.open(path, os.O_RDONLY),
        "truncate": lambda path: os.truncate(path, 0),
        "chmod": lambda path: path.chmod(0o600),
        "list": os.listdir,
        "through it": lambda path: (path / "file").stat(),
    }
    with plain_keeper.mounted(nas.url, options=("entry-ttl=0s", "attr-ttl=0s")) as folder:
        for what, operation in operations.items():
            name = "directory" if what in ("list", "through it") else "file"
            (folder / name).stat()
            refused = refuse_look_up(nas, name, status)
            with pytest.raises(OSError) as failure:
                operation(folder / name)
            assert (failure.value.errno, refused) == (code, [status]), what
            (folder / name).stat()


def test_a_name_that_is_gone_is_gone(nas: ScriptedNas, plain_keeper: Keeper) -> None:
    nas.add(nas.root, "file", data=b"x")
    with plain_keeper.mounted(nas.url, options=("entry-ttl=0s",)) as folder:
        assert (folder / "file").exists()
        del nas.root.children[b"file"]
        assert not (folder / "file").exists()
        refused = refuse_look_up(nas, "file", IO, times=2)
        with pytest.raises(OSError, match="Input/output error"):
            (folder / "file").stat()
        assert refused


# --- what the kernel is not told of is not known -----------------------------------------------------------------


@pytest.mark.parametrize("procedure", ["SETATTR", "GETATTR"])
def test_a_creation_that_fails_half_way_leaves_no_node(nas: ScriptedNas, plain_keeper: Keeper, procedure: str) -> None:
    with plain_keeper.mounted(nas.url, options=("attr-ttl=0s",)) as folder:
        folder.stat()

        def nodes() -> int:
            return int(plain_keeper.status(folder)["stats"]["nodes"])

        before = nodes()

        def hook(call: Call) -> bytes | None:
            is_of_root = call.arguments.startswith(u32(len(nas.root.handle)) + nas.root.handle)
            if call.procedure == procedure and not is_of_root:
                return call.answer(u32(IO) + u32(0) * 2)
            if call.procedure == "SETATTR":
                return call.answer(u32(OK) + u32(0) * 2)  # without attributes: they are asked for
            return call.reply

        nas.hook = hook
        for number in range(20):
            with pytest.raises(OSError, match="Input/output error"):
                os.open(folder / f"file{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        nas.hook = lambda call: call.reply
        assert nodes() == before


# --- names in another case ---------------------------------------------------------------------------------------


def test_a_name_in_another_case_is_found_where_the_nas_says_that_case_does_not_matter(
    nas: ScriptedNas, plain_keeper: Keeper
) -> None:
    """Also by the daemon that comes after a killed one, which asks the NAS nothing of the kind."""
    nas.ignores_case = True
    theirs = nas.add(nas.root, "theirs", kind=DIRECTORY)
    for number in range(20):
        nas.add(theirs, f"File-{number}")
    with plain_keeper.mounted(nas.url) as folder:
        for life in range(2):
            ours = folder / f"ours-{life}"
            assert len(os.listdir(folder / "theirs")) == 20
            assert all((folder / "theirs" / f"file-{number}").exists() for number in range(life * 10, life * 10 + 10))
            ours.mkdir()
            assert not (ours / "NEW").exists()
            (ours / "new").touch()
            assert (ours / "NEW").exists()
            plain_keeper.kill_daemon(folder)


# --- deep trees --------------------------------------------------------------------------------------------------


def test_root_works_in_a_tree_of_3000_levels(nas: ScriptedNas, folder: Path) -> None:
    """Each level is looked at by ACCESS at most once."""
    depth = 3000
    directory = nas.root
    for _ in range(depth):
        directory = nas.add(directory, "d", kind=DIRECTORY)
    nas.add(directory, "file", data=b"deep")
    here = os.open(folder, os.O_PATH)
    try:
        for _ in range(depth):
            below = os.open("d", os.O_PATH, dir_fd=here)
            os.close(here)
            here = below
        before = nas.counts["ACCESS"]
        file = os.open("file", os.O_RDWR, dir_fd=here)
        assert os.read(file, 10) == b"deep"
        os.close(file)
        os.mkdir("sub", dir_fd=here)
        os.rename("sub", "moved", src_dir_fd=here, dst_dir_fd=here)
        os.rmdir("moved", dir_fd=here)
        os.unlink("file", dir_fd=here)
        # Slow machines let verdicts expire on the way; each walk asks for each directory once at most.
        assert nas.counts["ACCESS"] - before <= 5 * (depth + 1)
    finally:
        os.close(here)
