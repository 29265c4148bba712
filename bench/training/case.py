"""Contenders at one kind of network, what is asked of them, and what holds them back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.bare import Gate
from bench.clients import NATIVE
from bench.training.clients import BOUNDED, DEFAULT, FUSE_NFS, SEALED
from bench.training.run import Run

#: Of the total of a client without a cache: asked, and aimed at.
TO_UNCACHED_MAX, TO_UNCACHED_AIM = 0.13, 0.05
#: Of the total of our own mount without one.
TO_DEFAULT_MAX = 0.25


@dataclass(frozen=True, kw_only=True)
class Network:
    """Between node and NAS."""

    name: str
    round_trip_us: int = 0
    rate_mbit: int = 0  # 10**6 bit per second; 0: no limit
    is_gated: bool = False
    with_others: bool = False


#: 200 MB/s is what a NAS of the cloud gives a node.
NETWORKS = (
    Network(name="loopback"),
    Network(name="1 ms", round_trip_us=1000, is_gated=True, with_others=True),
    Network(name="link of 200 MB/s", rate_mbit=1600),
)


@dataclass(kw_only=True)
class Case:
    """Who read in what time."""

    name: str
    runs: dict[str, Run] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # contender -> why
    notes: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    def ratio(self, contender: str, other: str) -> float:
        """Of totals; 0 where one of them did not read."""
        if contender not in self.runs or other not in self.runs:
            return 0
        return self.runs[contender].total_s / self.runs[other].total_s

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "runs": {name: asdict(run) | {"total_s": run.total_s} for name, run in self.runs.items()},
            "skipped": self.skipped,
            "notes": self.notes,
            "gates": [vars(gate) | {"holds": gate.holds} for gate in self.gates],
        }


def judge(case: Case) -> None:
    """Adds its gates, of contenders that have run."""
    limits = (
        (FUSE_NFS, TO_UNCACHED_MAX, False), (DEFAULT, TO_DEFAULT_MAX, False), (FUSE_NFS, TO_UNCACHED_AIM, True),
    )  # fmt: skip
    for contender in (SEALED, BOUNDED):
        for other, limit, is_aim in limits:
            if ratio := case.ratio(contender, other):
                text = f"{contender}: total to that of {other}"
                case.gates.append(Gate(text=text, value=ratio, limit=limit, at_most=True, only_aimed_at=is_aim))


def profile(case: Case) -> None:
    """Adds what the time of our stores consists of."""
    native = case.runs.get(NATIVE)
    for contender in (SEALED, BOUNDED):
        if contender in case.runs:
            case.notes.append(f"{contender}: {profile_of(case.runs[contender], native)}")


def profile_of(run: Run, native: Run | None) -> str:
    """In words."""
    parts = [
        f"{run.first_share:.0%} of {run.total_s:.1f} s are the listing and the first epoch",
        f"CPU of the daemon {run.total('daemon_cpu_s'):.1f} s, of the loader {run.total('readers_cpu_s'):.1f} s",
    ]
    if native is not None:
        parts[1] += f" ({native.total('readers_cpu_s'):.1f} s on native ext4, {native.total_s:.1f} s of time)"
    parts += [f"of the NAS {run.total('server_cpu_s'):.1f} s", f"processors {busy(run):.0%} busy"]
    return ", ".join(parts)


def busy(run: Run) -> float:
    """The part of all processors' time that was used while it read, by others too."""
    seconds = run.listing.seconds + sum(epoch.seconds for epoch in run.epochs)
    spent = run.listing.machine_cpu_s + sum(epoch.machine_cpu_s for epoch in run.epochs)
    return spent / seconds / (os.cpu_count() or 1)


def totals(document: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """For the picture: seconds of each contender's training, of results/bench.json."""
    return {
        case: {contender: run["total_s"] for contender, run in found["runs"].items()}
        for case, found in document["training"].items()
        if found["runs"]
    }
