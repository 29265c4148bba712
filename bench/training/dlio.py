"""DLIO, the generator behind MLPerf Storage: two of its workloads, made small, on the NAS's folder and on our mounts.

`resnet50` is TensorFlow's reader of large TFRecord files, `unet3d` torch's DataLoader of large .npz files. Files are
fewer and smaller than there, and steps of computation as much shorter as a sample has become. Its own figures are
reported: the part of the time in which the accelerator that it plays has had work (AU), and samples per second. DLIO,
TensorFlow and torch are a venv of gigabytes, which `bench/training/setup dlio` makes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.bare import Gate
from bench.training.clients import TOOLS, Client, FuseNfs, Place
from tests.support.site import CLOCK, REST_S

NAME = "DLIO"
FOLDER = "dlio"
EPOCHS = 5
#: Ends hangs only.
_LIMIT_S = 900
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One of its workloads, made small; what is not here is as DLIO has it."""

    name: str
    workload: str
    settings: dict[str, object]


SHAPES = (
    Shape(
        name="unet3d",
        workload="unet3d_h100",
        settings={
            "dataset.num_files_train": 28, "dataset.record_length": 16 * _MIB, "dataset.record_length_stdev": 0,
            "train.computation_time": 0.037, "workflow.checkpoint": False,
        },
    ),
    Shape(
        name="resnet50",
        workload="resnet50_h100",
        settings={
            "dataset.num_files_train": 8, "dataset.num_samples_per_file": 250, "reader.batch_size": 100,
            "train.computation_time": 0.056,
        },
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What DLIO says of one training: one value an epoch."""

    seconds: float  # of the whole process
    au_percent: Sequence[float]
    samples_per_s: Sequence[float]

    @classmethod
    def read(cls, summary: dict[str, Any], *, seconds: float) -> Figures:
        """Of its summary.json."""
        metric = summary["metric"]
        return cls(
            seconds=seconds, au_percent=metric["train_au_percentage"],
            samples_per_s=metric["train_throughput_samples_per_second"],
        )  # fmt: skip


@dataclass(kw_only=True)
class Case:
    """Contenders by workload."""

    name: str = NAME
    figures: dict[str, dict[str, Figures]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        figures = {
            shape: {name: asdict(one) for name, one in contenders.items()} for shape, contenders in self.figures.items()
        }
        return {"runs": {}, "workloads": figures, "skipped": self.skipped, "gates": []}


def measure(place: Place, clients: Sequence[Client], *, console: Console) -> Case:
    """All workloads on all contenders but fuse-nfs, one after another."""
    case = Case()
    if not (TOOLS / "dlio_benchmark").exists():
        case.skipped[NAME] = "it is not installed: `bench/training/setup dlio` takes some 6 GB"
        console.print(f"  SKIPPED {NAME}: {case.skipped[NAME]}")
        return case
    export = place.site.nas.export_folder()
    for shape in SHAPES:
        try:
            _run(shape, export / FOLDER, place.disk, generates=True)
            time.sleep(REST_S)
            (export / CLOCK).touch()
            for client in clients:
                if not isinstance(client, FuseNfs):
                    case.figures.setdefault(shape.name, {})[client.name] = found = _train(shape, client, place)
                    console.print(f"  {NAME} {shape.name}, {client.name}: {said(found)}")
        except RuntimeError as error:  # DLIO's own: it loses this workload, and no training before it
            case.skipped[f"{NAME} {shape.name}"] = str(error)
            console.print(f"  SKIPPED {NAME} {shape.name}: {error}", soft_wrap=True)
    return case


def _train(shape: Shape, client: Client, place: Place) -> Figures:
    """On a fresh mount."""
    with client.mounted(place) as mounted:
        began = time.monotonic()
        summary = _run(shape, mounted.path.parent / FOLDER, place.disk, generates=False)
        return Figures.read(summary, seconds=time.monotonic() - began)


def said(figures: Figures) -> str:
    """In a line."""
    au, samples = (", ".join(f"{one:.0f}" for one in each) for each in (figures.au_percent, figures.samples_per_s))
    return f"AU {au} %; {samples} samples/s"


def arguments(shape: Shape, data: Path, out: Path, *, generates: bool) -> list[str]:
    """Of its command line."""
    settings = shape.settings | {
        "dataset.data_folder": data / shape.name, "output.folder": out, "train.epochs": EPOCHS,
        "workflow.generate_data": generates, "workflow.train": not generates,
    }  # fmt: skip
    return [f"workload={shape.workload}", *(f"++workload.{name}={value}" for name, value in settings.items())]


def _run(shape: Shape, data: Path, disk: Path, *, generates: bool) -> dict[str, Any]:
    """Its summary; empty if it only generates. Raises RuntimeError with the end of what it said."""
    out = disk / "dlio-out"
    out.mkdir()
    environment = {
        "PATH": f"{TOOLS}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(TOOLS.parent / "lib"),
        "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": str(out),
    }  # fmt: skip
    try:
        done = subprocess.run(
            [TOOLS / "dlio_benchmark", *arguments(shape, data, out, generates=generates), f"hydra.run.dir={out}"],
            cwd=out, env=dict(os.environ, **environment), capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        summary = out / "summary.json"
        if done.returncode != 0 or not (generates or summary.exists()):
            raise RuntimeError(f"DLIO failed: {done.stdout[-1500:]} {done.stderr[-1500:]}")
        return {} if generates else dict(json.loads(summary.read_text()))
    finally:
        shutil.rmtree(out)
