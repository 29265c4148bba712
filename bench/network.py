"""Networks between client and server: a link of a given rate between two namespaces, and a round trip on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.nas import Nas
from tests.support.processes import end_process, wait_until

#: Jumbo frames, as storage networks have them: headers then take under 1 % of the link.
_MTU = 9000
_BURST_BYTES = 2 << 20


@dataclass(frozen=True, kw_only=True)
class Link:
    """Two network namespaces and the server's address in its own."""

    client: str
    server: str
    server_address: str = "10.11.12.2"
    client_address: str = "10.11.12.1"

    @property
    def in_client(self) -> Sequence[str]:
        """What to put before a command line to run it at the client's end."""
        return ("nsenter", f"--net=/run/netns/{self.client}")

    @property
    def in_server(self) -> Sequence[str]:
        """Likewise at the server's end."""
        return ("nsenter", f"--net=/run/netns/{self.server}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20)


@contextmanager
def limited_link(*, bytes_per_s: int) -> Iterator[Link]:
    """A veth pair that carries `bytes_per_s` from server to client, headers included."""
    link = Link(client=f"efc-client-{os.getpid()}", server=f"efc-server-{os.getpid()}")
    with ExitStack() as stack:
        for name in (link.client, link.server):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", link.client, "link", "add", "to-server", "mtu", str(_MTU), "type", "veth",
            "peer", "name", "to-client", "mtu", str(_MTU), "netns", link.server)  # fmt: skip
        for name, device, address in (
            (link.client, "to-server", link.client_address),
            (link.server, "to-client", link.server_address),
        ):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
        subprocess.run(
            ["tc", "-n", link.server, "qdisc", "add", "dev", "to-client", "root", "tbf", "rate", f"{bytes_per_s * 8}",
             "burst", str(_BURST_BYTES), "latency", "50ms"], check=True, timeout=20,
        )  # fmt: skip
        yield link


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
