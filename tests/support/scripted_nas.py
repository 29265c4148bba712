"""An NFSv3 and MOUNT server in memory, on loopback, that says what a test tells it to: for servers that lie once.

It answers all 22 procedures of RFC 1813 truthfully by itself. `hook` sees each answer before it goes out and may change
it, delay it or drop it (return None); its nodes may be changed at any time, as another client would change them. What
a real server can show is tested with a real server (`tests.support.nas`); this one is for what no real server does on
demand.

    with ScriptedNas() as nas:
        file = nas.add(nas.root, "file", data=b"0123456789")
        nas.hook = lambda call: None if call.procedure == "READ" else call.reply  # no READ is ever answered
        with keeper.mounted(nas.url) as folder: ...
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Self

PROCEDURES = (
    "NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR", "SYMLINK",
    "MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO", "PATHCONF", "COMMIT",
)  # fmt: skip

#: Types of files (ftype3).
REGULAR, DIRECTORY, SYMLINK = 1, 2, 5
#: Status codes (nfsstat3).
OK, NOENT, IO, ACCES, EXIST, NOTDIR, ISDIR, NOTEMPTY, STALE = 0, 2, 5, 13, 17, 20, 21, 66, 70
BAD_COOKIE, NOTSUPP = 10003, 10004

_MOUNT_PROGRAM = 100005
_LAST_FRAGMENT = 1 << 31


def u32(value: int) -> bytes:
    """An XDR unsigned int."""
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    """An XDR unsigned hyper."""
    return struct.pack(">Q", value)


def opaque(data: bytes) -> bytes:
    """XDR opaque data of variable length."""
    return u32(len(data)) + data + bytes(-len(data) % 4)


@dataclass
class Arguments:
    """Decodes XDR from the front of `data`."""

    data: bytes
    offset: int = 0

    def u32(self) -> int:
        """The next unsigned int."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """The next unsigned hyper."""
        return int.from_bytes(self.take(8), "big")

    def opaque(self) -> bytes:
        """The next opaque data of variable length."""
        length = self.u32()
        data = self.take(length)
        self.take(-length % 4)
        return data

    def take(self, length: int) -> bytes:
        """The next bytes as they are."""
        self.offset += length
        return self.data[self.offset - length : self.offset]


def now_ns() -> int:
    """The server's clock, in ns since the epoch: a test may put another one in its place."""
    return time.time_ns()


@dataclass(kw_only=True, eq=False)
class Node:
    """A file, directory or symbolic link. A test may change any of it; times are in ns since the epoch."""

    granularity_ns: ClassVar[int] = 1  # of times, as clients are shown them

    fileid: int
    kind: int = REGULAR
    mode: int = 0o777
    data: bytearray = field(default_factory=bytearray)  # of a symbolic link: its target
    children: dict[bytes, Node] = field(default_factory=dict)
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    fsid: int = 1
    mtime_ns: int = field(default_factory=lambda: now_ns())
    ctime_ns: int = field(default_factory=lambda: now_ns())
    atime_ns: int = field(default_factory=lambda: now_ns())
    verifier: bytes = b""  # of an exclusive create

    @property
    def handle(self) -> bytes:
        """The file handle, which is the same as long as the server runs."""
        return b"NODE" + u64(self.fsid) + u64(self.fileid)

    def changed(self) -> None:
        """Sets mtime and ctime to now."""
        self.mtime_ns = self.ctime_ns = now_ns()

    def attributes(self) -> bytes:
        """Its fattr3."""
        size = 4096 if self.kind == DIRECTORY else len(self.data)
        times = (self.atime_ns, self.mtime_ns, self.ctime_ns)
        return struct.pack(
            ">5I5Q6I", self.kind, self.mode, self.nlink, self.uid, self.gid, size, size, 0, self.fsid, self.fileid,
            *(part for ns in times for part in divmod(ns // self.granularity_ns * self.granularity_ns, 10**9)),
        )  # fmt: skip


@dataclass(kw_only=True, eq=False)
class Call:
    """One call as a hook sees it: `body` is what follows the reply's RPC header, and `reply` the whole reply."""

    procedure: str  # of PROCEDURES, or "MNT" and the like for MOUNT's
    arguments: bytes
    header: bytes
    body: bytes
    connection: socket.socket
    number: int  # of this procedure's calls, from 1

    @property
    def reply(self) -> bytes:
        """The RPC reply with the truthful answer."""
        return self.header + self.body

    def answer(self, body: bytes) -> bytes:
        """The RPC reply with another answer."""
        return self.header + body


#: Gets each call with its truthful answer; answers the reply to send, or None to send nothing.
Hook = Callable[[Call], bytes | None]


class ScriptedNas:
    """Runs inside a `with` block. `lock` is held while a call is executed, not while `hook` runs."""

    def __init__(self) -> None:
        self.root = Node(fileid=2, kind=DIRECTORY, nlink=2)
        self.hook: Hook = lambda call: call.reply
        self.counts: Counter[str] = Counter()
        self.latest: deque[str] = deque(maxlen=20)  # calls: for messages of failing tests
        self.verifier = b"VERIFIER"  # of WRITE and COMMIT
        self.cookie_verifier = bytes(8)
        self.checks_cookie_verifiers = False  # a directory's is its mtime then, and cookies die with each change of it
        self.ignores_case = False  # names that differ in case only are one name, as PATHCONF says at mount
        self.page_entries = 64  # of a directory, per reply
        self.lock = threading.RLock()
        self._nodes = {self.root.handle: self.root}
        self._fileids = itertools.count(100)
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """The dataset's URL."""
        return f"nfs://127.0.0.1:{self.port}/export?mountport={self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        # Closing alone does not end the accept(2) that waits: it would take one connection more, and serve it.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_connections()

    def cut_connections(self) -> None:
        """Closes all connections; clients may come again."""
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._connections.clear()

    def add(
        self,
        parent: Node,
        name: str,
        *,
        kind: int = REGULAR,
        data: bytes = b"",
        mode: int = 0o777,
        fsid: int | None = None,
        fileid: int = 0,
    ) -> Node:
        """Makes a file as somebody else would: no call is counted. With another `fsid` it is on another file system."""
        node = Node(fileid=fileid, fsid=fsid or parent.fsid, kind=kind, mode=mode, data=bytearray(data))
        return self._add(parent, name.encode(), node)

    def _add(self, parent: Node, name: bytes, node: Node) -> Node:
        with self.lock:
            node.fileid = node.fileid or next(self._fileids)
            parent.children[name] = node
            parent.changed()
            self._nodes[node.handle] = node
        return node

    # --- connections --------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while (message := _record(stream.read)) is not None:
                    self._execute(connection, message)
            except OSError:
                return

    def _execute(self, connection: socket.socket, message: bytes) -> None:
        call = Arguments(message)
        xid = call.u32()
        call.take(8)
        program = call.u32()
        call.take(4)
        procedure = call.u32()
        for _ in ("credential", "verifier"):
            call.take(4)
            call.opaque()
        if program == _MOUNT_PROGRAM:
            name = {1: "MNT", 3: "UMNT"}.get(procedure, "MOUNT-NULL")
            run = self._mount if name == "MNT" else _nothing
        else:
            name = PROCEDURES[procedure]
            run = getattr(self, f"_{name.lower()}")
        arguments = call.data[call.offset :]
        with self.lock:
            self.counts[name] += 1
            number = self.counts[name]
            self.latest.append(f"{name} {arguments!r}")
            body = run(Arguments(arguments))
        header = u32(xid) + u32(1) + u32(0) + u32(0) + u32(0) + u32(0)
        reply = self.hook(
            Call(procedure=name, arguments=arguments, header=header, body=body, connection=connection, number=number)
        )
        if reply is not None:
            send(connection, reply)

    # --- procedures ---------------------------------------------------------------------------------------------

    def _mount(self, _arguments: Arguments) -> bytes:
        return u32(OK) + opaque(self.root.handle) + u32(1) + u32(1)

    def _null(self, _arguments: Arguments) -> bytes:
        return b""

    def _node(self, arguments: Arguments) -> Node | None:
        return self._nodes.get(arguments.opaque())

    def _place(self, arguments: Arguments) -> tuple[Node | None, bytes]:
        """A directory and a name in it, as it is written there."""
        directory, name = self._node(arguments), arguments.opaque()
        if directory is not None and self.ignores_case:
            name = next((there for there in directory.children if there.lower() == name.lower()), name)
        return directory, name

    def _getattr(self, arguments: Arguments) -> bytes:
        node = self._node(arguments)
        return u32(OK) + node.attributes() if node else u32(STALE)

    def _setattr(self, arguments: Arguments) -> bytes:
        node = self._node(arguments)
        if node is None:
            return u32(STALE) + wcc(None)
        _set_attributes(node, arguments)
        return u32(OK) + wcc(node)

    def _lookup(self, arguments: Arguments) -> bytes:
        directory, name = self._place(arguments)
        if directory is None:
            return u32(STALE) + post(None)
        found = directory if name in (b".", b"..") else directory.children.get(name)
        if found is None:
            return u32(NOENT) + post(directory)
        return u32(OK) + opaque(found.handle) + post(found) + post(directory)

    def _access(self, arguments: Arguments) -> bytes:
        node, asked = self._node(arguments), arguments.u32()
        return u32(OK) + post(node) + u32(asked) if node else u32(STALE) + post(None)

    def _readlink(self, arguments: Arguments) -> bytes:
        node = self._node(arguments)
        return u32(OK) + post(node) + opaque(bytes(node.data)) if node else u32(STALE) + post(None)

    def _read(self, arguments: Arguments) -> bytes:
        node, offset, count = self._node(arguments), arguments.u64(), arguments.u32()
        if node is None:
            return u32(STALE) + post(None)
        return read_body(node, bytes(node.data[offset : offset + count]), eof=offset + count >= len(node.data))

    def _write(self, arguments: Arguments) -> bytes:
        node, offset = self._node(arguments), arguments.u64()
        _count, stable = arguments.u32(), arguments.u32()
        data = arguments.opaque()
        if node is None:
            return u32(STALE) + wcc(None)
        node.data.extend(bytes(max(offset - len(node.data), 0)))
        node.data[offset : offset + len(data)] = data
        node.changed()
        return u32(OK) + wcc(node) + u32(len(data)) + u32(stable) + self.verifier

    def _commit(self, arguments: Arguments) -> bytes:
        node = self._node(arguments)
        return u32(OK) + wcc(node) + self.verifier if node else u32(STALE) + wcc(None)

    def _create(self, arguments: Arguments) -> bytes:
        (directory, name), how = self._place(arguments), arguments.u32()
        if directory is None:
            return u32(STALE) + wcc(None)
        verifier = arguments.take(8) if how == 2 else b""
        there = directory.children.get(name)
        if there is not None:
            is_same = how == 0 or (how == 2 and there.verifier == verifier)
            return _made(directory, there) if is_same else u32(EXIST) + wcc(directory)
        node = Node(fileid=0, fsid=directory.fsid, mode=0o644, verifier=verifier)
        if how != 2:
            _set_attributes(node, arguments)
        return _made(directory, self._add(directory, name, node))

    def _mkdir(self, arguments: Arguments) -> bytes:
        return self._make(arguments, DIRECTORY)

    def _symlink(self, arguments: Arguments) -> bytes:
        return self._make(arguments, SYMLINK)

    def _make(self, arguments: Arguments, kind: int) -> bytes:
        directory, name = self._place(arguments)
        if directory is None or name in directory.children:
            return u32(STALE if directory is None else EXIST) + wcc(directory)
        node = Node(fileid=0, fsid=directory.fsid, kind=kind, nlink=2 if kind == DIRECTORY else 1)
        _set_attributes(node, arguments)
        if kind == SYMLINK:
            node.data = bytearray(arguments.opaque())
        return _made(directory, self._add(directory, name, node))

    def _mknod(self, arguments: Arguments) -> bytes:
        (directory, name), kind = self._place(arguments), arguments.u32()
        if directory is None or name in directory.children:
            return u32(STALE if directory is None else EXIST) + wcc(directory)
        node = Node(fileid=0, fsid=directory.fsid, kind=kind)
        _set_attributes(node, arguments)
        return _made(directory, self._add(directory, name, node))

    def _remove(self, arguments: Arguments) -> bytes:
        directory, name = self._place(arguments)
        if directory is None or name not in directory.children:
            return u32(STALE if directory is None else NOENT) + wcc(directory)
        node = directory.children[name]
        if node.children:
            return u32(NOTEMPTY) + wcc(directory)
        self._unlink(directory, name)
        return u32(OK) + wcc(directory)

    _rmdir = _remove

    def _unlink(self, directory: Node, name: bytes) -> None:
        node = directory.children.pop(name)
        node.nlink -= 1
        node.ctime_ns = now_ns()
        directory.changed()
        if node.nlink == 0 or node.kind == DIRECTORY:
            del self._nodes[node.handle]

    def _rename(self, arguments: Arguments) -> bytes:
        source, old = self._place(arguments)
        target, new = self._place(arguments)
        if source is None or target is None or old not in source.children:
            return u32(STALE if source is None or target is None else NOENT) + wcc(source) + wcc(target)
        node = source.children[old]
        if new in target.children and target.children[new] is not node:
            self._unlink(target, new)
        del source.children[old]
        target.children[new] = node
        node.ctime_ns = now_ns()
        source.changed()
        target.changed()
        return u32(OK) + wcc(source) + wcc(target)

    def _link(self, arguments: Arguments) -> bytes:
        node, (directory, name) = self._node(arguments), self._place(arguments)
        if node is None or directory is None or name in directory.children:
            return u32(STALE if node is None or directory is None else EXIST) + post(node) + wcc(directory)
        directory.children[name] = node
        node.nlink += 1
        node.ctime_ns = now_ns()
        directory.changed()
        return u32(OK) + post(node) + wcc(directory)

    def _readdir(self, arguments: Arguments) -> bytes:
        return self._list(arguments, plus=False)

    def _readdirplus(self, arguments: Arguments) -> bytes:
        return self._list(arguments, plus=True)

    def _list(self, arguments: Arguments, *, plus: bool) -> bytes:
        """A page of a listing whose cookies are positions: entries that are removed move the others up."""
        directory, cookie, asked_verifier = self._node(arguments), arguments.u64(), arguments.take(8)
        if directory is None:
            return u32(STALE) + post(None)
        verifier = u64(directory.mtime_ns) if self.checks_cookie_verifiers else self.cookie_verifier
        if self.checks_cookie_verifiers and cookie != 0 and asked_verifier != verifier:
            return u32(BAD_COOKIE) + post(directory)
        names = [(b".", directory), (b"..", directory), *directory.children.items()]
        page = [
            (name, node, position + 1)
            for position, (name, node) in enumerate(names)
            if cookie <= position < cookie + self.page_entries
        ]
        eof = cookie + self.page_entries >= len(names)
        return list_body(directory, page, verifier=verifier, eof=eof, plus=plus)

    def _fsstat(self, arguments: Arguments) -> bytes:
        """The file system `fsid` has that many TiB."""
        node = self._node(arguments)
        if node is None:
            return u32(STALE) + post(None)
        return u32(OK) + post(None) + u64(node.fsid << 40) * 3 + u64(1 << 20) * 3 + u32(0)

    def _fsinfo(self, _arguments: Arguments) -> bytes:
        transfer = u32(1 << 20) + u32(1 << 20) + u32(1)
        return u32(OK) + post(None) + transfer * 2 + u32(1 << 16) + u64(1 << 62) + u32(0) + u32(1) + u32(0x1B)

    def _pathconf(self, _arguments: Arguments) -> bytes:
        return u32(OK) + post(None) + u32(32000) + u32(255) + u32(1) + u32(1) + u32(self.ignores_case) + u32(1)


def post(node: Node | None) -> bytes:
    """A post_op_attr."""
    return u32(0) if node is None else u32(1) + node.attributes()


def wcc(node: Node | None) -> bytes:
    """A wcc_data without the part from before."""
    return u32(0) + post(node)


def read_body(node: Node, data: bytes, *, eof: bool) -> bytes:
    """The answer to a READ."""
    return u32(OK) + post(node) + u32(len(data)) + u32(eof) + opaque(data)


def list_body(
    directory: Node, entries: list[tuple[bytes, Node, int]], *, verifier: bytes, eof: bool, plus: bool
) -> bytes:
    """The answer to a READDIR or READDIRPLUS with these names, nodes and cookies."""
    body = u32(OK) + post(directory) + verifier
    for name, node, cookie in entries:
        body += u32(1) + u64(node.fileid) + opaque(name) + u64(cookie)
        if plus:
            body += post(node) + u32(1) + opaque(node.handle)
    return body + u32(0) + u32(eof)


def send(connection: socket.socket, reply: bytes) -> None:
    """Sends one reply; for hooks that answer later, twice, or out of order."""
    connection.sendall(u32(_LAST_FRAGMENT | len(reply)) + reply)


def _made(directory: Node, node: Node) -> bytes:
    return u32(OK) + u32(1) + opaque(node.handle) + post(node) + wcc(directory)


def _nothing(_arguments: Arguments) -> bytes:
    return b""


def _set_attributes(node: Node, arguments: Arguments) -> None:
    """Takes a sattr3 off the arguments."""
    if arguments.u32():
        node.mode = arguments.u32() & 0o7777
    if arguments.u32():
        node.uid = arguments.u32()
    if arguments.u32():
        node.gid = arguments.u32()
    if arguments.u32():
        size = arguments.u64()
        node.data = node.data[:size] + bytes(max(size - len(node.data), 0))
        node.changed()
    for which in ("atime_ns", "mtime_ns"):
        how = arguments.u32()
        if how == 1:
            setattr(node, which, now_ns())
        elif how == 2:
            setattr(node, which, arguments.u32() * 10**9 + arguments.u32())
    node.ctime_ns = now_ns()


def _record(read: Callable[[int], bytes]) -> bytes | None:
    """The next record of RPC over TCP (RFC 5531, section 11), or None at the end of the stream."""
    message = b""
    while True:
        mark = read(4)
        if len(mark) < 4:
            return None
        word = int.from_bytes(mark, "big")
        message += read(word & ~_LAST_FRAGMENT)
        if word & _LAST_FRAGMENT:
            return message
