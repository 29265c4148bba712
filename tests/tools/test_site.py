"""Namespaces of tests: their links carry what they should and no more, and nothing of them is left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.delay import delayed
from tests.support.leaks import no_leaks
from tests.support.netns import Host, Network
from tests.support.processes import end_process, wait_until
from tests.support.site import Site

_PORT = 20_000
_ECHO = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection, _ = listener.accept()
    while data := connection.recv(1 << 20):
        connection.sendall(data)
"""


@contextmanager
def echo(host: Host) -> Iterator[None]:
    """A server that sends back what it gets."""
    server = subprocess.Popen([*host.prefix, sys.executable, "-c", _ECHO, host.address, str(_PORT)])
    try:
        wait_until(lambda: _listens(host), what="the server")
        yield
    finally:
        end_process(server)


def _listens(host: Host) -> bool:
    try:
        host.connect(_PORT).close()
    except OSError:
        return False
    return True


def _sent_and_back(connection: socket.socket, size: int) -> float:
    """How many seconds that takes."""
    began = time.monotonic()
    connection.sendall(bytes(size))
    left = size
    while left:
        left -= len(connection.recv(1 << 16)) or left
    return time.monotonic() - began


def test_a_link_carries_no_more_than_its_rate_and_can_be_cut() -> None:
    """Each side's; a limit that is taken away is gone."""
    size = 2_000_000
    with Network.made() as network:
        server, client = network.host(), network.host()
        with echo(server), client.connect(_PORT, address=server.address) as connection:
            for limited in (server, client):
                network.limit(limited, 16)  # 2 MB a second, each way
                assert _sent_and_back(connection, size) >= 0.8 * size / 2_000_000
                network.limit(limited, 0)
                for device in ("efc0", "lo"):
                    assert "tbf" not in limited.run("tc", "qdisc", "show", "dev", device)
            network.cut(server)
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                _sent_and_back(connection, 1)
            network.mend(server)
            connection.settimeout(30)
            assert connection.recv(1) == b"\0", "TCP sends it again"


def test_a_round_trip_is_added_within_a_namespace() -> None:
    with Network.made() as network:
        server, client = network.host(), network.host()
        with (
            echo(server),
            delayed(_PORT, round_trip_us=50_000, host=server) as port,
            client.connect(port, address=server.address) as connection,
        ):
            assert _sent_and_back(connection, 1) >= 0.05


def test_only_the_network_is_separate_and_nothing_is_left_after_a_failure() -> None:
    """The mount of a node is seen from here, the worker is not reached from here."""
    with no_leaks(), pytest.raises(ZeroDivisionError), Site.made() as site:
        host = site.network.host()
        (site.nas.export_folder() / "file").write_bytes(b"data")
        with site.worker(host, memory_mib=64) as worker, site.node(host, workers=[worker]) as node:
            assert (node.mount / "file").read_bytes() == b"data"
            assert worker.questions() == 0
            with pytest.raises(OSError, match=r"unreachable|refused|timed out"):
                socket.create_connection((worker.address, worker.port), timeout=1)
            assert os.readlink(f"/proc/{node.keeper.pid}/ns/net") == os.readlink(f"/proc/{host.pid}/ns/net")
            raise ZeroDivisionError
