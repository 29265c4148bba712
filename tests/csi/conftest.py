"""Measurements of the tests in this folder."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.paths import RESULTS


@pytest.fixture(scope="session")
def measured() -> Iterator[dict[str, object]]:
    """Figures for results/csi.json."""
    figures: dict[str, object] = {}
    yield figures
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "csi.details.json").write_text(json.dumps(figures, indent=2) + "\n")
