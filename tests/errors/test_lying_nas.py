"""A NAS whose answers are none: a call fails or is asked again, and no file or listing is silently cut off."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import socket
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.scripted_nas import (
    BAD_COOKIE,
    DIRECTORY,
    NOTSUPP,
    REGULAR,
    SYMLINK,
    Arguments,
    Call,
    Hook,
    Node,
    ScriptedNas,
    list_body,
    post,
    read_body,
    send,
    u32,
)

SIZE = 3 << 20


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


@pytest.fixture
def nas() -> Iterator[ScriptedNas]:
    with ScriptedNas() as nas:
        yield nas


def names(folder: Path) -> list[str]:
    """The listing as it comes, in a process of its own: an endless one is ended."""
    code = "import os,sys; [print(entry.name) for entry in os.scandir(sys.argv[1])]"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise OSError(errno.EIO if "Errno 5" in done.stderr else errno.EINVAL, done.stderr)
    return done.stdout.split()


def fill(nas: ScriptedNas, count: int) -> list[str]:
    """Makes files in the root; their names."""
    made = [f"name-{number:05}" for number in range(count)]
    for name in made:
        nas.add(nas.root, name)
    return made


def is_list(call: Call) -> bool:
    return call.procedure in ("READDIR", "READDIRPLUS")


# --- reading ----------------------------------------------------------------------------------------------------


def empty_reads(file: Node, *, times: int | None) -> Hook:
    """A hook: READs behind the first mebibyte bring nothing, the first `times` of them."""
    seen = 0

    def hook(call: Call) -> bytes | None:
        nonlocal seen
        if call.procedure == "READ":
            arguments = Arguments(call.arguments)
            arguments.opaque()
            if arguments.u64() >= 1 << 20 and (times is None or seen < times):
                seen += 1
                return call.answer(read_body(file, b"", eof=False))
        return call.reply

    return hook


def test_a_read_that_brings_nothing_is_asked_again(keeper: Keeper, nas: ScriptedNas) -> None:
    data = os.urandom(SIZE)
    file = nas.add(nas.root, "file", data=data)
    nas.hook = empty_reads(file, times=4)
    with keeper.mounted(nas.url) as folder:
        assert (folder / "file").read_bytes() == data


@pytest.mark.parametrize("size", [5 << 10, 4 << 10])
def test_a_small_file_that_brings_nothing_is_no_empty_file(keeper: Keeper, nas: ScriptedNas, size: int) -> None:
    file = nas.add(nas.root, "file", data=bytes(size))
    nas.hook = lambda call: call.answer(read_body(file, b"", eof=False)) if call.procedure == "READ" else call.reply
    with keeper.mounted(nas.url) as folder:
        (folder / "file").stat()
        with pytest.raises(OSError, match="Input/output error"):
            (folder / "file").read_bytes()


def test_a_file_that_goes_on_bringing_nothing_is_an_error(keeper: Keeper, nas: ScriptedNas) -> None:
    file = nas.add(nas.root, "file", data=os.urandom(SIZE))
    nas.hook = empty_reads(file, times=None)
    with keeper.mounted(nas.url) as folder:
        copied = subprocess.run(["cp", folder / "file", keeper.folder / "copy"], capture_output=True, timeout=60)
        assert copied.returncode != 0
        assert b"Input/output error" in copied.stderr


# --- listing ----------------------------------------------------------------------------------------------------


def empty_pages(nas: ScriptedNas, *, times: int | None) -> Hook:
    """A hook: pages behind the first are empty and not the last, the first `times` of them."""
    seen = 0

    def hook(call: Call) -> bytes | None:
        nonlocal seen
        if is_list(call):
            arguments = Arguments(call.arguments)
            arguments.opaque()
            if arguments.u64() > 0 and (times is None or seen < times):
                seen += 1
                return call.answer(list_body(nas.root, [], verifier=bytes(8), eof=False, plus=True))
        return call.reply

    return hook


def test_an_empty_page_is_not_the_end_of_a_listing(keeper: Keeper, nas: ScriptedNas) -> None:
    made = fill(nas, 300)
    nas.hook = empty_pages(nas, times=4)
    with keeper.mounted(nas.url) as folder:
        assert sorted(names(folder)) == made


def test_nothing_but_empty_pages_is_an_error(keeper: Keeper, nas: ScriptedNas) -> None:
    fill(nas, 300)
    nas.hook = empty_pages(nas, times=None)
    with keeper.mounted(nas.url) as folder, pytest.raises(OSError, match="Errno 5"):
        names(folder)


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_cookies_in_a_circle_are_an_error(keeper: Keeper, nas: ScriptedNas, pages: int) -> None:
    fill(nas, 1000)

    def hook(call: Call) -> bytes | None:
        if not is_list(call):
            return call.reply
        arguments = Arguments(call.arguments)
        arguments.opaque()
        page = arguments.u64() % pages
        entries = [(f"name-{page * 10 + number}".encode(), nas.root, 5_000) for number in range(9)]
        entries.append((f"name-{page * 10 + 9}".encode(), nas.root, page + 1))
        if call.procedure == "READDIRPLUS":
            return call.answer(u32(NOTSUPP) + post(nas.root))
        return call.answer(list_body(nas.root, entries, verifier=bytes(8), eof=False, plus=False))

    nas.hook = hook
    with keeper.mounted(nas.url) as folder, pytest.raises(OSError, match="Errno 5"):
        names(folder)


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_ulong), ("d_off", ctypes.c_long), ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte), ("d_name", ctypes.c_char * 256),
    )  # fmt: skip


class Stream:
    """A directory stream of the C library, for what Python's own lacks: telldir and seekdir."""

    def __init__(self, folder: Path) -> None:
        self._libc = libc = ctypes.CDLL(None, use_errno=True)
        libc.opendir.restype = ctypes.c_void_p
        libc.readdir.restype = ctypes.POINTER(_Dirent)
        libc.telldir.restype = ctypes.c_long
        self._stream = ctypes.c_void_p(libc.opendir(os.fsencode(folder)))

    def read(self, count: int = 1 << 30) -> list[str]:
        """The next names, without dots."""
        read: list[str] = []
        while len(read) < count:
            ctypes.set_errno(0)
            entry = self._libc.readdir(self._stream)
            if not entry:
                if ctypes.get_errno():
                    raise OSError(ctypes.get_errno(), "readdir")
                break
            name = entry.contents.d_name.decode()
            if name not in (".", ".."):
                read.append(name)
        return read

    def tell(self) -> int:
        """The place behind the last name."""
        return int(self._libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        """Goes to a place that `tell` named."""
        self._libc.seekdir(self._stream, ctypes.c_long(place))

    def close(self) -> None:
        self._libc.closedir(self._stream)


@contextmanager
def stream_of(folder: Path) -> Iterator[Stream]:
    """A stream for the time of the block."""
    stream = Stream(folder)
    try:
        yield stream
    finally:
        stream.close()


def test_a_void_cookie_after_seekdir_costs_no_name(keeper: Keeper, nas: ScriptedNas) -> None:
    made = fill(nas, 300)
    voided = False

    def hook(call: Call) -> bytes | None:
        nonlocal voided
        if is_list(call) and voided:
            arguments = Arguments(call.arguments)
            arguments.opaque()
            if arguments.u64() > 0:
                voided = False
                return call.answer(u32(BAD_COOKIE) + post(nas.root))
        return call.reply

    nas.hook = hook
    with keeper.mounted(nas.url) as folder, stream_of(folder) as stream:
        first = stream.read(50)
        place = stream.tell()
        rest = stream.read()
        assert first + rest == made
        voided = True
        stream.seek(place)
        assert stream.read() == rest


def test_what_is_listed_can_be_removed_where_cookies_die_with_each_change(keeper: Keeper, nas: ScriptedNas) -> None:
    fill(nas, 2000)
    nas.checks_cookie_verifiers = True
    code = "import os,sys\nfor entry in os.scandir(sys.argv[1]): os.unlink(entry.path)"
    with keeper.mounted(nas.url) as folder:
        subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=120)
    assert not nas.root.children


def test_a_listing_beside_changes_where_cookies_die_has_each_name_once(keeper: Keeper, nas: ScriptedNas) -> None:
    made = fill(nas, 1000)
    nas.checks_cookie_verifiers = True

    def hook(call: Call) -> bytes | None:
        if is_list(call) and call.number in (3, 9, 21):
            nas.add(nas.root, f"other-{call.number}")
        return call.reply

    nas.hook = hook
    with keeper.mounted(nas.url) as folder:
        listed = names(folder)
    assert len(listed) == len(set(listed))
    assert [name for name in listed if name.startswith("name")] == made


def test_a_listing_goes_on_after_its_daemon_where_cookies_die(keeper: Keeper, nas: ScriptedNas) -> None:
    made = fill(nas, 1000)
    nas.checks_cookie_verifiers = True
    with keeper.mounted(nas.url) as folder, stream_of(folder) as stream:
        listed = stream.read(100)
        for name in listed[:50]:
            (folder / name).unlink()
        keeper.replace_daemon(folder)
        listed += stream.read()
        assert set(listed) == set(made), "names may come twice, but none is missing"


# --- attributes -------------------------------------------------------------------------------------------------


def as_another(node: Node, **changes: int) -> bytes:
    """The attributes of a node, but for these."""
    return dataclasses.replace(node, **changes).attributes()


@pytest.mark.parametrize("lie", [{"kind": REGULAR}, {"kind": SYMLINK}, {"size": 1 << 63}], ids=str)
def test_a_root_that_is_something_else_once_is_the_root_again(
    keeper: Keeper, nas: ScriptedNas, lie: dict[str, int]
) -> None:
    nas.add(nas.root, "file", data=b"data")
    attributes = as_another(nas.root, **lie) if "kind" in lie else with_size(nas.root, lie["size"])
    lies = False
    nas.hook = lambda call: call.answer(u32(0) + attributes) if lies and call.procedure == "GETATTR" else call.reply
    with keeper.mounted(nas.url, options=["attr-ttl=0s"]) as folder:
        folder.stat()
        lies = True
        with pytest.raises(OSError, match="Input/output error"):
            folder.stat()
        lies = False
        assert folder.stat().st_mode & 0o777 == 0o777
        assert (folder / "file").read_bytes() == b"data"


def with_size(node: Node, size: int) -> bytes:
    """The attributes of a node, but for its size."""
    attributes = node.attributes()
    return attributes[:20] + size.to_bytes(8, "big") + attributes[28:]


def test_a_directory_that_is_a_file_in_one_answer_is_a_directory(keeper: Keeper, nas: ScriptedNas) -> None:
    """In those of LOOKUP, READDIRPLUS, and those that tell attributes by the way."""
    inner = nas.add(nas.root, "inner", kind=DIRECTORY)
    nas.add(inner, "file", data=b"data")
    truth, lie = inner.attributes(), as_another(inner, kind=REGULAR)
    lying = ""

    def hook(call: Call) -> bytes | None:
        is_lie = call.procedure == lying or (lying == "any" and call.procedure != "LOOKUP")
        return call.reply.replace(inner.attributes(), as_another(inner, kind=REGULAR)) if is_lie else call.reply

    nas.hook = hook
    assert len(truth) == len(lie)
    with keeper.mounted(nas.url, options=["attr-ttl=0s", "entry-ttl=0s"]) as folder:
        held = os.open(folder / "inner", os.O_RDONLY)
        try:
            for liar in ("LOOKUP", "READDIRPLUS", "GETATTR", "ACCESS", "CREATE", "REMOVE", "any"):
                lying = liar
                attempt(lambda: names(folder))
                attempt(lambda: os.stat(held))
                attempt((folder / "inner" / "file").read_bytes)
                attempt((folder / "inner" / "other").touch)
                attempt((folder / "inner" / "other").unlink)
                lying = ""
                assert os.listdir(held) == ["file"]
                assert os.fstat(held).st_mode & 0o170000 == 0o040000
                assert (folder / "inner" / "file").read_bytes() == b"data"
        finally:
            os.close(held)


def attempt(call: Callable[[], object]) -> None:
    """Calls what may fail, with EIO only."""
    try:
        call()
    except OSError as error:
        assert error.errno == errno.EIO, error


# --- file systems below the export -------------------------------------------------------------------------------


def test_file_systems_below_the_export_are_told_apart(keeper: Keeper, nas: ScriptedNas) -> None:
    """Each counts its inodes for itself: a child's root and files have the numbers of the root and of its files."""
    first = nas.add(nas.root, "first", data=b"first", fileid=50)
    child = nas.add(nas.root, "child", kind=DIRECTORY, fsid=7, fileid=nas.root.fileid)
    second = nas.add(child, "second", data=b"second", fileid=50)
    grandchild = nas.add(child, "grandchild", kind=DIRECTORY, fsid=8, fileid=nas.root.fileid)
    nas.add(grandchild, "third", data=b"third", fileid=50)
    first.nlink = second.nlink = 2  # tar and du look at numbers only then
    with keeper.mounted(nas.url) as folder:
        paths = [folder / path for path in ("", "first", "child", "child/second", "child/grandchild",
                                            "child/grandchild/third")]  # fmt: skip
        inodes = [path.stat().st_ino for path in paths]
        assert len(set(inodes)) == len(inodes)
        assert inodes[:2] == [nas.root.fileid, 50]
        listed = {entry.name: entry.inode() for entry in os.scandir(folder / "child")}
        assert listed == {"second": inodes[3], "grandchild": inodes[4]}
        found = subprocess.run(["find", folder], capture_output=True, text=True, timeout=30)
        assert (found.returncode, len(found.stdout.split())) == (0, len(paths)), found.stderr
        archive = keeper.folder / "archive.tar"
        subprocess.run(["tar", "-cf", archive, "-C", folder, "."], check=True, timeout=30)
        assert [b"second" in archive.read_bytes(), b"first" in archive.read_bytes()] == [True, True]
        with tarfile.open(archive) as tar:
            assert not [member.name for member in tar if member.islnk()]
        sizes = [os.statvfs(path) for path in (folder, folder / "child" / "second", folder / "child" / "grandchild")]
        assert [size.f_blocks * size.f_frsize >> 40 for size in sizes] == [1, 7, 8]
        keeper.replace_daemon(folder)
        assert [os.lstat(path).st_ino for path in paths] == inodes
        assert len({path.stat().st_ino for path in paths}) == len(paths)


# --- calls that are not executed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [1, 3, 4, 5])
def test_a_call_that_the_server_cannot_execute_is_no_lack_of_permission(
    keeper: Keeper, nas: ScriptedNas, state: int
) -> None:
    """No such program or procedure, arguments that are not understood, no memory."""
    nas.add(nas.root, "file")
    rejects = False
    nas.hook = lambda call: call.header[:-4] + u32(state) if rejects else call.reply
    with keeper.mounted(nas.url, options=["attr-ttl=0s", "entry-ttl=0s"]) as folder:
        folder.stat()
        rejects = True
        with pytest.raises(OSError, match="Input/output error"):
            (folder / "file").stat()
        rejects = False
        (folder / "file").stat()


def test_a_credential_that_is_refused_is_a_lack_of_permission(keeper: Keeper, nas: ScriptedNas) -> None:
    nas.add(nas.root, "file")
    denies = False
    nas.hook = lambda call: call.header[:4] + u32(1) * 3 + u32(5) if denies else call.reply
    with keeper.mounted(nas.url, options=["attr-ttl=0s", "entry-ttl=0s"]) as folder:
        folder.stat()
        denies = True
        with pytest.raises(PermissionError):
            (folder / "file").stat()
        denies = False


def test_a_server_that_resets_after_each_reply_does_not_fill_the_log(nas: ScriptedNas) -> None:
    nas.add(nas.root, "file", data=b"data")
    resets = False

    def hook(call: Call) -> bytes | None:
        if resets:
            send(call.connection, call.reply)
            call.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            call.connection.shutdown(socket.SHUT_RDWR)
            return None
        return call.reply

    nas.hook = hook
    with Keeper() as keeper, keeper.mounted(nas.url, options=["attr-ttl=0s"]) as folder:
        before = keeper.log.stat().st_size
        resets = True
        subprocess.run([sys.executable, "-c", READ_OFTEN, folder / "file"], check=True, timeout=60)
        resets = False
        written = keeper.log.read_bytes()[before:]
        assert sum(nas.counts.values()) > 300, "calls, each with a connection of its own"
        assert len(written.splitlines()) < 100, written[-2000:]


READ_OFTEN = """
import sys, threading
def read():
    for _ in range(50):
        assert open(sys.argv[1]).read() == "data"
threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
