"""The state of a master, and what it derives from it: orders for nodes, and figures for the operator.

Pure: all input comes through methods, and time, in seconds since the epoch, is an argument. :mod:`csi.master.serving`
connects it to clock, disk and network.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from csi._proto import dataset_pb2
from csi.config.several import short_form
from csi.master.counters import told
from csi.master.totals import WALK_EVERY_SECONDS, Totals
from csi.master.window import Counts, Window

#: How long a node that has lost its connection is remembered.
REMEMBERED_SECONDS = 300.0
#: A node that has said nothing for so long is taken to be gone: each reports every 10 s.
SILENT_SECONDS = 30.0
#: Most nodes that are known: Kubernetes has 5,000. What a node says beyond that is not taken, which costs no order.
NODES_MAX = 10_000
#: Longest figures that an operator takes (4 MiB), with room to spare. Words of nodes are left out in longer ones.
_FIGURES_BYTES_MAX = 3 << 20


@dataclass
class _Node:
    report: dataset_pb2.NodeReport
    connection: object | None
    heard: float


@dataclass(kw_only=True)
class _Worker:
    cached_bytes: int = 0
    is_reachable: bool = False


@dataclass
class Core:
    """The state of one Dataset's master."""

    configuration: dataset_pb2.Configuration | None = None
    totals: Totals = field(default_factory=Totals)
    source: dataset_pb2.Reachability = field(default_factory=dataset_pb2.Reachability)
    #: How many watch the figures. While nobody does, the NAS is not asked: another master may lead by now.
    watchers: int = 0
    _window: Window = field(default_factory=Window)
    _orders: dataset_pb2.Orders | None = None
    _nodes: dict[str, _Node] = field(default_factory=dict)
    _workers: dict[str, _Worker] = field(default_factory=dict)

    def configure(self, configuration: dataset_pb2.Configuration) -> bool:
        """Takes a configuration; False if it is not newer than the one in force."""
        if self.configuration is not None and configuration.revision <= self.configuration.revision:
            return False
        if self.configuration is not None and list(configuration.mounts) != list(self.configuration.mounts):
            self.source = dataset_pb2.Reachability()  # it is about others
        self.configuration = configuration
        orders = dataset_pb2.Orders()
        orders.CopyFrom(configuration.orders)
        del orders.workers[:]
        orders.workers.extend(configuration.workers)
        del orders.sources[:]
        orders.sources.extend(mount for mount in configuration.mounts if mount.path.strip("/"))
        orders.revision = self._orders.revision if self._orders is not None else configuration.revision
        if orders != self._orders:
            orders.revision = configuration.revision
            self._orders = orders
        self.totals.configure([mount.source for mount in configuration.mounts], configuration.checkpoint)
        known = {worker.name for worker in configuration.workers}
        self._workers = {name: worker for name, worker in self._workers.items() if name in known}
        return True

    def orders(self) -> dataset_pb2.Orders | None:
        """What nodes are told; None before the first configuration."""
        return self._orders

    def report(self, report: dataset_pb2.NodeReport, connection: object, *, now: float) -> None:
        """A node's report over a connection, which may be another than that of its last one."""
        if report.node not in self._nodes and len(self._nodes) >= NODES_MAX:
            return
        self._nodes[report.node] = _Node(report, connection, now)
        counts = Counts(report.bytes_read, report.bytes_from_node, report.bytes_from_workers)
        self._window.count(report.node, report.daemon_session, counts, now=now)
        self.totals.note_changes(report.node, report.daemon_session, report.changes)

    def lost(self, connection: object, *, now: float) -> None:
        """A connection has ended; that it was nobody's, or that its node has a later one, is no matter."""
        for node in self._nodes.values():
            if node.connection is connection:
                node.connection, node.heard = None, now

    def worker_answered(self, name: str, cached_bytes: int) -> None:
        """A worker has said how much it holds."""
        self._workers[name] = _Worker(cached_bytes=told(cached_bytes), is_reachable=True)

    def worker_silent(self, name: str) -> None:
        """A worker has not answered in time: what it held it may still hold, but nobody reads it there."""
        self._workers[name] = _Worker()

    def walk_due(self, now: float) -> float | None:
        """When the mounts are to be walked, which may be in the past; None if there are none, or nobody wants to know.

        Here, and in all of :attr:`totals`, time is that of a clock that only goes forward.
        """
        if self.configuration is None or not self.watchers:
            return None
        return self.totals.due(every_seconds=self.configuration.walk_every_ms / 1000 or WALK_EVERY_SECONDS, now=now)

    def figures(self, now: float) -> dataset_pb2.Figures:
        """All that the operator is told."""
        self._forget_gone(now)
        read = self._window.sum(now)
        configuration = self.configuration or dataset_pb2.Configuration()
        figures = dataset_pb2.Figures(
            revision=configuration.revision,
            totals=self.totals.figures(),
            workers=[self._worker_figures(worker) for worker in configuration.workers],
            read=dataset_pb2.ReadFigures(
                total=told(read.total), from_node=told(read.from_node), from_workers=told(read.from_workers)
            ),
            nodes=[self._node_figures(name, now) for name in sorted(self._nodes)],
            source=self.source,
        )
        if figures.ByteSize() > _FIGURES_BYTES_MAX:
            for node in figures.nodes:
                node.ClearField("conditions")
        return figures

    def next_change(self, now: float) -> float | None:
        """When figures change by time alone; None if they do not."""
        times = [
            node.heard + (SILENT_SECONDS if node.connection else REMEMBERED_SECONDS) for node in self._nodes.values()
        ]
        window = self._window.next_change(now)
        return min([*times, *([] if window is None else [window])], default=None)

    def saved(self) -> bytes:
        """What is lost with this process otherwise, for :meth:`restore`."""
        dataset = self.configuration.uid if self.configuration is not None else ""
        saved = {"dataset": dataset, "window": self._window.saved(), "totals": self.totals.saved().decode()}
        return json.dumps(saved).encode()

    def restore(self, saved: bytes) -> None:
        """Takes over from a process before this one; what makes no sense is nothing."""
        try:
            found = json.loads(saved)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, Mapping):
            return
        self._window = Window.restored(found.get("window"))
        try:
            totals = str(found.get("totals", ""))
            self.totals.sources = [str(source) for source in json.loads(totals)["sources"]]
        except (KeyError, TypeError, ValueError, RecursionError):
            return
        self.totals.restore(totals.encode())

    def _forget_gone(self, now: float) -> None:
        for name, node in list(self._nodes.items()):
            if node.connection is not None and now - node.heard > SILENT_SECONDS:
                node.connection = None
            if node.connection is None and now - node.heard > REMEMBERED_SECONDS:
                del self._nodes[name]
                self._window.forget(name)
                self.totals.forget_node(name)

    def _worker_figures(self, worker: dataset_pb2.Worker) -> dataset_pb2.WorkerFigures:
        seen = self._workers.get(worker.name, _Worker())
        return dataset_pb2.WorkerFigures(
            name=worker.name, cached_bytes=seen.cached_bytes, capacity_bytes=worker.capacity_bytes,
            reachable=seen.is_reachable,
        )  # fmt: skip

    def _node_figures(self, name: str, now: float) -> dataset_pb2.NodeFigures:
        node = self._nodes[name]
        return dataset_pb2.NodeFigures(
            node=name,
            volumes=node.report.volumes,
            serving=node.report.serving,
            connected=node.connection is not None and now - node.heard <= SILENT_SECONDS,
            conditions=node.report.conditions,
            sources=short_form(node.report.sources),
        )
