"""A TCP proxy between daemon and NAS that holds a call or a reply at will, so that nothing is left to chance.

To the server it is the same client: it connects from the port that the daemon connected from, on another loopback
address, and breaks that connection when the daemon's breaks.
"""

from __future__ import annotations

import enum
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

OWN_ADDRESS = "127.0.0.2"
_LAST_FRAGMENT = 0x8000_0000
_NO_LINGER = struct.pack("ii", 1, 0)


class Procedure(enum.IntEnum):
    """Of NFSv3 (RFC 1813, section 3.3)."""

    GETATTR = 1
    SETATTR = 2
    LOOKUP = 3
    READ = 6
    WRITE = 7
    CREATE = 8
    MKDIR = 9
    SYMLINK = 10
    MKNOD = 11
    REMOVE = 12
    RMDIR = 13
    RENAME = 14
    LINK = 15
    COMMIT = 21


_PROCEDURES = frozenset(int(procedure) for procedure in Procedure)
_ONLY_READING = (Procedure.GETATTR, Procedure.READ)


@dataclass(kw_only=True, eq=False)
class Hold:
    """One call of a procedure that is stopped on its way: itself, or its reply."""

    procedure: Procedure
    is_reply: bool
    is_aside: bool = False  # what comes after it on the same connection goes on
    first: Callable[[], object] = lambda: None  # done before the call goes on to the server
    xid: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def wait(self, limit_s: float = 20) -> None:
        """Returns when the call has come; if its reply is held, it was executed."""
        assert self.reached.wait(limit_s), f"no {self.procedure.name} came"


class Proxy:
    """Forwards connections to a port while its block runs."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.calls: list[
            tuple[Procedure, int]
        ] = []  # in the order of their coming: procedure, xid; not those that only read
        self.arrived = 0  # calls, all of them
        self._holds: list[Hold] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._sockets:
            _break(connection)

    @contextmanager
    def held(
        self, procedure: Procedure, *, reply: bool, aside: bool = False, first: Callable[[], object] = lambda: None
    ) -> Iterator[Hold]:
        """Stops the next call of `procedure`, or its reply, until the block ends; it goes with its connection.

        The connection stands still meanwhile, unless it is put `aside`.
        """
        hold = Hold(procedure=procedure, is_reply=reply, is_aside=aside, first=first)
        with self._lock:
            self._holds.append(hold)
        try:
            yield hold
        finally:
            hold.released.set()
            with self._lock, suppress(ValueError):
                self._holds.remove(hold)

    def count(self, procedure: Procedure) -> int:
        """Calls of `procedure` so far, repetitions included."""
        return sum(1 for called, _ in self.calls if called == procedure)

    # ------------------------------------------------------------ inside

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, (_, port) = self._listener.accept()
                far = self._connect(port)
                self._sockets += near, far
                for source, target, is_reply in ((near, far, False), (far, near, True)):
                    arguments = {"source": source, "target": target, "is_reply": is_reply}
                    threading.Thread(target=self._forward, kwargs=arguments, daemon=True).start()

    def _connect(self, port: int) -> socket.socket:
        """From the daemon's port, once the last connection from there is closed."""
        end = time.monotonic() + 5
        while True:
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                far.bind((OWN_ADDRESS, port))
                far.connect(self._server)
            except OSError:
                far.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.002)
            else:
                return far

    def _forward(self, *, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sending = threading.Lock()

        def send(record: bytes) -> None:
            with sending:
                target.sendall(record)

        def send_later(hold: Hold, record: bytes) -> None:
            hold.released.wait()
            with suppress(OSError):
                send(record)

        with suppress(OSError, EOFError):
            while True:
                record = _record(source)
                hold = self._look(record, is_reply=is_reply)
                if hold is not None:
                    hold.reached.set()
                    if hold.is_aside:
                        threading.Thread(target=send_later, args=(hold, record), daemon=True).start()
                        continue
                    near = target if is_reply else source
                    while not hold.released.wait(0.01):
                        if _is_broken(near):
                            raise EOFError
                send(record)
        _break(source)
        _break(target)

    def _look(self, record: bytes, *, is_reply: bool) -> Hold | None:
        (xid,) = struct.unpack(">I", record[4:8])
        with self._lock:
            if is_reply:
                # A successor's copy of a call has the same xid: it is another one's reply that was put aside.
                held = (h for h in self._holds if h.is_reply and h.xid == xid)
                return next((hold for hold in held if not (hold.is_aside and hold.reached.is_set())), None)
            number = struct.unpack(">I", record[24:28])[0]
            self.arrived += 1
            if number not in _PROCEDURES:
                return None
            if number not in _ONLY_READING:
                self.calls.append((Procedure(number), xid))
            hold = next((h for h in self._holds if h.procedure == number and h.xid is None), None)
            if hold is None:
                return None
            hold.xid = xid
        hold.first()
        return None if hold.is_reply else hold


def _record(source: socket.socket) -> bytes:
    """One fragment; all records of client and server are of one."""
    mark = _exactly(source, 4)
    return mark + _exactly(source, struct.unpack(">I", mark)[0] & ~_LAST_FRAGMENT)


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _is_broken(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _break(connection: socket.socket) -> None:
    """Closes with a reset, as a killed daemon's connections close."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
