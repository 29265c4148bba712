"""A Dataset's columns as metrics: exact where the master has told, as printed where it has not, nothing where blank."""

from __future__ import annotations

from typing import Any

import pytest

from csi._proto import dataset_pb2
from csi.api import quantities
from csi.observe.exposition import Page
from csi.operator.datasets.measures import Measured, put
from tests.support.metrics import parsed

GIB = 1 << 30
PLACE = {"dataset_namespace": "shop", "dataset_name": "data"}


def dataset(**status: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "data", "uid": "u"}, "status": status}


def condition(kind: str, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status}


def runtime(**status: int) -> dict[str, Any]:
    levels = [{"mediumtype": "MEM", "path": "/dev/shm", "quota": "1500Mi"}]
    return {
        "metadata": {"namespace": "shop", "name": "data"},
        "spec": {"replicas": 3, "tieredstore": {"levels": levels}},
        "status": status,
    }


BOUND = {
    "phase": "Bound",
    "conditions": [condition("Ready"), condition("SourceReachable"), condition("TotalsKnown")],
    "ufsTotal": "10.00GiB",
    "fileNum": "7",
    "cacheStates": {
        "cached": "2.50GiB", "cacheCapacity": "2.93GiB", "cachedPercentage": "25.0%",
        "cacheHitRatio": "75.0%", "localHitRatio": "25.0%", "remoteHitRatio": "50.0%",
    },
}  # fmt: skip
COUNTS = {
    "desiredMasterNumberScheduled": 1, "masterNumberReady": 1, "desiredWorkerNumberScheduled": 3,
    "workerNumberReady": 2, "desiredFuseNumberScheduled": 4, "fuseNumberReady": 3,
}  # fmt: skip


def samples(one: Measured) -> dict[str, float]:
    """By name without `efc_dataset_`, and what labels there are beside those of every sample."""
    page = Page()
    put(page, one)
    found = {}
    for (name, pairs), value in parsed(page.text()).items():
        labels = dict(pairs)
        assert PLACE.items() <= labels.items()
        rest = [text for label, text in labels.items() if label not in PLACE]
        found["/".join([name.removeprefix("efc_dataset_"), *rest])] = value
    return found


def figures(*, known: bool = True) -> dataset_pb2.Figures:
    return dataset_pb2.Figures(
        totals=dataset_pb2.Totals(bytes=8 * GIB + 1, files=9, known=known),
        workers=[
            dataset_pb2.WorkerFigures(name="data-worker-0", cached_bytes=GIB, reachable=True),
            dataset_pb2.WorkerFigures(name="data-worker-1", cached_bytes=3, reachable=True),
        ],
        read=dataset_pb2.ReadFigures(total=1000, from_node=100, from_workers=600),
    )


def test_what_the_master_told_is_exact() -> None:
    found = samples(Measured(dataset=dataset(**BOUND), runtime=runtime(**COUNTS), latest=figures()))
    assert found == {
        "phase/Bound": 1, "phase/NotBound": 0, "phase/Failed": 0, "phase/Updating": 0, "ready": 1,
        "source_reachable": 1, "size_bytes": 8 * GIB + 1, "size_known": 1, "files": 9, "cached_bytes": GIB + 3,
        "worker_cached_bytes/data-worker-0": GIB, "worker_cached_bytes/data-worker-1": 3,
        "cache_capacity_bytes": 2 * 1500 << 20, "cached_ratio": (GIB + 3) / (8 * GIB + 1),
        "cache_hit_ratio": 0.7, "cache_local_hit_ratio": 0.1, "cache_remote_hit_ratio": 0.6,
        "masters_desired": 1, "masters_ready": 1, "workers_desired": 3, "workers_ready": 2,
        "fuses_desired": 4, "fuses_ready": 3,
    }  # fmt: skip


def test_what_a_master_that_is_away_told_is_as_printed() -> None:
    found = samples(Measured(dataset=dataset(**BOUND), runtime=runtime(**COUNTS), latest=None))
    assert (found["size_bytes"], found["cached_bytes"], found["files"]) == (10 * GIB, 5 * GIB // 2, 7)
    assert (found["cached_ratio"], found["cache_hit_ratio"], found["cache_local_hit_ratio"]) == (0.25, 0.75, 0.25)
    assert not [name for name in found if name.startswith("worker_")]


def test_a_master_that_counts_anew_does_not_take_the_size_away() -> None:
    found = samples(Measured(dataset=dataset(**BOUND), runtime=runtime(**COUNTS), latest=figures(known=False)))
    assert (found["size_bytes"], found["files"], found["size_known"]) == (10 * GIB, 7, 1)


def test_before_all_is_counted_there_is_no_part_of_it() -> None:
    status = {**BOUND, "conditions": [condition("Ready"), condition("TotalsKnown", "False")]}
    found = samples(Measured(dataset=dataset(**status), runtime=runtime(**COUNTS), latest=figures(known=False)))
    assert (found["size_bytes"], found["size_known"]) == (8 * GIB + 1, 0)
    assert "cached_ratio" not in found
    assert "source_reachable" not in found


def test_an_empty_dataset_divides_by_nothing() -> None:
    nothing = dataset_pb2.Figures(totals=dataset_pb2.Totals(known=True))
    found = samples(Measured(dataset=dataset(**BOUND), runtime=runtime(), latest=nothing))
    assert (found["size_bytes"], found["cached_ratio"], found["cache_hit_ratio"]) == (0, 0, 0)


@pytest.mark.parametrize("status", [{}, {"phase": "NotBound", "conditions": [condition("Ready", "False")]}])
def test_without_a_runtime_only_the_phase_is_said(status: dict[str, Any]) -> None:
    found = samples(Measured(dataset=dataset(**status), runtime=None, latest=None))
    assert found == {"phase/NotBound": 1, "phase/Bound": 0, "phase/Failed": 0, "phase/Updating": 0, "ready": 0}


def test_figures_of_what_is_not_bound_are_blank() -> None:
    status = {**BOUND, "phase": "NotBound"}
    found = samples(Measured(dataset=dataset(**status), runtime=runtime(**COUNTS), latest=figures()))
    assert "size_bytes" not in found
    assert found["workers_desired"] == 3


def test_a_runtime_that_makes_no_sense_has_the_capacity_that_it_had() -> None:
    wrong = runtime(**COUNTS)
    wrong["spec"]["tieredstore"]["levels"][0]["quota"] = "much"
    found = samples(Measured(dataset=dataset(**BOUND), runtime=wrong, latest=None))
    assert found["cache_capacity_bytes"] == quantities.size_of("2.93GiB")


@pytest.mark.parametrize("number", [0, 1, 1023, 1024, 5 * GIB // 2, 15 * GIB, 1 << 50, 7 << 60])
def test_sizes_are_read_as_they_are_printed(number: int) -> None:
    read = quantities.size_of(quantities.size(number))
    assert read == pytest.approx(number, rel=0.005)


@pytest.mark.parametrize("text", ["", "10GiB", "1.00", "1.00XiB", "x", "1.00GiB ", "-1.00B"])
def test_what_is_no_printed_size_is_none(text: str) -> None:
    assert quantities.size_of(text) is None


def test_percentages_are_read_as_they_are_printed() -> None:
    assert quantities.ratio_of(quantities.percentage(1, 3)) == pytest.approx(0.333)
    assert quantities.ratio_of(quantities.percentage(5, 3)) == 1.0
    assert quantities.ratio_of("n/a") is None
