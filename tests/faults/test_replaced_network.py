"""The network of daemons is replaced under their applications, and the keeper moves them to the next one.

A pod `efc-network` is played by its one process in a network namespace of its own; what becomes of that network when
the pod is deleted, by cutting its link.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from tests.faults.writer import Writer, content
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.netns import Host, Network
from tests.support.paths import program
from tests.support.processes import end_process, wait_until

#: Ends hangs.
LIMIT_S = 60
LENGTH = 4096
WRITES = 300
IDLE_MOUNTS = 2
CHANGES = 30


@contextmanager
def holder(keeper: Keeper, host: Host, how: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """`efc-network` of a host for the time of the block; `how` it ends."""
    socket = keeper.run_dir / "network" / "pod.sock"
    socket.parent.mkdir(exist_ok=True)
    socket.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*host.prefix, program("efc-network"), "--socket", socket], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(socket.exists, what="the holder of a network")
        yield
    finally:
        process.send_signal(how)
        end_process(process)


@contextmanager
def site() -> Iterator[tuple[Network, Nas, Keeper]]:
    """Hosts, one of them with a NAS, and a keeper that cannot reach it from its own network."""
    with Network.made() as network:
        host = network.host()
        with Nas(address=host.address, command_prefix=host.prefix) as nas, Keeper() as keeper:
            yield network, nas, keeper


def network_of(pid: int) -> str:
    """Nothing of a process that has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def await_moved(keeper: Keeper, target: Path, host: Host) -> None:
    """Returns when the mount's daemon is in the host's network."""
    wait_until(
        lambda: network_of(keeper.daemon_pid(target)) == network_of(host.pid),
        what="a daemon in the other network", limit_s=LIMIT_S, interval_s=0.2,
    )  # fmt: skip


def all_is_well(keeper: Keeper, targets: Sequence[Path]) -> bool:
    """Whether the mounts serve, and nothing is the matter with their networks."""
    statuses = [keeper.mount_status(target) for target in targets]
    return all(status.state == efc_pb2.MountStatus.SERVING and not status.network_trouble for status in statuses)


def begin_writing(writer: Writer) -> list[tuple[str, int, int, int]]:
    """Writes for seconds, in turns with what the caller does."""
    writer.open("file", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
    writes = [("file", number * LENGTH, number, LENGTH) for number in range(WRITES)]
    writer.begin_burst(writes, pause_s=0.01)
    return writes


@pytest.mark.timeout(3 * LIMIT_S)
@pytest.mark.parametrize("keepers", [1, 2])
def test_daemons_go_on_in_the_network_that_comes_after_theirs(keepers: int) -> None:
    with site() as (network, nas, keeper):
        first, second = network.host(), network.host()
        with holder(keeper, first, signal.SIGKILL):
            targets = [keeper.mount(nas.url, options=["network=pod"]) for _ in range(1 + IDLE_MOUNTS)]
        busy = targets[0]
        before = {target: keeper.daemon_pid(target) for target in targets}
        assert {network_of(pid) for pid in before.values()} == {network_of(first.pid)}
        with Writer(busy) as writer:
            writes = begin_writing(writer)
            on_nas = nas.export_folder() / "file"
            wait_until(lambda: on_nas.exists() and on_nas.stat().st_size > LENGTH, what="some writes")
            network.cut(first)
            if keepers == 2:
                keeper.kill()
                keeper.start()

            def says_both() -> bool:
                status = keeper.mount_status(busy)
                return "nobody hands out" in status.network_trouble and "has not answered" in status.reason

            wait_until(says_both, what="the status to say what is the matter", limit_s=LIMIT_S, interval_s=0.2)
            assert "nobody hands out" in keeper.efc("status")
            assert {target: keeper.daemon_pid(target) for target in targets} == before, "there is no other network"
            assert not writer.is_done()
            with holder(keeper, second):
                writer.end(LIMIT_S)
                for target in targets:
                    await_moved(keeper, target, second)
                # The last daemon may be starting there still.
                wait_until(lambda: all_is_well(keeper, targets), what="the end of the moves", interval_s=0.2)
                statuses = [keeper.mount_status(target) for target in targets]
                assert {(status.restarts, status.upgrades) for status in statuses} == {(1, 1)}
                assert on_nas.read_bytes() == b"".join(content(seed, length) for _, _, seed, length in writes)
                writer.close("file")
                for target in targets:
                    keeper.unmount(target)


@pytest.mark.timeout(3 * LIMIT_S)
def test_a_network_that_is_replaced_again_and_again_costs_few_pauses() -> None:
    with site() as (network, nas, keeper):
        hosts = [network.host(), network.host()]
        with holder(keeper, hosts[0]):
            target = keeper.mount(nas.url, options=["network=pod"])
        with Writer(target) as writer:
            writes = begin_writing(writer)
            for change in range(CHANGES):
                with holder(keeper, hosts[(change + 1) % 2], signal.SIGKILL):
                    time.sleep(0.1)
            with holder(keeper, hosts[1]):
                network.cut(hosts[0])
                writer.end(LIMIT_S)
                await_moved(keeper, target, hosts[1])
                moves = keeper.mount_status(target).restarts
                assert moves <= CHANGES // 5, f"{moves} moves"
                expected = b"".join(content(seed, length) for _, _, seed, length in writes)
                assert (target / "file").read_bytes() == expected
                writer.close("file")
                keeper.unmount(target)
