"""Rows of memory: what a mount takes while it is idle, knows names, has files open, holds what is not committed.

Of a daemon: its resident memory without pages that it shares with the keeper, and the state that outlives it, which the
keeper holds. Of either kind of client: by how much the kernel's inodes of FUSE and NFS have grown (slabinfo(5)), which
are those of all mounts of the machine.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.clients import Client, Mounted
from bench.rows import EXPIRED_S, MIB, fill, numbered
from tests.support.nas import Nas
from tests.support.processes import wait_until

FOLDERS, FILES_EACH, OPEN_FILES, UNCOMMITTED_MIB = 20, 1000, 2000, 24
#: What was needed for uncommitted data goes back a second later.
_GIVEN_BACK_S = 2.5
STEPS = (
    "idle", f"{FOLDERS * FILES_EACH:,} names known", f"{OPEN_FILES:,} files open", f"{UNCOMMITTED_MIB} MiB uncommitted",
    "names forgotten",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Memory:
    """In bytes."""

    daemon_bytes: int
    state_bytes: int
    kernel_bytes: int


def measure(client: Client, nas: Nas) -> Iterator[tuple[str, Memory]]:
    """Each of STEPS with what is taken then; one mount for all of them."""
    before = _inode_bytes()
    tree = nas.export_folder() / "names"
    for name in numbered(FOLDERS):
        fill(tree / name, count=FILES_EACH)
    steps = iter(STEPS)
    with client.mounted() as mounted:
        paths = [mounted.path / "names" / name for name in numbered(FOLDERS)]
        os.listdir(mounted.path)
        yield next(steps), _memory(mounted, before)
        for number in range(FILES_EACH):
            for path in paths:
                os.stat(path / f"{number:05}")
        yield next(steps), _memory(mounted, before)
        with ExitStack() as stack:
            for number in range(OPEN_FILES):
                stack.enter_context((paths[0].parent / f"{number % FOLDERS:03}" / f"{number // FOLDERS:05}").open("rb"))
            yield next(steps), _memory(mounted, before)
        with (mounted.path / "uncommitted").open("wb", buffering=0) as file:
            for _ in range(UNCOMMITTED_MIB):
                file.write(bytes(MIB))
            yield next(steps), _memory(mounted, before)
        (mounted.path / "uncommitted").unlink()
        tree.rename(tree.with_name("removed"))
        wait_until(lambda: _is_gone(mounted), what="the kernel to drop a name", limit_s=60, interval_s=EXPIRED_S)
        wait_until(lambda: mounted.known() < FILES_EACH, what="names to be forgotten", limit_s=60)
        time.sleep(_GIVEN_BACK_S)
        yield next(steps), _memory(mounted, before)
    shutil.rmtree(tree.with_name("removed"))


def _is_gone(mounted: Mounted) -> bool:
    """Asks for the name, whereupon the kernel drops all below it."""
    return not (mounted.path / "names").exists()


def _memory(mounted: Mounted, inodes_before: int) -> Memory:
    daemon = mounted.daemon()
    return Memory(
        daemon_bytes=_own_bytes(daemon) if daemon else 0,
        state_bytes=sum(path.stat().st_blocks * 512 for path in mounted.state()),
        kernel_bytes=_inode_bytes() - inodes_before,
    )


def _own_bytes(pid: int) -> int:
    """RssAnon and RssFile: what lies in memfds is counted as state."""
    found = re.findall(r"^Rss(?:Anon|File):\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return sum(map(int, found)) * 1024


def _inode_bytes() -> int:
    """Of those in use; 0 where slabinfo cannot be read."""
    found = re.findall(r"^(?:fuse_inode|nfs_inode_cache) +(\d+) +\d+ +(\d+) ", _slabinfo(), re.MULTILINE)
    return sum(int(count) * int(size) for count, size in found)


def _slabinfo() -> str:
    path = Path("/proc/slabinfo")
    return path.read_text() if path.exists() else ""
