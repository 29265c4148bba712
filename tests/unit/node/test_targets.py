"""Paths of targets: what leads out of kubelet's directory is refused, in every spelling."""

import os
import posixpath
from pathlib import Path

import pytest
from hypothesis import given

from csi.base.errors import Code, DriverError
from csi.node.targets import KubeletRoots, check_target, check_target_parent
from tests.unit.odd_paths import PATHS

ROOTS = ["/var/lib/kubelet"]


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/var/lib/kubelet/pods/1/mount", "/var/lib/kubelet/pods/1/mount"),
        ("//var/lib//kubelet/x/", "/var/lib/kubelet/x"),
    ],
)
def test_target_accepted(path: str, canonical: str) -> None:
    assert check_target(path, roots=ROOTS) == canonical


@pytest.mark.parametrize(
    "path",
    ["", "x", "some/path", "/", "/var/lib/kubelet", "/var/lib/kubelet/", "/var/lib/kubelet2/x", "/etc/x",
     "/var/lib/kubelet/../x", "/var/lib/kubelet/pods/..", "/var/lib/kubelet/a\\..\\..\\..\\x", "/var/lib/kubelet/a\nb",
     "/var/lib/kubelet/" + "a/" * 2100],
)  # fmt: skip
def test_target_refused(path: str) -> None:
    with pytest.raises(DriverError) as caught:
        check_target(path, roots=ROOTS)
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(PATHS)
def test_a_target_stays_below_its_root(path: str) -> None:
    for text in (path, "/var/lib/kubelet/" + path):
        try:
            accepted = check_target(text, roots=ROOTS)
        except DriverError:
            continue
        assert posixpath.normpath(accepted) == accepted
        assert accepted.startswith("/var/lib/kubelet/")
        assert ".." not in accepted.replace("\\", "/").split("/")


def test_parent_must_exist_and_has_no_link_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "kubelet"
    (root / "pods").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "leak").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to(root / "pods")
    roots = [str(root)]
    check_target_parent(str(root / "pods" / "x"), roots=roots)
    check_target_parent(str(root / "x"), roots=roots)
    for target, code in (
        ("leak/x", Code.INVALID_ARGUMENT),
        ("inside/x", Code.INVALID_ARGUMENT),
        ("missing/x", Code.FAILED_PRECONDITION),
    ):
        with pytest.raises(DriverError) as caught:
            check_target_parent(str(root / target), roots=roots)
        assert caught.value.code is code
    # The root itself may be a link, as /var/lib/kubelet is on some distributions.
    os.symlink(root, tmp_path / "link")
    check_target_parent(str(tmp_path / "link" / "pods" / "x"), roots=[str(tmp_path / "link")])


def test_kubelets_directory_is_resolved_once(tmp_path: Path) -> None:
    real, other = tmp_path / "real" / "kubelet", tmp_path / "other"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    named = f"{tmp_path}/link/kubelet"
    roots = KubeletRoots([named, f"{real}/", str(other)])
    assert sorted(roots.resolved) == sorted([str(real), str(other)])
    for path in (f"{named}/pods/1/mount", f"{named}//pods/1/mount/", f"{real}/pods/1/mount"):
        assert roots.check_target(path) == f"{real}/pods/1/mount"
    assert roots.check_target(f"{other}/x") == f"{other}/x"
    assert roots.translated(f"{named}/pods") == f"{real}/pods"
    assert roots.translated("/elsewhere") == "/elsewhere"
    for path in (f"{tmp_path}/x", f"{named}/../x", named, f"{named}2/x"):
        with pytest.raises(DriverError):
            roots.check_target(path)
    (real / "pods").symlink_to(other)
    beneath = KubeletRoots([str(real), f"{real}/pods"])
    assert beneath.check_target(f"{real}/pods/1/mount") == f"{other}/1/mount", "its pods lie on another disk"
    assert beneath.check_target(f"{real}/plugins/x") == f"{real}/plugins/x"
    (tmp_path / "link").unlink()
    assert roots.check_target(f"{named}/x") == f"{real}/x", "nothing is looked at again"
