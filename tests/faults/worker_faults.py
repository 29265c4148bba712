"""What may happen to workers, and a storm of it under readers on two nodes that compare each byte.

The NAS, three workers and one in reserve, and both nodes are in network namespaces of their own. Only the first node's
daemon is killed; the counters of the other's are of the whole storm.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import block_reads, figures
from tests.faults.block_reads import BIN_S
from tests.support.netns import Host
from tests.support.nodes import Node
from tests.support.paths import ROOT
from tests.support.processes import SLOWNESS, wait_until
from tests.support.site import CLOCK, REST_S, Site
from tests.support.workers import Worker

FILES, BLOCKS = 6, 24
WORKERS = 3
#: All that is read fits into the workers twice.
_WORKER_MIB = 128
_READERS_PER_NODE = 2
_FINISH_LIMIT_S = 60 * SLOWNESS
#: Faults, until a daemon is killed within one.
_KILLS_EVERY = 5
#: A slow worker's link, in 10**6 bit per second, and for how long a packet may wait there.
_SLOW_MBIT, _SLOW_QUEUE_MS = 8, 400
#: Throughput is back when it is so much of what it was, by the median of calm times.
_BACK = 0.8
_HANDLE_BYTES_MAX, _AT_FDCWD = 128, -100


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a storm plays."""

    site: Site
    hosts: Sequence[Host]  # of the workers
    workers: Sequence[Worker]
    reserve: Worker
    nodes: Sequence[Node]

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Stage]:
        """The files have rested, and the nodes know it."""
        with ExitStack() as stack:
            site = stack.enter_context(Site.made())
            folder = site.nas.export_folder()
            block_reads.make(folder, files=FILES, blocks=BLOCKS)
            rested_at = time.monotonic() + REST_S
            hosts = [site.network.host() for _ in range(WORKERS + 1)]
            workers = [stack.enter_context(site.worker(host, memory_mib=_WORKER_MIB)) for host in hosts]
            nodes = [stack.enter_context(site.node(site.network.host(), workers=workers[:WORKERS])) for _ in range(2)]
            time.sleep(max(rested_at - time.monotonic(), 0))
            (folder / CLOCK).touch()
            for node in nodes:
                os.stat(node.mount / CLOCK)
            yield cls(site=site, hosts=hosts, workers=workers[:WORKERS], reserve=workers[WORKERS], nodes=nodes)

    def use(self, *workers: Worker) -> None:
        """All nodes have these from now on; their daemons stay."""
        option = "workers=" + "+".join(worker.endpoint for worker in workers)
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            done = [pool.submit(node.keeper.efc, "upgrade", str(node.mount), "-o", option) for node in self.nodes]
            [each.result() for each in done]


#: Begins, and returns what ends it again.
Fault = Callable[[Stage, int], Callable[[], object]]


def _nothing() -> None:
    """Ends what needs no end."""


def killed(stage: Stage, number: int) -> Callable[[], object]:
    """It is away for a while, and comes back empty."""
    stage.workers[number].kill()
    return stage.workers[number].start


def restarted(stage: Stage, number: int) -> Callable[[], object]:
    """It is there again at once, and empty."""
    stage.workers[number].kill()
    stage.workers[number].start()
    return _nothing


def stopped(stage: Stage, number: int) -> Callable[[], object]:
    """SIGSTOP, SIGCONT."""
    stage.workers[number].freeze()
    return stage.workers[number].thaw


def slowed(stage: Stage, number: int) -> Callable[[], object]:
    """Its link carries less than a block in a second."""
    stage.site.network.limit(stage.hosts[number], _SLOW_MBIT, queue_ms=_SLOW_QUEUE_MS)
    return lambda: stage.site.network.limit(stage.hosts[number], 0)


def partitioned(stage: Stage, number: int) -> Callable[[], object]:
    """All packets to it and from it are lost."""
    stage.site.network.cut(stage.hosts[number])
    return lambda: stage.site.network.mend(stage.hosts[number])


def replaced(stage: Stage, number: int) -> Callable[[], object]:
    """By the one in reserve, while it is read from."""
    stage.use(*(worker for worker in stage.workers if worker is not stage.workers[number]), stage.reserve)
    return lambda: stage.use(*stage.workers)


def none_left(stage: Stage, _number: int) -> Callable[[], object]:
    """The dataset has no worker for a while."""
    stage.use()
    return lambda: stage.use(*stage.workers)


def filled(stage: Stage, number: int) -> Callable[[], object]:
    """By a stranger: what the nodes had put there is gone."""
    stage.workers[number].fill(_WORKER_MIB, 1 << 20)
    return _nothing


def flipped(stage: Stage, _number: int) -> Callable[[], object]:
    """One bit of each value, on all workers."""
    for worker in stage.workers:
        worker.spoil()
    return _nothing


def exchanged(stage: Stage, number: int) -> Callable[[], object]:
    """Each value is another's: sealed by the right key, under the wrong name."""
    values = itertools.cycle([value for _, value in stage.workers[number].everything()])
    next(values, None)
    stage.workers[number].replace(lambda _value: next(values))
    return _nothing


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        killed, restarted, stopped, slowed, partitioned, replaced, none_left, filled, flipped, exchanged
    )
}  # fmt: skip


@dataclass(kw_only=True)
class Outcome:
    """What a storm came to."""

    struck: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    wrong_bytes: int = 0
    errors: list[str] = field(default_factory=list)
    waits_ms: dict[str, list[float]] = field(default_factory=dict)  # the longest at each fault; "calm": between them
    back_s: dict[str, list[float]] = field(default_factory=dict)  # until throughput was back, after the fault's end
    refused: int = 0  # of the node whose daemon was not killed
    workers_bytes: int = 0  # likewise

    def as_figures(self) -> dict[str, Any]:
        """For results/faults.json."""
        return {
            "struck": dict(self.struck), "reads": self.reads, "errors": len(self.errors),
            "wrong_bytes": self.wrong_bytes, "refused": self.refused, "workers_bytes": self.workers_bytes,
            "waits": {name: figures.spread(waits) for name, waits in self.waits_ms.items()},
            "back_s_max": {name: max(times) for name, times in self.back_s.items()},
        }  # fmt: skip

    @property
    def longest_wait_ms(self) -> float:
        """Of all reads."""
        return max((max(waits) for waits in self.waits_ms.values()), default=0.0)


@dataclass(frozen=True, kw_only=True)
class _Blow:
    name: str
    began: float
    ended: float  # the fault, not what comes of it


@contextmanager
def reading(stage: Stage) -> Iterator[list[dict[str, Any]]]:
    """Readers on all nodes; their reports are there after the block."""
    reports: list[dict[str, Any]] = []
    seeds = itertools.count(1)
    with ExitStack() as stack:
        readers = []
        for node in [node for node in stage.nodes for _ in range(_READERS_PER_NODE)]:
            command = [sys.executable, "-m", "tests.faults.block_reads", str(node.mount), str(next(seeds))]
            reader = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            stack.callback(reader.kill)
            readers.append(reader)
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        yield reports
        for reader in readers:
            reader.send_signal(signal.SIGTERM)
        reports += [json.loads(reader.communicate(timeout=_FINISH_LIMIT_S)[0]) for reader in readers]


def storm(
    stage: Stage,
    faults: Sequence[str],
    *,
    rounds: int,
    fault_s: tuple[float, float],
    calm_s: tuple[float, float],
    seed: int = 1,
) -> Outcome:
    """Each fault so many times, for so long; a daemon is killed in every fifth. Raises what a fault itself raises."""
    moments, outcome, blows = random.Random(seed), Outcome(), []
    strikes = [name for _ in range(rounds) for name in moments.sample(faults, len(faults))]
    with reading(stage) as reports:
        time.sleep(calm_s[1])
        for turn, name in enumerate(strikes):
            began = time.monotonic()
            end = FAULTS[name](stage, moments.randrange(WORKERS))
            try:
                time.sleep(moments.uniform(*fault_s))
                if turn % _KILLS_EVERY == _KILLS_EVERY - 1:
                    stage.nodes[0].keeper.replace_daemon(stage.nodes[0].mount)
            finally:
                end()
            blows.append(_Blow(name=name, began=began, ended=time.monotonic()))
            outcome.struck[name] += 1
            time.sleep(moments.uniform(*calm_s))
        wait_until(lambda: _refuses(stage), what="a damaged block to be refused", limit_s=60, interval_s=1)
        cache = stage.nodes[1].cache()
        outcome.refused, outcome.workers_bytes = cache["workers_refused"], cache["workers_bytes"]
    _judge(outcome, reports, blows)
    return outcome


def _refuses(stage: Stage) -> bool:
    """Whether a node has met a damaged block. If not, all are damaged once more: it may have read from elsewhere."""
    has_refused = stage.nodes[1].cache()["workers_refused"] > 0
    if not has_refused:
        flipped(stage, 0)
    return has_refused


def _judge(outcome: Outcome, reports: Sequence[dict[str, Any]], blows: Sequence[_Blow]) -> None:
    bins: Counter[int] = Counter()
    waits: list[tuple[float, float]] = []
    for report in reports:
        outcome.reads += report["reads"]
        outcome.wrong_bytes += report["wrong_bytes"]
        outcome.errors += report["errors"]
        waits += [(ended, ms) for ended, ms in report["waits"]]
        bins.update(dict(report["bins"]))
    first = min(bins, default=0)
    calm = sorted(bins[number] for number in range(first, int(blows[0].began / BIN_S)))
    usual = calm[len(calm) // 2] if calm else 0
    outcome.waits_ms["calm"] = [max((ms for ended, ms in waits if ended < blows[0].began), default=0.0)]
    for blow, following in itertools.zip_longest(blows, blows[1:]):
        until = following.began if following else blow.ended + 10.0
        during = [ms for ended, ms in waits if blow.began < ended <= until]
        outcome.waits_ms.setdefault(blow.name, []).append(max(during, default=0.0))
        after = range(int(blow.ended / BIN_S) + 1, int(until / BIN_S))
        back = next((number for number in after if bins[number] >= _BACK * usual), after.stop)
        outcome.back_s.setdefault(blow.name, []).append(round(max(back * BIN_S - blow.ended, 0.0), 2))


def handle_of(path: Path) -> bytes:
    """What the NAS's file system knows a file by (name_to_handle_at(2)): handles of NFS have it within."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", _HANDLE_BYTES_MAX, 0), 8 + _HANDLE_BYTES_MAX)
    mount_id = ctypes.c_int()
    library = ctypes.CDLL(None, use_errno=True)
    if library.name_to_handle_at(_AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount_id), 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    (length,) = struct.unpack_from("I", buffer)
    return buffer.raw[8 : 8 + length]
