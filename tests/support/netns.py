"""Network namespaces: two joined by a link, or any number joined by a bridge, with limits of bandwidth (tc tbf).

Only the network is separate: mounts, processes and /proc are the caller's. A namespace lives as long as a process that
sleeps in it, so everything goes with the block that made it. The kernel of many machines has no netem, so a link has no
delay of its own: put `tests.support.delay` in front for that.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.processes import end_process

_NETWORK = "192.0.2"  # TEST-NET-1 (RFC 5737): of these namespaces alone
_DEVICE = "efc0"  # a host's end of its link
_BRIDGE = "efcbr"
_CLONE_NEWNET = 0x40000000
#: What waits at a link that is full is as much as passes within this time.
_QUEUE_MS = 20


@dataclass(frozen=True, kw_only=True)
class Host:
    """A network namespace with one link."""

    pid: int  # of the process that keeps it
    address: str

    @property
    def prefix(self) -> Sequence[str]:
        """Put before a command line that shall run in it."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", "--")

    def run(self, *command: str) -> str:
        """The output of a command in it. Raises CalledProcessError."""
        return subprocess.run([*self.prefix, *command], check=True, capture_output=True, text=True, timeout=10).stdout

    def connect(self, port: int, *, address: str = "", limit_s: float = 10.0) -> socket.socket:
        """A connection from in it to a port of its own, or of another address. Raises OSError."""
        with self._entered():
            connection = socket.socket()  # stays of the namespace in which it was made
        connection.settimeout(limit_s)
        try:
            connection.connect((address or self.address, port))
        except OSError:
            connection.close()
            raise
        return connection

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """During the block the calling thread is in it, and no other."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            away = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            try:
                _set_namespace(away)
            finally:
                os.close(away)
            try:
                yield
            finally:
                _set_namespace(home)
        finally:
            os.close(home)


@dataclass(frozen=True, kw_only=True)
class Link:
    """Prefixes of command lines that run in either namespace, and the server's address in both."""

    server: Sequence[str]
    client: Sequence[str]
    server_address: str


@contextmanager
def netns_pair(rate_mbit: int = 0, *, mtu: int = 1500) -> Iterator[Link]:
    """The link carries `rate_mbit` (10**6 bit per second) each way; 0 leaves it unlimited."""
    with ExitStack() as stack:
        server, client = (stack.enter_context(_host(number)) for number in (1, 2))
        server.run("ip", "link", "add", _DEVICE, "mtu", str(mtu), "type", "veth",
                   "peer", "name", _DEVICE, "mtu", str(mtu), "netns", str(client.pid))  # fmt: skip
        for host in (server, client):
            _bring_up(host)
            _limit(host, _DEVICE, rate_mbit)
        yield Link(server=server.prefix, client=client.prefix, server_address=server.address)


class Network:
    """Hosts joined by a bridge, each by a link of its own. Hosts are there until its block ends."""

    def __init__(self, bridge: Host, stack: ExitStack, *, mtu: int) -> None:
        """Use :meth:`made`."""
        self._bridge, self._stack, self._mtu = bridge, stack, mtu
        self._numbers = itertools.count(1)

    @classmethod
    @contextmanager
    def made(cls, *, mtu: int = 9000) -> Iterator[Network]:
        """With jumbo frames by default, as storage networks have them: headers then take under 1 % of a link."""
        with ExitStack() as stack:
            bridge = stack.enter_context(_host(254))
            bridge.run("ip", "link", "add", _BRIDGE, "mtu", str(mtu), "type", "bridge")
            bridge.run("ip", "link", "set", _BRIDGE, "up")
            yield cls(bridge, stack, mtu=mtu)

    def host(self, rate_mbit: int = 0) -> Host:
        """One more; its link carries `rate_mbit` (10**6 bit per second) each way, 0 leaves it unlimited."""
        host = self._stack.enter_context(_host(next(self._numbers)))
        mtu = str(self._mtu)
        self._bridge.run("ip", "link", "add", _port(host), "mtu", mtu, "type", "veth",
                         "peer", "name", _DEVICE, "mtu", mtu, "netns", str(host.pid))  # fmt: skip
        self._bridge.run("ip", "link", "set", _port(host), "master", _BRIDGE, "up")
        _bring_up(host)
        self.limit(host, rate_mbit)
        return host

    def limit(self, host: Host, rate_mbit: int, *, queue_ms: int = _QUEUE_MS) -> None:
        """Another rate for a host's link; `queue_ms`: for how long a packet may wait at it before it is dropped."""
        for where, device in ((host, _DEVICE), (self._bridge, _port(host))):
            _limit(where, device, rate_mbit, queue_ms=queue_ms)

    def cut(self, host: Host) -> None:
        """Nothing comes to a host or from it any more, and nobody is told."""
        self._bridge.run("ip", "link", "set", _port(host), "nomaster")

    def mend(self, host: Host) -> None:
        """After :meth:`cut`."""
        self._bridge.run("ip", "link", "set", _port(host), "master", _BRIDGE)


def _port(host: Host) -> str:
    """The bridge's end of a host's link."""
    return f"efc{host.pid}"


def _bring_up(host: Host) -> None:
    host.run("ip", "address", "add", f"{host.address}/24", "dev", _DEVICE)
    for device in ("lo", _DEVICE):
        host.run("ip", "link", "set", device, "up")


def _limit(host: Host, device: str, rate_mbit: int, *, queue_ms: int = _QUEUE_MS) -> None:
    if not rate_mbit:
        if "tbf" in host.run("tc", "qdisc", "show", "dev", device):
            host.run("tc", "qdisc", "delete", "dev", device, "root")
        return
    # Room for what comes within 4 ms beyond the rate; more than one segment of offloaded TCP in any case.
    burst_bytes = max(rate_mbit * 1_000_000 // 8 // 250, 256 << 10)
    limit = ("rate", f"{rate_mbit}mbit", "burst", str(burst_bytes), "latency", f"{queue_ms}ms")
    host.run("tc", "qdisc", "replace", "dev", device, "root", "tbf", *limit)


@contextmanager
def _host(number: int) -> Iterator[Host]:
    """A namespace that lives as long as a sleeping process."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    try:
        if holder.stdout is None or not holder.stdout.readline():
            raise RuntimeError("no network namespace can be made: are you root?")
        yield Host(pid=holder.pid, address=f"{_NETWORK}.{number}")
    finally:
        end_process(holder)
        if holder.stdout is not None:
            holder.stdout.close()


def _set_namespace(descriptor: int) -> None:
    """setns(2): concerns this thread alone."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
