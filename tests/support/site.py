"""A site: a NAS, workers and nodes, each in a network namespace of its own, with links of limited bandwidth.

    with Site.made(nas_rate_mbit=1600) as site:
        shelf, desk = site.network.host(), site.network.host(rate_mbit=5200)
        with site.worker(host=shelf) as worker, site.node(desk, workers=[worker]) as node: ...

Whatever is started in a block ends with it, also after a failure; the namespaces go with the site.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tests.support.delay import delayed
from tests.support.nas import Export, Nas
from tests.support.netns import Host, Network
from tests.support.nodes import Node
from tests.support.workers import Worker, certificates, new_key

T = TypeVar("T")
#: Blocks of files that have changed within ten seconds, by what is known of the NAS's clock, are put nowhere.
REST_S = 12.0
#: A file of the first export that is touched when the others have rested: whoever asks for it knows the NAS's clock.
CLOCK = "clock"


class Turns(Generic[T]):
    """Files of a server, which have their turns one after the other, each when it has rested since its last."""

    def __init__(self, files: Iterable[T]) -> None:
        """They are named now for the first time."""
        self._named = [(time.monotonic(), file) for file in files]

    def next(self) -> T:
        """The one that has rested for longest."""
        named, file = self._named.pop(0)
        time.sleep(max(named + REST_S - time.monotonic(), 0))
        self._named.append((time.monotonic(), file))
        return file


@dataclass(frozen=True, kw_only=True)
class Site:
    """The NAS runs; workers and nodes come as they are asked for."""

    network: Network
    nas: Nas
    nas_host: Host
    key: Path
    folder: Path  # its own

    @classmethod
    @contextmanager
    def made(cls, *, nas_rate_mbit: int = 0, exports: Sequence[Export] = (Export(),)) -> Iterator[Site]:
        """For the time of the block. The NAS's link carries `nas_rate_mbit` (10**6 bit per second); 0: no limit."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="efc-site-")))
            network = stack.enter_context(Network.made())
            host = network.host(nas_rate_mbit)
            nas = stack.enter_context(Nas(exports=exports, address=host.address, command_prefix=host.prefix))
            yield cls(network=network, nas=nas, nas_host=host, key=new_key(folder), folder=folder)

    def worker(self, host: Host, *, memory_mib: int = 256, is_ours: bool = False, tls: Path | None = None) -> Worker:
        """One more worker, to be started by a `with` block."""
        return Worker(host=host, memory_mib=memory_mib, is_ours=is_ours, tls=tls)

    def certificates(self, *hosts: Host) -> Path:
        """A folder for workers and nodes: all show the same certificate, which is good for each of these hosts."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return certificates(folder, *(host.address for host in hosts))

    @contextmanager
    def node(
        self, host: Host, *, workers: Sequence[Worker] = (), options: Sequence[str] = (), tls: Path | None = None,
        url: str = "",
    ) -> Iterator[Node]:  # fmt: skip
        """One more node, with a fresh mount: of the first export unless `url` says more. All `workers` answer it."""
        if workers:
            endpoints = "+".join(worker.endpoint for worker in workers)
            options = [*options, f"workers={endpoints}", f"workers-key={self.key}"]
            options += [f"workers-tls={tls}"] if tls else []
        with Node.mounted(url or self.nas.url, options=options, host=host) as node:
            if workers:
                node.await_workers(len(workers))
            yield node

    @contextmanager
    def far_nas(self, *, round_trip_us: int) -> Iterator[str]:
        """A URL of the first export with a round trip more."""
        with delayed(self.nas.port, round_trip_us=round_trip_us, host=self.nas_host) as port:
            yield self.nas.url_of(self.nas.exports[0].name, port=port)
