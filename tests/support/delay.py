"""A round trip between client and server, on loopback or within a network namespace."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nas import free_ports
from tests.support.netns import Host
from tests.support.paths import SUPPORT
from tests.support.processes import end_process, wait_until

_LOOPBACK = "127.0.0.1"


@contextmanager
def delayed(port: int, *, round_trip_us: int, host: Host | None = None) -> Iterator[int]:
    """A port at which the server at `port` has a round trip more, during the block, on the server's own address.

    `host` is the namespace of the server, if it has one. Raises CalledProcessError without a compiler.
    """
    address = host.address if host else _LOOPBACK
    (near,) = free_ports(_LOOPBACK, count=1)
    with tempfile.TemporaryDirectory(prefix="efc-delay-") as name:
        program, source = Path(name) / "delay_proxy", SUPPORT / "delay_proxy.c"
        subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True, timeout=60)
        prefix = host.prefix if host else ()
        proxy = subprocess.Popen([*prefix, program, address, str(near), str(port), str(round_trip_us // 2)])
        try:
            wait_until(lambda: _listens(near, host), what="the delay proxy", limit_s=5)
            yield near
        finally:
            end_process(proxy)


def _listens(port: int, host: Host | None) -> bool:
    try:
        connection = host.connect(port) if host else socket.create_connection((_LOOPBACK, port), timeout=10)
    except OSError:
        return False
    connection.close()
    return True
