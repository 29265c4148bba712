"""docs/CONFIGURATION.md lists the options as they are."""

from __future__ import annotations

from csi.config import nfs_words
from csi.config.options import markdown
from csi.config.parameters import VolumeParameters
from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "CONFIGURATION.md").read_text()


def test_the_table_is_the_one_of_the_code() -> None:
    assert markdown().strip() in DOCUMENT


def test_the_words_of_nfs_are_those_of_the_code() -> None:
    assert nfs_words.markdown().strip() in DOCUMENT


def test_defaults_of_the_parameters() -> None:
    parsed = VolumeParameters.parse({})
    assert f"| `onDelete` | `{parsed.on_delete.value}` |" in DOCUMENT
    assert f"| `uid`, `gid` | `{parsed.uid}` |" in DOCUMENT
    assert f"| `mode` | `{parsed.mode:04o}` |" in DOCUMENT
