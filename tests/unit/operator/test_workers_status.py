"""What each worker holds, in an EFCRuntime's status: as the master told it, or as it was; not under Fluid's CRDs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pytest

from csi._proto import dataset_pb2
from csi.api.efcruntime import EFCRuntime
from csi.api.status import CacheStates
from csi.operator.datasets import statuses
from csi.operator.datasets.seen import Figures, Seen

RUNTIME = {
    "metadata": {"namespace": "shop", "name": "data"},
    "status": {"workers": [{"name": "w-0", "cached": "1.00B"}]},
}
TOLD = dataset_pb2.Figures(
    workers=[
        dataset_pb2.WorkerFigures(name="w-1", cached_bytes=0),
        dataset_pb2.WorkerFigures(name="w-0", cached_bytes=5 << 29),
    ]
)


def written(latest: dataset_pb2.Figures | None, *, cache: CacheStates | None, **more: Any) -> dict[str, Any]:
    figures = Figures(latest=latest)
    seen = Seen(
        name=("shop", "data"), now=datetime.now(UTC), random=os.urandom, runtime=RUNTIME, figures=figures, **more
    )
    runtime = EFCRuntime.model_validate(RUNTIME)
    return statuses.runtime_status(runtime, seen, parts=statuses.Parts(), said=[], cache=cache)


KNOWN = CacheStates(cached="2.50GiB")


@pytest.mark.parametrize(
    ("latest", "cache", "workers"),
    [
        (TOLD, KNOWN, [{"name": "w-0", "cached": "2.50GiB"}, {"name": "w-1", "cached": "0.00B"}]),
        (None, KNOWN, [{"name": "w-0", "cached": "1.00B"}]),
        (TOLD, None, None),
    ],
    ids=["told", "not told since", "not bound"],
)
def test_workers(
    latest: dataset_pb2.Figures | None, cache: CacheStates | None, workers: list[dict[str, str]] | None
) -> None:
    assert written(latest, cache=cache).get("workers") == workers


def test_crds_of_fluid_do_not_know_them() -> None:
    assert "workers" not in written(TOLD, cache=KNOWN, crds_are_ours=False)


def test_another_amount_is_a_figure_that_can_wait() -> None:
    before = written(None, cache=KNOWN)
    after = {**before, "workers": [{"name": "w-0", "cached": "2.00B"}]}
    assert statuses.differs_in_figures_only(before, after)
