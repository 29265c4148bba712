"""A round trip between client and server on loopback."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nas import Nas
from tests.support.processes import end_process, wait_until


@contextmanager
def round_trip(nas: Nas, *, program: Path, round_trip_us: int) -> Iterator[str]:
    """The URL of `nas`' first export through a proxy that adds a round trip."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    proxy = subprocess.Popen([program, str(port), str(nas.port), str(round_trip_us // 2)])
    try:
        wait_until(lambda: _listens(port), what="the delay proxy", limit_s=5)
        yield nas.url_of(nas.exports[0].name, port=port)
    finally:
        end_process(proxy)


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
