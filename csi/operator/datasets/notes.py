"""The operator's memory of one Dataset beside the watched objects. It is lost with the process, and rebuilt."""

import asyncio
from dataclasses import dataclass, field

from csi._proto import dataset_pb2
from csi.operator.datasets.seen import Origin, Probe, Secrets


@dataclass(kw_only=True, slots=True)
class Notes:
    """Of one Dataset with one runtime; times are those of :func:`clock`, in seconds."""

    uid: str = ""
    runtime_uid: str = ""
    #: Ours, as last read or written; None before the first time.
    secrets: Secrets | None = None
    secrets_at: float = 0.0
    #: Users' Secrets, decoded, by name and key.
    options: dict[str, dict[str, str]] = field(default_factory=dict)
    options_at: float = float("-inf")
    options_versions: dict[str, str] = field(default_factory=dict)
    mount_point: str | None = None
    #: The source in force, as last decided.
    source: str = ""
    origin: Origin | None = None
    origin_at: float = float("-inf")
    probe: Probe | None = None
    probe_at: float = float("-inf")
    #: The probe is the word of a master.
    is_masters: bool = False
    probing: asyncio.Task[None] | None = None
    #: What follows is by KIND/NAME of an object: why it was refused, whose name is taken, when it was tried last.
    refused: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    tried_at: dict[str, float] = field(default_factory=dict)
    #: The version of an object, and the hash of what was wanted, when it was as wanted.
    settled: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: The hash of what was applied, and the version that came of it.
    tried: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: By a StatefulSet's name: the words of Kubernetes about pods that it does not make, and when they were read.
    words: dict[str, tuple[float, str]] = field(default_factory=dict)
    #: When figures were last written, by the plural of the kind.
    figures_at: dict[str, float] = field(default_factory=dict)

    def note_source(self, figures: dataset_pb2.Figures | None) -> None:
        """What the master says of the source holds, once it has gone, until somebody has looked again."""
        source = figures.source if figures is not None else dataset_pb2.Reachability()
        if not source.known or not self.source:
            return
        if not source.reachable:
            self.probe, self.is_masters = Probe(source=self.source, reason=source.reason), True
        elif self.is_masters:
            self.probe, self.is_masters = None, False


def clock() -> float:
    """Seconds of the running event loop."""
    return asyncio.get_running_loop().time()
