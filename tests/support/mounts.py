"""Mounts that a test makes: looked up in mountinfo, never with stat (which hangs on a dead mount), and got rid of.

Also a small disk of a given size, so that "the server is full" is real.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_INODES_PER_MIB = 64  # as mkfs.ext4 gives a disk


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One line of /proc/self/mountinfo (proc(5))."""

    target: Path
    device: str  # MAJOR:MINOR; the minor number of a FUSE mount is its connection's
    root: str
    kind: str
    source: str
    options: frozenset[str]  # of the mount and of the superblock


def mounts_below(folder: Path | str) -> list[Mount]:
    """Mounts at `folder` or anywhere below it, in the order in which they were made."""
    prefix = os.path.realpath(folder)
    return [mount for mount in all_mounts() if f"{mount.target}/".startswith(f"{prefix}/")]


def all_mounts() -> Iterator[Mount]:
    """Every mount of this namespace."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        _id, _parent, device, root, target, options, *_tags = before.split(" ")
        kind, source, superblock = after.split(" ")
        yield Mount(
            target=Path(_unescape(target)),
            device=device,
            root=_unescape(root),
            kind=kind,
            source=_unescape(source),
            options=frozenset(options.split(",")) | frozenset(superblock.split(",")),
        )


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def remove_mounts(folder: Path | str) -> list[Mount]:
    """Detaches what is mounted below `folder`, dead FUSE connections aborted first. Returns what was there."""
    found = mounts_below(folder)
    for mount in found:
        abort = Path("/sys/fs/fuse/connections") / mount.device.partition(":")[2] / "abort"
        if mount.kind.startswith("fuse") and abort.exists():
            abort.write_text("1")
    for mount in reversed(found):
        detach(mount.target)
    return found


def detach(target: Path) -> None:
    """umount2 with MNT_DETACH: never hangs, never follows a symlink."""
    ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW)


@contextmanager
def small_disk(folder: Path, *, size_mib: int) -> Iterator[Path]:
    """Mounts a file system of `size_mib` at `folder`, in memory, and takes it away afterwards.

    It takes no device of the machine, of which there may be none to spare.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_mib}m,nr_inodes={size_mib * _INODES_PER_MIB},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "efc-small-disk", folder], check=True, timeout=60)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, timeout=60)
