"""The cluster boots beside mounts of the machine that hang: a FUSE mount without an answer, and a disk on top of it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.support.keeper import Keeper
from tests.support.nas import Nas

_DISK_MIB = 64


@contextmanager
def hung_mounts() -> Iterator[None]:
    """A mount whose NAS has been stopped, and a mounted disk whose blocks are in a file on it."""
    with Nas() as nas, Keeper() as keeper:
        folder = keeper.mount(nas.url)
        image, disk = folder / "disk", Path(tempfile.mkdtemp(prefix="disk-"))
        with image.open("wb") as file:
            file.truncate(_DISK_MIB << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True, timeout=60)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True, timeout=60)
        os.kill(nas.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(nas.pid, signal.SIGCONT)
            subprocess.run(["umount", disk], check=True, timeout=60)
            disk.rmdir()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("bare_cluster")  # the programs and images are there
def test_a_cluster_boots_beside_mounts_that_hang() -> None:
    with hung_mounts():
        cluster = Cluster(folder=Path(tempfile.mkdtemp(prefix="cluster-")))
        try:
            cluster.boot(nodes=1)
            assert cluster.nodes() == ["n1"]
            for place in ("n0", "n1"):
                mounts = cluster.on_node(place, "cat", "/proc/self/mountinfo")
                assert "fuse." not in mounts
                assert "/dev/loop" not in mounts
        finally:
            cluster.end()
