"""`efc cache` on folders that look like stores, and on such that do not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.cli.cache import found


def make_store(folder: Path, name: str, *, source: str = "nfs nas 2049 0 /data", size: int = 0) -> Path:
    """A store of this source, in which so much lies."""
    store = folder / name
    (store / "files").mkdir(parents=True)
    (store / "source").write_text(f"{source}\n")
    (store / "lock").touch()
    (store / "files" / "00").write_bytes(os.urandom(size))
    return store


def test_a_store_says_whose_it_is_what_it_holds_and_who_uses_it(tmp_path: Path) -> None:
    idle, used = (make_store(tmp_path, name, size=100_000) for name in ("a-0", "a-1"))
    mounts = [efc_pb2.MountStatus(target="/mnt", store=str(used)), efc_pb2.MountStatus(target="/other")]
    stores = found([tmp_path], mounts)
    assert [(store.path, store.source, store.is_used, store.used_by) for store in stores] == [
        (idle, "nfs://nas:2049/data", False, ""),
        (used, "nfs://nas:2049/data", True, "/mnt"),
    ]
    assert all(100_000 <= store.held_bytes <= 120_000 for store in stores)
    assert all(store.used_at >= (idle / "source").stat().st_mtime - 1 for store in stores)


def test_a_store_that_somebody_has_locked_is_in_use(tmp_path: Path) -> None:
    store = make_store(tmp_path, "a-0")
    with open(store / "lock", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [one.is_used for one in found([tmp_path], [])] == [True]
    assert [one.is_used for one in found([tmp_path], [])] == [False]
    (store / "lock").unlink()
    assert [one.is_used for one in found([tmp_path], [])] == [False], "no daemon has had it yet"


@pytest.mark.parametrize(
    "source", ["", "nfs", "nfs nas 2049 /data", "nfs nas x 0 /data", "nfs nas 1 -1 /data", "http nas 1 2 /data"]
)
def test_what_is_no_store_is_left_out(tmp_path: Path, source: str) -> None:
    make_store(tmp_path, "a-0", source=source)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert found([tmp_path, tmp_path / "missing"], []) == []


def test_names_of_sources_are_whole_whatever_is_in_them(tmp_path: Path) -> None:
    make_store(tmp_path, "a-0", source="nfs fe80::1 0 20048 /with blanks/and more")
    make_store(tmp_path, "b-0", source="several /mnt/all of them")
    assert [store.source for store in found([tmp_path], [])] == [
        "nfs://[fe80::1]/with blanks/and more?mountport=20048",
        "those at /mnt/all of them",
    ]
