"""What is taken for a directory of a NAS."""

import pytest

from csi.base.directories import check_directory
from csi.base.errors import Code, DriverError


@pytest.mark.parametrize(
    ("printed", "code", "words"),
    [
        (b'{"kind": "symlink"}', Code.INVALID_ARGUMENT, "nfs://nas/x is a symlink"),
        (b'{"kind": "file"}', Code.INVALID_ARGUMENT, "is a file"),
        (b"{}", Code.INTERNAL, "other than a file"),
        (b"[", Code.INTERNAL, "other than a file"),
    ],
)
def test_what_is_none_is_named(printed: bytes, code: Code, words: str) -> None:
    check_directory(b'{"kind": "directory"}', source="nfs://nas/x")
    with pytest.raises(DriverError, match=words) as refusal:
        check_directory(printed, source="nfs://nas/x")
    assert refusal.value.code is code
