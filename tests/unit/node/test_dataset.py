"""A Dataset on a node: which secrets are in force, and orders that cannot be written at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from csi._proto import dataset_pb2, efc_pb2
from csi.base.errors import Code, DriverError
from csi.config.datasets import DatasetVolume
from csi.node.dataset import Dataset
from csi.node.dataset_folder import DatasetFolder, DatasetRecord
from csi.node.datasets import Datasets

UID = "0b1f5ba4-6a53-4f6f-a9a5-06c4ba5b9a0e"


class NothingPublished:
    """Of a node that has no volume."""

    def of_volume(self, volume_id: str) -> list[object]:
        return []


def secrets(letter: str) -> dataset_pb2.Secrets:
    return dataset_pb2.Secrets(
        block_key=letter.encode() * 32, authority=b"ca", certificate=letter.encode(), private_key=b"key"
    )


def described() -> DatasetVolume:
    return DatasetVolume(uid=UID, name="team/data", master="127.0.0.1:1", stays=True, memory_max=0)


@pytest.fixture
def folder(tmp_path: Path) -> DatasetFolder:
    made = DatasetFolder(tmp_path / "datasets" / UID)
    made.make()
    return made


@pytest.fixture
def dataset(folder: DatasetFolder) -> Dataset:
    record = DatasetRecord(volume=described(), stays=True, network="host", lacks_network=False)
    nobody: Any = None  # nothing here asks the keeper
    return Dataset(
        record, node="n1", folder=folder, keeper=nobody, daemons=nobody,
        publications=cast("Any", NothingPublished()), is_new=True,
    )  # fmt: skip


async def test_a_publish_brings_newer_secrets_while_no_master_does(dataset: Dataset, folder: DatasetFolder) -> None:
    await dataset.describe(described(), secrets("a"))
    dataset._take(dataset_pb2.Orders(revision=1, secrets=secrets("b")))
    assert folder.secrets() == secrets("b")
    # The master has gone; a runtime made anew has other secrets, which no stream can bring.
    await dataset.describe(described(), secrets("c"))
    assert folder.secrets() == secrets("c")
    await dataset.close()


async def test_another_master_is_connected_to_though_its_address_could_not_be_written(
    dataset: Dataset, folder: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_record: object) -> None:
        raise DriverError(Code.INTERNAL, "no space left")

    moved = replace(described(), master="127.0.0.1:2")
    await dataset.describe(described(), secrets("a"))
    with monkeypatch.context() as broken:
        broken.setattr(folder, "put_record", full)
        with pytest.raises(DriverError):
            await dataset.describe(moved, secrets("a"))
    await dataset.describe(moved, secrets("a"))
    assert folder.record().volume == moved
    assert dataset._stream.address == moved.master
    await dataset.close()


async def test_the_masters_secrets_win_while_it_is_there(dataset: Dataset, folder: DatasetFolder) -> None:
    dataset._take(dataset_pb2.Orders(revision=1, secrets=secrets("b")))
    dataset._stream._connected.set()
    await dataset.describe(described(), secrets("a"))
    assert folder.secrets() == secrets("b")
    await dataset.close()


async def test_orders_that_could_not_be_written_are_written_later(
    dataset: Dataset, folder: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_workers: object) -> bool:
        raise DriverError(Code.RESOURCE_EXHAUSTED, "no space left")

    orders = dataset_pb2.Orders(
        revision=1, workers=[dataset_pb2.Worker(name="w", address="10.0.0.7:11211")], retired=True, keep_daemon=True
    )
    with monkeypatch.context() as broken:
        broken.setattr(folder, "put_workers", full)
        dataset._take(orders)
    assert "no space left" in dataset._report().conditions[0]
    assert not dataset._record.stays, "it is retired, whatever could be written"
    dataset._put_orders(orders)
    assert list(dataset._report().conditions) == []
    assert Path(folder.workers).read_text() == "10.0.0.7:11211\n"
    assert not folder.record().stays


def test_a_block_that_is_given_out_in_parts_counts_once(dataset: Dataset) -> None:
    """That it was in the memory of the node for a moment makes it no more than was read."""
    cache = efc_pb2.CacheStats(memory_bytes=7 << 20, store_bytes=4 << 20, workers_bytes=1 << 20, nas_bytes=1 << 20)
    stats = efc_pb2.DaemonStats(cache=cache, nfs=efc_pb2.NfsStats(bytes_read=1 << 20))
    dataset._count([efc_pb2.MountStatus(state=efc_pb2.MountStatus.SERVING, stats=stats)])
    report = dataset._report()
    read = (report.bytes_read, report.bytes_from_node, report.bytes_from_workers)
    assert read == (6 << 20, 4 << 20, 1 << 20)


def test_a_master_says_which_sources_there_are_only_where_the_volume_lets_it(
    dataset: Dataset, folder: DatasetFolder
) -> None:
    """Whoever reads Secrets in the Dataset's namespace can speak for its master."""
    mounts = [dataset_pb2.SourceMount(path="/x", source="nfs://nas/secret")]
    dataset._take(dataset_pb2.Orders(revision=1, sources=mounts))
    assert dataset.sources() is None
    assert folder.record().volume == described()
    dataset._record.volume = replace(described(), live_sources=True)
    sources = dataset.sources()
    assert sources is not None
    assert [str(one) for one in sources.mounted] == ["/x=nfs://nas/secret"]


def recover(run_dir: Path) -> None:
    """What a node plugin does at its start, on a node without volumes."""
    nobody: Any = None
    Datasets(
        run_dir=str(run_dir), node="n1", keeper=nobody, daemons=nobody, publications=cast("Any", NothingPublished())
    ).recover()


def test_what_is_no_folder_of_a_dataset_stops_nobody(folder: DatasetFolder, tmp_path: Path) -> None:
    """The node plugin would not start any more."""
    (tmp_path / "datasets" / "a-file").touch()
    (tmp_path / "datasets" / "b-folder" / "dataset.json").mkdir(parents=True)
    folder.put_secrets(secrets("a"))
    recover(tmp_path)
    assert not Path(folder.key).exists()


def test_a_folder_whose_removal_was_cut_off_goes_at_the_next_start(folder: DatasetFolder, tmp_path: Path) -> None:
    folder.put_secrets(secrets("a"))
    recover(tmp_path)
    assert not Path(folder.key).exists()
    assert list((tmp_path / "datasets").iterdir()) == []
