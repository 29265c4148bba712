"""The simulation of many nodes: the same numbers give the same result, and nodes share what the NAS gives."""

from __future__ import annotations

import pytest

from tests.scale import simulation

_FEW = {"nodes": 40, "workers": 40, "blocks": 1024, "files_per_node": 16, "nas": 400.0}


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    simulation.build()


def test_a_seed_is_one_story() -> None:
    """Twice the same, and another seed another one."""
    first, again, other = (simulation.play(_FEW | {"seed": seed}) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_nodes_that_start_at_once_share_one_read_of_the_nas() -> None:
    """Also when the NAS takes much longer than any worker."""
    for nas in (400.0, 10.0):
        assert 1 <= simulation.play(_FEW | {"nas": nas})["nas"] <= 1.2


def test_hot_blocks_get_copies_and_nothing_else_does() -> None:
    """Where all read the same at once one worker has too much to do; a single reader meets no crowd."""
    crowd = simulation.play(_FEW | {"in_order": 1})
    alone = simulation.play(_FEW | {"nodes": 1, "workers": 1})
    assert crowd["copies"] > 0
    assert alone["copies"] == 0


def test_what_does_not_hold_is_named() -> None:
    """And what holds is not."""
    case = simulation.CASES[3]
    assert (case.nodes, case.gated) == (4000, ("throughput", "nas"))
    holds = {"throughput": 0.95, "busiest": 1.1, "busiest_in_window": 1.2, "nas": 1.0}
    assert simulation.failures(case, holds) == []
    assert "nas is 1.30" in simulation.failures(case, holds | {"nas": 1.3})[0]
