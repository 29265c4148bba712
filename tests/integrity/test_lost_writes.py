"""What the disk of a local store takes and then loses, since it has less room than it says: nobody reads zeros instead.

The kernel takes what is written into memory, and has it written later. Until it lets that memory go, whoever reads the
file finds all of it; a checksum that is compared meanwhile says nothing of the disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integrity.disk import disk_with_less_room_than_it_says
from tests.integrity.rested import rested_datasets
from tests.integrity.test_workers import MIB
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import wait_until

_SIZE = 16 * MIB + 4711
#: What the file system itself takes, and a part of the file.
_ROOM_MIB = 12
_PIECE = 4096
#: A daemon keeps blocks that it has just read for two seconds at most.
_RECENT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class World:
    """A mount with a store on such a disk, and its file."""

    keeper: Keeper
    mount: Path
    stores: Path
    content: bytes

    def stats(self) -> dict[str, Any]:
        """What the daemon has reported."""
        stats: dict[str, Any] = self.keeper.status(self.mount)["stats"]
        return stats

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The file, of which the kernel has no pages."""
        file = os.open(self.mount / "file", os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            yield file
        finally:
            os.close(file)

    def check(self, file: int, piece: int, step: int) -> None:
        """Reads a piece of this size at each step."""
        for offset in range(0, _SIZE, step):
            assert os.pread(file, piece, offset) == self.content[offset : offset + piece], f"other data at {offset}"

    def leave_to_the_disk(self) -> None:
        """Memory has nothing of the store any more, as it will be at some time anyway."""
        for path in self.stores.rglob("*.data"):
            with path.open("rb") as data:
                with suppress(OSError):
                    os.fdatasync(data.fileno())
                os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture(scope="module")
def datasets() -> Iterator[tuple[Nas, list[Path]]]:
    """A server, and datasets with a file each that has rested."""
    with rested_datasets(2, size=_SIZE) as made:
        yield made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be ended after a test."""
    with ExitStack() as stack:
        yield stack


def mounted(datasets: tuple[Nas, list[Path]], folder: Path, stack: ExitStack, *options: str) -> World:
    """A mount of a dataset of its own."""
    nas, folders = datasets
    origin, disk = folders.pop(), disk_with_less_room_than_it_says(folder / "store", size_mib=256, room_mib=_ROOM_MIB)
    stores = stack.enter_context(disk)
    keeper = stack.enter_context(Keeper())
    options = (f"cache-dir={stores}", "cache-size=128MiB", "cache-free=1", *options)
    mount = keeper.mount(nas.url_of(f"export/{origin.name}"), options=options)
    (mount / "clock").stat()
    return World(keeper=keeper, mount=mount, stores=stores, content=(origin / "file").read_bytes())


def test_pieces_of_blocks(datasets: tuple[Nas, list[Path]], tmp_path: Path, stack: ExitStack) -> None:
    """Blocks that were found whole in the store, of which a part is read later, which has no checksum of its own."""
    world = mounted(datasets, tmp_path, stack)

    def is_from_store() -> bool:
        before = world.stats()["store"]["hits"]
        with world.opened() as file:
            world.check(file, MIB, MIB)
        time.sleep(_RECENT_S)
        return bool(world.stats()["store"]["hits"] - before >= _SIZE // MIB)

    wait_until(is_from_store, what="all of it from the store", limit_s=60)
    world.leave_to_the_disk()
    with world.opened() as file:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        world.check(file, _PIECE, 16 * _PIECE)
    wait_until(lambda: world.stats()["store"]["damaged"] > 0, what="that the loss is noticed")


def test_files_that_the_kernel_reads_by_itself(
    datasets: tuple[Nas, list[Path]], tmp_path: Path, stack: ExitStack
) -> None:
    """It is passed through, and is what it should be for as long as it is open, or the loss was noticed before."""
    world = mounted(datasets, tmp_path, stack, "consistency=sealed")

    def is_decided() -> bool:
        before = world.stats()["passthrough"]["opens"]
        with world.opened() as file:
            is_passed = world.stats()["passthrough"]["opens"] > before
            if is_passed:
                world.leave_to_the_disk()
            world.check(file, MIB, MIB)
        return bool(is_passed or world.stats()["store"]["damaged"] > 0)

    wait_until(is_decided, what="a file that is passed through, or a loss that is noticed", limit_s=60, interval_s=0.5)
