"""Volumes of Datasets: two nodes that share what they read through workers, as a master tells them."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from csi._proto import csi_pb2, dataset_pb2
from tests.support.driver import MULTI_READER, Driver
from tests.support.master import Authority, DatasetMaster
from tests.support.nas import Nas
from tests.support.processes import wait_until

MIB = 1 << 20
_SIZE = 24 * MIB
#: Blocks of files that have changed within ten seconds, by what is known of the NAS's clock, are put at no worker.
_REST_S = 12.0
_RECENT_S = 2.0
_NODES = ("node-a", "node-b")


@dataclass(frozen=True, kw_only=True)
class World:
    """Two nodes, a master, and a directory with a file that has rested."""

    nodes: tuple[Driver, Driver]
    master: DatasetMaster
    folder: Path
    url: str
    digest: str

    def publish(self, node: Driver, **attributes: str) -> tuple[csi_pb2.Volume, Path]:
        """Publishes the Dataset on a node."""
        volume, target = self.master.volume(self.url, **attributes), node.target()
        node.publish(volume, target, mode=MULTI_READER, secrets=self.master.secrets())
        return volume, target

    def folder_on(self, node: Driver) -> Path:
        """Its files there."""
        return node.run_dir / "datasets" / self.master.uid


def read(target: Path) -> str:
    """A digest of the file, read from the beginning to the end, after the kernel has let its pages go."""
    digest = hashlib.sha256()
    with (target / "file").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while part := file.read(MIB):
            digest.update(part)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def datasets(nas: Nas) -> list[Path]:
    """Directories with a file each that has rested."""
    folders = [Path(tempfile.mkdtemp(dir=nas.export_folder())) for _ in range(8)]
    for folder in folders:
        folder.chmod(0o777)
        (folder / "file").write_bytes(os.urandom(_SIZE))
    time.sleep(_REST_S)
    for folder in folders:
        (folder / "clock").touch()
    return folders


@pytest.fixture
def world(nas: Nas, datasets: list[Path]) -> Iterator[World]:
    """A Dataset of the test's own."""
    with ExitStack() as stack:
        folder = datasets.pop()
        master = stack.enter_context(DatasetMaster(authority=stack.enter_context(Authority.made())))
        first, second = (stack.enter_context(Driver(source=nas.url, node_id=name)) for name in _NODES)
        url = nas.url_of(f"export/{folder.name}")
        digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
        yield World(nodes=(first, second), master=master, folder=folder, url=url, digest=digest)


def test_what_one_node_has_read_others_have_from_workers_and_figures_say_so(world: World) -> None:
    first, second = world.nodes
    master = world.master
    with master.worker() as worker:
        mounts = [dataset_pb2.SourceMount(source=world.url, path="/")]
        master.configure(workers=[worker], mounts=mounts)
        _, one = world.publish(first)
        assert worker.endpoint in (world.folder_on(first) / "workers").read_text()
        os.stat(one / "clock")
        figures = master.await_figures(lambda figures: figures.totals.known, what="totals")
        assert (figures.totals.bytes, figures.totals.files) == (_SIZE, 2)

        def cached() -> bool:
            assert read(one) == world.digest
            time.sleep(_RECENT_S)
            return abs(master.figures().workers[0].cached_bytes - _SIZE) <= _SIZE * 0.02

        wait_until(cached, what="all blocks at the worker", limit_s=60)
        _, two = world.publish(second)
        before = master.figures().read
        assert read(two) == world.digest
        figures = master.await_figures(
            lambda figures: figures.read.from_workers - before.from_workers == _SIZE,
            what="bytes from workers",
            limit_s=5,
        )
        assert figures.read.total - before.total == _SIZE
        assert [(node.node, node.volumes, node.serving, node.connected) for node in figures.nodes] == [
            (name, 1, True, True) for name in _NODES
        ]
        assert not [condition for node in figures.nodes for condition in node.conditions]
        assert figures.source == dataset_pb2.Reachability(known=True, reachable=True)
