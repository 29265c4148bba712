"""File formats of data and models: each is written, read back and changed by its own library."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.places import Place, run_python


@pytest.mark.parametrize("library", ["h5py", "zarr", "parquet", "duckdb", "safetensors"])
def test_format(place: Place, library: str) -> None:
    def work(folder: Path) -> None:
        assert "all as written" in run_python(f"with_{library}", folder)

    place.work(work)


@pytest.mark.parametrize("workers", ["grain", "processes"])
def test_loader(place: Place, workers: str) -> None:
    """Samples by worker processes, as a training job takes them: all of them, each once an epoch, each right."""

    def work(folder: Path) -> None:
        assert "all as written" in run_python(f"load_by_{workers}", folder)

    place.work(work)
