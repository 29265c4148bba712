"""deploy/crds.yaml is what the models make."""

from __future__ import annotations

from csi.api import crds
from tests.support.paths import ROOT


def test_the_committed_file_is_the_one_of_the_models() -> None:
    assert (ROOT / "deploy" / "crds.yaml").read_text() == crds.text(), "run python -m csi.api.crds > deploy/crds.yaml"
