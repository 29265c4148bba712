"""A Dataset's totals: what its master counts on a NAS, compared with another way to count it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi._proto import dataset_pb2
from tests.support.master import Authority, DatasetMaster
from tests.support.nas import Nas


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with Authority.made() as authority:
        yield authority


@pytest.fixture
def master(authority: Authority) -> Iterator[DatasetMaster]:
    with DatasetMaster(authority=authority) as master:
        yield master


@pytest.fixture(scope="module")
def folders(nas: Nas) -> tuple[Path, Path]:
    """Two directories of one export, whose files have names beside them, deeper, in the other one, and outside."""
    export = nas.export_folder()
    one, other, outside = (export / name for name in ("one", "other", "outside"))
    for size, folder in enumerate((one, other, outside), start=1000):
        (folder / "below" / "deeper").mkdir(parents=True)
        (folder / "alone").write_bytes(b"x" * size)
        (folder / "file").write_bytes(b"x" * 10 * size)
        os.link(folder / "file", folder / "same file")
        os.link(folder / "file", folder / "below" / "deeper" / "same file")
        (folder / "to the file").symlink_to("file")
        os.mkfifo(folder / "fifo")
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
    with (one / "below" / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    os.link(one / "alone", other / "below" / "one's")
    os.link(outside / "alone", one / "outside's")
    return one, other


def _counted(folder: Path) -> tuple[int, int]:
    """Sum of ``st_size`` of the regular files below, each once, and how many there are."""
    sizes: dict[int, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            if stat.S_ISREG(status.st_mode):
                sizes[status.st_ino] = status.st_size
    return sum(sizes.values()), len(sizes)


def _totals(master: DatasetMaster, **paths: str) -> tuple[int, int]:
    """What the master counts of mounts: path of the volume -> source."""
    mounts = [dataset_pb2.SourceMount(path=path, source=source) for path, source in paths.items()]
    master.configure(mounts=mounts)
    totals = master.await_figures(lambda figures: figures.totals.known, what="totals").totals
    assert not totals.reason
    return totals.bytes, totals.files


def test_a_file_of_several_names_counts_once(nas: Nas, folders: tuple[Path, Path], master: DatasetMaster) -> None:
    one, _ = folders
    counted = _totals(master, **{"/": nas.url_of("export/one")})
    assert counted == _counted(one) == (1000 + 10 * 1000 + (1 << 40) + 1002, 4)


def test_totals_of_several_mounts_are_the_sum_of_each(
    nas: Nas, folders: tuple[Path, Path], master: DatasetMaster
) -> None:
    """A file with names in two mounts is two files to who reads the volume: mounts are file systems of their own."""
    urls = {f"/{folder.name}": nas.url_of(f"export/{folder.name}") for folder in folders}
    bytes_of, files_of = zip(*map(_counted, folders), strict=True)
    assert _totals(master, **urls) == (sum(bytes_of), sum(files_of))
    assert files_of == (4, 3)
    assert _totals(master, **dict(reversed(urls.items()))) == (sum(bytes_of), sum(files_of))
    assert _totals(master, **{"/one": urls["/one"]}) == (bytes_of[0], files_of[0]), "one was taken away"
