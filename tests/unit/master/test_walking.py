"""What of a NAS is asked for a Dataset's totals."""

import pytest

from csi._proto import dataset_pb2
from csi.master.walking import _opened


@pytest.mark.parametrize(
    ("root", "opened"),
    [
        ("", ("nfs://nas/data/team/x", "")),
        ("nfs://nas/data/team/x", ("nfs://nas/data/team/x", "")),
        ("nfs://nas/data", ("nfs://nas/data", "team/x")),
        ("nfs://nas/", ("nfs://nas/", "data/team/x")),
    ],
)
def test_a_source_is_opened_from_its_root_on(root: str, opened: tuple[str, str]) -> None:
    assert _opened(dataset_pb2.SourceMount(source="nfs://nas/data/team/x", root=root)) == opened
