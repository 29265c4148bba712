"""Nodes that start at once on one data set of 100 GiB, simulated: `python -m bench scale`, as `make bench` does.

The simulation is `efc/workers/examples/scale`, which says what its model is. Of a data set that thousands of nodes read
each node reads a part here, of files that it draws: as many look-ups as a processor plays in minutes. The NAS is as
much faster then, so that the time in which it gives all of its data once is the same part of the run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.support.paths import ROOT

#: Files of 64 blocks of 1 MiB.
FILES = 1600
#: Gbit/s of the NAS that is simulated, if each node read all. It gives 100 GiB once in 2.1 s then; a node takes 8.6 s.
NAS_GBIT = 400
_BUILD = ("cargo", "build", "--quiet", "--release", "--locked", "--package=efc-workers", "--example=scale")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One play."""

    nodes: int
    workers: int
    #: Of :data:`FILES`, how many each node reads.
    files: int
    #: The NAS is not made faster: it has this much.
    nas_gbit: int | None = None
    in_order: bool = False
    #: The figures that must hold here.
    gated: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        order = ", all in one order" if self.in_order else ""
        nas = f", a NAS of {self.nas_gbit} Gbit/s" if self.nas_gbit else ""
        return f"{self.nodes} nodes, {self.workers} workers{order}{nas}"

    def settings(self) -> dict[str, float]:
        """As the simulation takes them."""
        nas = self.nas_gbit or NAS_GBIT * FILES / self.files
        return {
            "nodes": self.nodes,
            "workers": self.workers,
            "beside": int(self.workers == self.nodes),
            "files_per_node": self.files,
            "in_order": int(self.in_order),
            "nas": nas,
        }


#: Figure -> the least and the most that is aimed at; a case says which of them must hold.
GATES: Mapping[str, tuple[float, float]] = {
    "throughput": (0.9, float("inf")),
    "busiest": (0, 1.5),
    "busiest_in_window": (0, 2),
    "nas": (0, 1.2),
}
CASES = (
    Case(nodes=10, workers=10, files=1600),
    Case(nodes=100, workers=100, files=400),
    Case(nodes=1000, workers=1000, files=80),
    Case(nodes=4000, workers=4000, files=80, gated=("throughput", "nas")),  # the busiest is above its aims
    Case(nodes=100, workers=3, files=200, nas_gbit=20),
    Case(nodes=4000, workers=4000, files=3, nas_gbit=100, gated=("nas",)),
    Case(nodes=1000, workers=1000, files=40, in_order=True),
)


def build() -> None:
    """Builds the simulation."""
    subprocess.run(_BUILD, cwd=ROOT, check=True)


def play(settings: Mapping[str, float]) -> dict[str, float]:
    """What comes of these settings: always the same."""
    arguments = [f"{name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        [ROOT / "target/release/examples/scale", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout))


def failures(case: Case, figures: Mapping[str, float]) -> list[str]:
    """The gates of the case that do not hold."""
    bounds = {name: GATES[name] for name in case.gated}
    return [
        f"{case.name}: {name} is {figures[name]:.2f}, not {low} to {high}"
        for name, (low, high) in bounds.items()
        if not low <= figures[name] <= high
    ]


def measure_all() -> Iterator[tuple[str, dict[str, object]]]:
    """All cases, with what does not hold as `fails`."""
    build()
    for case in CASES:
        figures = play(case.settings())
        yield case.name, {**figures, "fails": failures(case, figures)}
