"""`efc cache` on folders that look like stores, and on such that do not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.cli import cache, main
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


def test_where_there_are_none_it_is_said_where_they_were_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_DIRECTORY", tmp_path / "usual")
    run_dir = ["--run-dir", str(tmp_path)]
    assert main(["cache", *run_dir]) == 0
    assert main(["cache", *run_dir, "clear", "--unused"]) == 0
    listed, cleared = capsys.readouterr().out.splitlines()
    assert listed.startswith(f"There are no local stores in {tmp_path}/usual;")
    assert cleared.startswith(f"Nothing to remove in {tmp_path}/usual;")
    assert all("efc cache --directory DIR" in line for line in (listed, cleared))


def test_a_store_is_removed_by_its_full_path_wherever_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_DIRECTORY", tmp_path / "usual")
    store, other = make_store(tmp_path / "elsewhere", "a-0"), make_store(tmp_path / "elsewhere", "b-0")
    (tmp_path / "elsewhere" / "no store").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(store)
    clear = ["cache", "--run-dir", str(tmp_path), "clear"]
    for wrong in ("no store", "link", "a-0/files", "a-0/source", "missing"):
        assert main([*clear, f"{tmp_path}/elsewhere/{wrong}"]) == 1
        assert "is not a local store in" in capsys.readouterr().err
    with open(store / "lock", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([*clear, str(store)]) == 1
        assert "is in use" in capsys.readouterr().err
    assert main([*clear, f"{store}/", str(store)]) == 0
    assert capsys.readouterr().out.startswith(f"{store}: removed")
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["b-0", "link", "no store"]
    assert other.exists()
