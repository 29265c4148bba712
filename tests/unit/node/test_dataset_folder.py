"""Files of a Dataset on a node."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from csi._proto import dataset_pb2
from csi.base.errors import Code, DriverError
from csi.base.saved import DamagedError
from csi.config.datasets import DatasetVolume
from csi.node.dataset_folder import DatasetFolder, DatasetRecord

UID = "u-1"
SECRETS = dataset_pb2.Secrets(block_key=b"\xab" * 32, authority=b"A", certificate=b"C", private_key=b"PRIVATE")
RECORD = DatasetRecord(
    volume=DatasetVolume(uid=UID, name="ns/demo", master="h:1", stays=True), stays=False, network="pod", keys=["k"]
)


@pytest.fixture
def folder(tmp_path: Path) -> DatasetFolder:
    made = DatasetFolder(tmp_path / "datasets" / UID)
    made.make()
    return made


def test_files_are_roots_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = DatasetFolder(tmp_path / "datasets" / UID)
        folder.make()
        folder.put_secrets(SECRETS)
        folder.put_record(RECORD)
    finally:
        os.umask(before)
    for path in (tmp_path / "datasets").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "datasets" / UID / "tls" / "server-name").read_text() == "worker.efc\n"
    assert b"PRIVATE" not in (tmp_path / "datasets" / UID / "dataset.json").read_bytes()


def test_workers_are_written_as_the_keeper_reads_them(folder: DatasetFolder) -> None:
    workers = [dataset_pb2.Worker(address="h:2", weight=3), dataset_pb2.Worker(address="[::1]:1", weight=1)]
    assert Path(folder.workers).read_text() == "# none\n", "a file that is empty is one that is being written"
    assert folder.put_workers(workers)
    assert not folder.put_workers(reversed(workers)), "it says what it said"
    assert Path(folder.workers).read_text() == "[::1]:1\nh:2*3\n"
    folder.make()
    assert Path(folder.workers).read_text() == "[::1]:1\nh:2*3\n"
    assert folder.put_workers([])
    assert Path(folder.workers).read_text() == "# none\n"


def test_secrets_and_record_are_read_back(folder: DatasetFolder) -> None:
    assert folder.secrets() is None
    folder.put_secrets(SECRETS)
    assert folder.secrets() == SECRETS
    folder.put_record(RECORD)
    assert folder.record() == RECORD
    folder.remove()
    folder.remove()
    with pytest.raises(FileNotFoundError):
        folder.record()


def test_a_damaged_record_is_none(folder: DatasetFolder, tmp_path: Path) -> None:
    folder.put_record(RECORD)
    path = tmp_path / "datasets" / UID / "dataset.json"
    saved = json.loads(path.read_text())
    for damaged in (
        "",
        "{}",
        json.dumps(saved | {"keys": 3}),
        json.dumps(saved | {"volume": {**saved["volume"], "uid": "x"}}),
    ):
        path.write_text(damaged)
        with pytest.raises(DamagedError):
            folder.record()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "datasets").write_text("a file")
    with pytest.raises(DriverError) as raised:
        DatasetFolder(tmp_path / "datasets" / UID).make()
    assert raised.value.code is Code.INTERNAL
