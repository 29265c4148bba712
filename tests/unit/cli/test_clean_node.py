"""What an uninstallation removes of a node, and what it leaves alone."""

import fcntl
import os
import socket
from pathlib import Path

import pytest

from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.cli.clean_node import clean
from csi.node.mounts import Mount, parse_mountinfo

NO_MOUNTS: list[Mount] = []


@pytest.fixture
def node(tmp_path: Path) -> tuple[Path, Path]:
    """A run directory and kubelet's, as the node parts leave them."""
    run_dir, kubelet = tmp_path / "run" / "efc", tmp_path / "kubelet"
    for folder in ("csi/published", "csi/repaired", "mnt/0123456789abcdef", "s", "network", "datasets", "warmup"):
        (run_dir / folder).mkdir(parents=True)
    for folder in (f"plugins/{driver.NAME}", "plugins/other", "plugins_registry"):
        (kubelet / folder).mkdir(parents=True)
    for file in (run_dir / "csi" / "published" / "damaged.json", run_dir / "keeper.lock"):
        file.touch()
    sockets = (
        run_dir / "keeper.sock",
        run_dir / "s" / "04cefe84",
        run_dir / "network" / "pod.sock",
        kubelet / "plugins" / driver.NAME / "csi.sock",
        kubelet / "plugins_registry" / f"{driver.NAME}-reg.sock",
    )
    here = os.open(".", os.O_PATH)
    for path in sockets:
        os.chdir(path.parent)  # a socket's path may have 107 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    os.fchdir(here)
    os.close(here)
    (kubelet / "plugins_registry" / "other-reg.sock").touch()
    return run_dir, kubelet


def paths(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_all_that_is_ours_goes(node: tuple[Path, Path]) -> None:
    run_dir, kubelet = node
    for _ in range(2):
        assert clean(run_dir, kubelet, mounts=NO_MOUNTS) == []
        assert not run_dir.exists()
        assert run_dir.parent.exists()
        assert paths(kubelet) == ["plugins", "plugins/other", "plugins_registry", "plugins_registry/other-reg.sock"]


def test_what_is_of_others_stays(node: tuple[Path, Path], tmp_path: Path) -> None:
    run_dir, kubelet = node
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (run_dir / "containerd.sock").touch()
    (run_dir / "mnt" / "link").symlink_to(precious)
    assert clean(run_dir, kubelet, mounts=NO_MOUNTS) == [run_dir]
    assert paths(run_dir) == ["containerd.sock", "mnt", "mnt/link"]
    assert (precious / "file").exists()


def test_nothing_goes_while_it_is_in_use(node: tuple[Path, Path]) -> None:
    run_dir, kubelet = node
    before = paths(run_dir), paths(kubelet)
    for target in (run_dir / "mnt" / "key", kubelet / "pods" / "a" / "mount"):
        mounts = parse_mountinfo(f"4 3 0:40 / {target} rw - fuse.efc nfs://nas/data rw\n")
        with pytest.raises(DriverError, match="is still mounted") as caught:
            clean(run_dir, kubelet, mounts=mounts)
        assert caught.value.code is Code.FAILED_PRECONDITION
    with (run_dir / "keeper.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DriverError, match="a keeper runs"):
            clean(run_dir, kubelet, mounts=NO_MOUNTS)
    assert (paths(run_dir), paths(kubelet)) == before
