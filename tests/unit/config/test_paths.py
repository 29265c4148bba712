"""Paths of volumes: what leads out is refused, in every spelling."""

import posixpath

import pytest
from hypothesis import given

from csi.base.errors import Code, DriverError
from csi.config.paths import check_relative
from tests.unit.odd_paths import PATHS


@pytest.mark.parametrize("path", ["", "a", "a/b", "...", "a..b", "..a", "with space", "a,b=c", "数据", "-x"])
def test_accepted(path: str) -> None:
    assert check_relative(path, noun="path") == path


@pytest.mark.parametrize(
    "path",
    ["..", "../x", "a/..", "a/../b", "a\\..\\b", "..\\", "\\..", "\\x", "/a", ".", "a/.", "a//b", "a/", "a\nb", "a\0",
     "\x7f", "\udcff", "\u202e", "x" * 256, "é" * 128, "a/" * 64 + "a", "a/" * 700 + "a"],
)  # fmt: skip
def test_refused(path: str) -> None:
    with pytest.raises(DriverError) as caught:
        check_relative(path, noun="path")
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(PATHS)
def test_a_relative_path_stays_below(path: str) -> None:
    try:
        accepted = check_relative(path, noun="path")
    except DriverError:
        return
    for form in (accepted, accepted.replace("\\", "/")):
        assert ".." not in form.split("/")
        assert posixpath.normpath("/root/" + form).startswith("/root")
    assert accepted == path
    assert accepted.isprintable() or accepted == ""
