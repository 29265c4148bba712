"""The port mapper of the cluster's NAS (RFC 1833, version 2, by TCP): a source need not say where MOUNT is served."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PORT = 111
_GETPORT = 3
_LAST_FRAGMENT = 1 << 31
_REQUEST_BYTES_MAX = 1024
#: reply, accepted, without a verifier, success
_ACCEPTED = struct.pack(">5I", 1, 0, 0, 0, 0)


@contextmanager
def port_mapper(address: str, ports: Mapping[int, int]) -> Iterator[None]:
    """Says during the block at `address` on which of `ports` each program is, by the program's number."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                self._answer_all()

        def _answer_all(self) -> None:
            while len(header := self.rfile.read(4)) == 4:
                size = struct.unpack(">I", header)[0] & ~_LAST_FRAGMENT
                if size > _REQUEST_BYTES_MAX:
                    return
                answer = _answer(self.rfile.read(size), ports)
                self.wfile.write(struct.pack(">I", _LAST_FRAGMENT | len(answer)) + answer)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server((address, PORT), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _answer(call: bytes, ports: Mapping[int, int]) -> bytes:
    """0 for a program that is not there, as a port mapper says it; other procedures answer nothing."""
    number, procedure = struct.unpack_from(">I", call)[0], struct.unpack_from(">I", call, 20)[0]
    position = 24
    for _ in ("credentials", "verifier"):
        length = struct.unpack_from(">I", call, position + 4)[0]
        position += 8 + (length + 3) // 4 * 4
    result = b""
    if procedure == _GETPORT:
        result = struct.pack(">I", ports.get(struct.unpack_from(">I", call, position)[0], 0))
    return struct.pack(">I", number) + _ACCEPTED + result
