"""One of a daemon's connections is lost, and new ones from its port are too.

A dead member of a bundle of links, which is chosen by the ports, loses all their packets, and nobody is told. A
firewall may answer with resets.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.netns import Link, netns_pair
from tests.support.processes import wait_until

CONNECTIONS = 4
FOLDERS = 16  # each belongs to one of the connections
#: Ends hangs. 60 s until a connection counts as silent, two attempts of 10 s from its port; with room.
LIMIT_S = 240


class Firewall:
    """Takes packets of one port of the client's away, both ways, where the server is."""

    def __init__(self, link: Link, *, verdict: str) -> None:
        self._iptables = [*link.server, "iptables", "-w"]
        self._verdict = verdict.split()

    def _run(self, *arguments: str) -> str:
        command = [*self._iptables, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def take(self, port: int) -> None:
        """From now on; attempts to connect have a rule of their own, so that they are counted."""
        from_client = ("-A", "INPUT", "-p", "tcp", "--sport", str(port))
        self._run(*from_client, "--syn", "-j", *self._verdict)
        self._run(*from_client, "-j", *self._verdict)
        self._run("-A", "OUTPUT", "-p", "tcp", "--dport", str(port), "!", "--tcp-flags", "RST", "RST", "-j", "DROP")

    def taken(self) -> tuple[int, int]:
        """Attempts to connect, and other packets of the client's."""
        attempts, others = (int(line.split()[0]) for line in self._run("-vnxL", "INPUT").splitlines()[2:])
        return attempts, others


def client_ports(link: Link, nas: Nas) -> set[int]:
    """Of the connections that stand, as the client's kernel believes."""
    command = [*link.client, "cat", "/proc/net/tcp"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()[1:]
    fields = [line.split() for line in lines]
    return {
        int(line[1].split(":")[1], 16) for line in fields if line[2].endswith(f":{nas.port:04X}") and line[3] == "01"
    }


class Worker(threading.Thread):
    """Makes, writes, reads, renames and removes files in one folder, round after round, until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.rounds = folder, 0
        self.error: Exception | None = None
        self.stopping = threading.Event()

    def run(self) -> None:
        """Ends with the first error."""
        try:
            while not self.stopping.wait(0.05):
                self._round(os.urandom(200_000))
                self.rounds += 1
        except Exception as error:
            self.error = error

    def _round(self, data: bytes) -> None:
        draft, file = self.folder / "draft", self.folder / "file"
        with draft.open("wb") as new:
            new.write(data)
            os.fsync(new.fileno())
        draft.rename(file)
        assert file.read_bytes() == data
        assert [entry.name for entry in self.folder.iterdir()] == ["file"]
        file.unlink()


@contextmanager
def working(mount: Path) -> Iterator[list[Worker]]:
    """FOLDERS workers on the mount; when the block ends, each must have ended without an error."""
    workers = [Worker(mount / str(number)) for number in range(FOLDERS)]
    try:
        for worker in workers:
            worker.folder.mkdir()
            worker.start()
        yield workers
    finally:
        for worker in workers:
            worker.stopping.set()
    for worker in workers:
        worker.join(60)
    assert [worker.error for worker in workers] == [None] * FOLDERS
    assert not any(worker.is_alive() for worker in workers)


def await_rounds(workers: list[Worker]) -> None:
    """Each worker has made three rounds more, or failed. Their data goes over all connections."""
    wanted = [worker.rounds + 3 for worker in workers]

    def are_done() -> bool:
        pairs = zip(workers, wanted, strict=True)
        return all(worker.rounds >= rounds or worker.error for worker, rounds in pairs)

    wait_until(are_done, what="each worker to go on", limit_s=LIMIT_S)


@pytest.mark.timeout(3 * LIMIT_S)
@pytest.mark.parametrize("verdict", ["DROP", "REJECT --reject-with tcp-reset"])
def test_calls_go_on_and_the_connection_gets_another_port(verdict: str) -> None:
    with (
        netns_pair() as link,
        Nas(address=link.server_address, command_prefix=link.server) as nas,
        Keeper(command_prefix=link.client) as keeper,
        keeper.mounted(nas.url, options=[f"connections={CONNECTIONS}"]) as mount,
        working(mount) as workers,
    ):
        await_rounds(workers)
        before = client_ports(link, nas)
        assert len(before) == CONNECTIONS
        firewall, lost = Firewall(link, verdict=verdict), min(before)
        firewall.take(lost)
        wait_until(lambda: firewall.taken()[1], what="a packet to be lost", limit_s=LIMIT_S)
        await_rounds(workers)
        wait_until(
            lambda: len(client_ports(link, nas) - {lost}) == CONNECTIONS,
            what="a connection from another port", limit_s=LIMIT_S,
        )  # fmt: skip
        assert before - client_ports(link, nas) == {lost}, "the others stand as they stood"
        assert firewall.taken()[0], "the server knows the client by its port, so that is tried first"
