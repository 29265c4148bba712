"""Disks that lose what they took: one of the NAS whose power can fail, one of a node that has less room than it says.

When the power of the first fails, everything that the server did not sync is gone.

A killed server process loses no more than its requests in flight, because what it wrote stays in the kernel's page
cache; so it cannot show a client that forgets to send unstable writes again. ext4 on a loop device can:
EXT4_IOC_SHUTDOWN drops what is not on the device. Nothing else here can: a tmpfs has no other place to which an fsync
would write, and what loses data inside the server (a preloaded library, a file system of ours) is a model of a disk.
The device is the only one of the machine's that tests use. It is made by the mount and goes with it, also when that
is the end of the tests' mount namespace. Directory changes are written synchronously (`dirsync`), as NFSv3 asks of a
server (RFC 1813, section 4.8) and Ganesha leaves to the file system.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_EXT4_IOC_SHUTDOWN = 0x8004_587D
_WITHOUT_FLUSHING_THE_JOURNAL = 2


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A mounted ext4 file system of its own loop device, whose content is in the file `image`."""

    folder: Path
    image: Path

    def lose_power(self) -> None:
        """Drops what is not synced, and mounts the disk again as it is found then."""
        directory = os.open(self.folder, os.O_RDONLY)
        fcntl.ioctl(directory, _EXT4_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_JOURNAL))
        os.close(directory)
        self._run("umount", self.folder)
        self.mount()
        (self.folder / "power-is-back").touch()  # EIO if somebody had held the dead file system
        (self.folder / "power-is-back").unlink()

    def mount(self) -> None:
        """Mounts it, replaying the journal."""
        self._run("mount", "-o", "loop,dirsync", self.image, self.folder)

    @staticmethod
    def _run(*command: str | Path) -> None:
        subprocess.run(command, check=True, timeout=60)


@contextmanager
def disk_that_loses_power(folder: Path, *, size_mib: int) -> Iterator[Disk]:
    """A disk of `size_mib` at `folder` for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_name(f"{folder.name}.ext4")
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, timeout=60)
    try:
        disk = Disk(folder=folder, image=image)
        disk.mount()
        yield disk
    finally:
        subprocess.run(["umount", folder], check=False, timeout=60)
        image.unlink()


@contextmanager
def disk_with_less_room_than_it_says(folder: Path, *, size_mib: int, room_mib: int) -> Iterator[Path]:
    """A disk of `size_mib` at `folder`, as storage that is provided thinly may be.

    What is written to it beyond `room_mib` gets lost when the kernel takes it there, long after write(2).
    """
    behind = folder.with_name(f"{folder.name}.behind")
    for made in (folder, behind):
        made.mkdir(parents=True, mode=0o700)
    with ExitStack() as stack:
        _mounted(stack, "-t", "tmpfs", "-o", f"size={room_mib}m", "none", behind)
        image = behind / "image"
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        # With a journal that it cannot write to either the file system ends, and tells whoever reads from it.
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", image], check=True, timeout=60)
        _mounted(stack, "-o", "loop", image, folder)
        folder.chmod(0o700)
        yield folder


def _mounted(stack: ExitStack, *arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=60)
    stack.callback(subprocess.run, ["umount", arguments[-1]], check=False, timeout=60)
