"""A round trip between client and server on loopback."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nas import Nas
from tests.support.paths import ROOT
from tests.support.processes import end_process, wait_until


@contextmanager
def delayed(nas: Nas, *, round_trip_us: int) -> Iterator[int]:
    """A port at which `nas` has a round trip more, during the block. Raises CalledProcessError without a compiler."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="efc-bench-") as name:
        program, source = Path(name) / "delay_proxy", ROOT / "bench" / "delay_proxy.c"
        subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True, timeout=60)
        proxy = subprocess.Popen([program, str(port), str(nas.port), str(round_trip_us // 2)])
        try:
            wait_until(lambda: _listens(port), what="the delay proxy", limit_s=5)
            yield port
        finally:
            end_process(proxy)


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
