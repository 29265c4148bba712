"""Two network namespaces joined by a link of limited bandwidth (tc tbf on both ends of a veth pair).

The kernel of many machines has no netem, so a link has no delay of its own: put bench/delay_proxy.c in front for that.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.processes import end_process

_SERVER_ADDRESS, _CLIENT_ADDRESS = "192.0.2.1", "192.0.2.2"  # TEST-NET-1 (RFC 5737): of these namespaces alone


@dataclass(frozen=True, kw_only=True)
class Link:
    """Prefixes of command lines that run in either namespace, and the server's address in both."""

    server: Sequence[str]
    client: Sequence[str]
    server_address: str = _SERVER_ADDRESS


@contextmanager
def netns_pair(rate_mbit: int = 0, *, mtu: int = 1500) -> Iterator[Link]:
    """The link carries `rate_mbit` (10**6 bit per second) each way; 0 leaves it unlimited.

    Only the network is separate: mounts, processes and /proc are the caller's. Everything goes with the block.
    """
    with ExitStack() as stack:
        server, client = (stack.enter_context(_namespace()) for _ in range(2))
        enter = {pid: ("nsenter", f"--net=/proc/{pid}/ns/net", "--") for pid in (server, client)}
        _run(*enter[server], "ip", "link", "add", "efc0", "mtu", str(mtu), "type", "veth",
             "peer", "name", "efc0", "mtu", str(mtu), "netns", str(client))  # fmt: skip
        for pid, address in ((server, _SERVER_ADDRESS), (client, _CLIENT_ADDRESS)):
            _run(*enter[pid], "ip", "address", "add", f"{address}/24", "dev", "efc0")
            for device in ("lo", "efc0"):
                _run(*enter[pid], "ip", "link", "set", device, "up")
            if rate_mbit:
                # Room for what comes within 4 ms beyond the rate; more than one segment of offloaded TCP in any case.
                burst_bytes = max(rate_mbit * 1_000_000 // 8 // 250, 256 << 10)
                limit = ("rate", f"{rate_mbit}mbit", "burst", str(burst_bytes), "latency", "20ms")
                _run(*enter[pid], "tc", "qdisc", "add", "dev", "efc0", "root", "tbf", *limit)
        yield Link(server=enter[server], client=enter[client])


@contextmanager
def _namespace() -> Iterator[int]:
    """A namespace that lives as long as a sleeping process; yields its pid."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    try:
        if holder.stdout is None or not holder.stdout.readline():
            raise RuntimeError("no network namespace can be made: are you root?")
        yield holder.pid
    finally:
        end_process(holder)
        if holder.stdout is not None:
            holder.stdout.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=10)
