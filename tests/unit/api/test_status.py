"""A status has what Fluid's CRDs require, whatever there is to say."""

from __future__ import annotations

import pytest

from csi.api.dataset import Mount
from csi.api.status import (
    CacheStates,
    Condition,
    DatasetCondition,
    DatasetStatus,
    PartPhase,
    RuntimeCondition,
    RuntimeStatus,
)
from tests.unit.api.test_crds import FLUIDS


def _required(plural: str) -> set[str]:
    """What Fluid's CRD requires of a status."""
    (line,) = (line for line in FLUIDS if line.startswith(f"{plural} .status object"))
    return set(line.rpartition("required=")[2].split("|"))


def test_an_empty_status_has_all_that_is_required_and_nothing_else() -> None:
    assert set(DatasetStatus().written()) == _required("datasets")
    assert set(RuntimeStatus().written()) == _required("efcruntimes")
    assert DatasetStatus().written() == {"conditions": []}


def test_a_status_under_fluids_crds_has_nothing_that_they_do_not_know() -> None:
    known = {line.split(" ")[1] for line in FLUIDS if line.startswith("datasets")}
    data = DatasetStatus(
        observed_generation=3,
        phase="Bound",
        conditions=(DatasetCondition(type="Ready", status="True", last_update_time="2026-11-29T18:00:00Z"),),
        cache_states=CacheStates(cached="0.00B"),
        mounts=(Mount(mount_point="nfs://nas/a"),),
    )
    assert data.written()["observedGeneration"] == 3
    assert {f".status.{name}" for name in data.written(is_ours=False)} <= known
    assert data.written(is_ours=False) == {
        "phase": "Bound",
        "conditions": [{"type": "Ready", "status": "True", "lastUpdateTime": "2026-11-29T18:00:00Z"}],
        "cacheStates": {"cached": "0.00B"},
        "mounts": [{"mountPoint": "nfs://nas/a"}],
    }
    runtime = RuntimeStatus(observed_generation=3, conditions=(RuntimeCondition(type="MasterReady", status="False"),))
    assert set(runtime.written(is_ours=False)) == _required("efcruntimes") | {"conditions"}


@pytest.mark.parametrize("condition", [Condition, DatasetCondition, RuntimeCondition])
def test_a_time_that_is_not_known_is_left_out(condition: type[Condition]) -> None:
    written = condition(type="Ready", status="Unknown").model_dump(by_alias=True)
    assert written["lastTransitionTime"] == ""
    kind = DatasetStatus if condition is DatasetCondition else RuntimeStatus
    if condition is not Condition:
        whole = kind.model_validate({"conditions": [written]})
        assert whole.written()["conditions"] == [{"type": "Ready", "status": "Unknown"}]


@pytest.mark.parametrize(
    ("ready", "desired", "phase"),
    [(0, 0, "Ready"), (0, 1, "NotReady"), (1, 3, "PartialReady"), (3, 3, "Ready"), (3, 1, "Ready")],
)
def test_phases_of_parts(ready: int, desired: int, phase: str) -> None:
    assert PartPhase.of(ready=ready, desired=desired) == phase
