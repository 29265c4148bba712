"""``efc cache``: the local stores of this node: whose they are, what they hold, and how to be rid of them.

A store is a directory below one for caches, made by the keeper: ``source`` in it says whose it is, and a daemon that
uses it has locked ``lock`` (``efc/keeper/src/stores.rs``). A store stays when its dataset is unmounted, for the next
time; what no dataset of this node will mount again is removed here, and by nobody else. One that a daemon uses is never
touched: the lock is held while it is removed, so none can begin to.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.base.text import printable
from csi.cli.figures import size
from csi.cli.tables import print_table
from csi.config.sources import Source
from csi.node.keeper import Keeper, KeeperUnreachableError

#: The chart's.
_DIRECTORY = Path("/var/cache/efc")
#: More of a store's `source` is not read, in bytes.
_SOURCE_BYTES_MAX = 8192
_SOURCE_FIELDS = 5
#: The keeper does not remember where stores of former mounts are.
_ELSEWHERE = "for stores of former mounts in another cache-dir use efc cache --directory DIR"
_COLUMNS = ("SOURCE", "STORE", "HELD", "LAST USED", "USED BY")
_DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class Store:
    """A local store: ``held_bytes`` on the disk, ``used_at`` as seconds since 1970, ``used_by`` a mount or ""."""

    path: Path
    source: str
    held_bytes: int
    used_at: float
    is_used: bool
    used_by: str


def run(parsed: argparse.Namespace) -> int:
    """Lists the stores, or removes some."""
    mounts = _mounts(parsed.run_dir)
    directories = _directories(parsed.directory, mounts)
    stores = found(directories, mounts)
    if parsed.cache_command == "clear":
        return _clear(_chosen(stores, mounts, directories, parsed), directories)
    if parsed.json:
        print(json.dumps([_described(store) for store in stores], indent=2))
    elif not stores:
        print(f"There are no local stores in {_names(directories)}; {_ELSEWHERE}")
    else:
        print_table(_COLUMNS, [_row(store) for store in stores])
    return 0


def _mounts(run_dir: str) -> list[efc_pb2.MountStatus]:
    try:
        return list(asyncio.run(Keeper(run_dir).status()).mounts)
    except KeeperUnreachableError:
        return []


def _directories(given: Sequence[Path], mounts: Sequence[efc_pb2.MountStatus]) -> list[Path]:
    """Where stores may be: where they were said to be, else where mounts have theirs, and where the chart has them."""
    if given:
        for directory in given:
            if not directory.is_dir():
                raise DriverError(Code.NOT_FOUND, f"{str(directory)!r} is not a directory")
        return list(given)
    return sorted({_DIRECTORY, *(Path(mount.store).parent for mount in mounts if mount.store)})


def found(directories: Sequence[Path], mounts: Sequence[efc_pb2.MountStatus]) -> list[Store]:
    """The stores in these directories; what is not one is left out."""
    users = {mount.store: mount.target for mount in mounts if mount.store}
    return [
        store for directory in directories for path in _folders(directory) if (store := _store(path, users)) is not None
    ]


def _folders(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if stat.S_ISDIR(path.lstat().st_mode))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _store(path: Path, users: dict[str, str]) -> Store | None:
    if (source := _source_of(path)) is None:
        return None
    used_by = users.get(str(path), "")
    with _locked(path) as is_ours:
        is_used = bool(used_by) or not is_ours
    held_bytes, used_at = _size_and_time(path)
    return Store(path=path, source=source, held_bytes=held_bytes, used_at=used_at, is_used=is_used, used_by=used_by)


def _source_of(path: Path) -> str | None:
    """Whose store it is, or None if it is no store."""
    try:
        with open(path / "source", encoding="utf-8", errors="replace") as file:
            line = file.readline(_SOURCE_BYTES_MAX)
    except OSError:
        return None
    if line.startswith("several "):
        return f"those at {line.removeprefix('several ').rstrip()}"
    parts = line.rstrip("\n").split(" ", _SOURCE_FIELDS - 1)
    if len(parts) != _SOURCE_FIELDS or parts[0] != "nfs" or not (parts[2] + parts[3]).isdecimal():
        return None
    _, host, port, mount_port, path_there = parts
    return Source(host=host, port=int(port), mount_port=int(mount_port), path=path_there).canonical()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Has the store's lock while it lasts, or False: a daemon has it."""
    try:
        descriptor = os.open(path / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True  # the first daemon makes it
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _size_and_time(path: Path) -> tuple[int, float]:
    """What lies in a folder, in bytes of the disk, and when something in it was used last."""
    held_bytes, used_at = 0, 0.0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
                status = os.lstat(os.path.join(folder, name))
                held_bytes += status.st_blocks * 512
                used_at = max(used_at, status.st_mtime)
    return held_bytes, used_at


def _names(directories: Sequence[Path]) -> str:
    return ", ".join(printable(str(directory)) for directory in directories)


def _chosen(
    stores: Sequence[Store],
    mounts: Sequence[efc_pb2.MountStatus],
    directories: Sequence[Path],
    parsed: argparse.Namespace,
) -> list[Store]:
    """What is to be removed; raises FAILED_PRECONDITION for what is in use, NOT_FOUND for what is no store."""
    if parsed.unused:
        oldest = time.time() - parsed.days * _DAY_SECONDS
        return [store for store in stores if not store.is_used and store.used_at <= oldest]
    chosen: list[Store] = []
    for wanted in parsed.stores:
        matching = [store for store in stores if wanted in (store.path.name, store.source)]
        if not matching and os.path.isabs(wanted):
            # Wherever it lies: that it is a store is seen by what is in it.
            path = Path(os.path.normpath(wanted))
            matching = [store for store in found([path.parent], mounts) if store.path == path]
        if not matching:
            message = (
                f"{wanted!r} is not a local store in {_names(directories)}, nor the full path of one; {_ELSEWHERE}"
            )
            raise DriverError(Code.NOT_FOUND, message)
        chosen += [store for store in matching if store not in chosen]
    for store in chosen:
        if store.is_used:
            by = f" by {store.used_by}" if store.used_by else ""
            raise DriverError(Code.FAILED_PRECONDITION, f"{str(store.path)!r} is in use{by}: unmount it first")
    return chosen


def _clear(stores: Sequence[Store], directories: Sequence[Path]) -> int:
    for store in stores:
        with _locked(store.path) as is_ours:
            if not is_ours:
                print(f"{printable(str(store.path))}: in use by now, so it stays")
                continue
            shutil.rmtree(store.path)
        print(f"{printable(str(store.path))}: removed, {size(store.held_bytes)}")
    if not stores:
        print(f"Nothing to remove in {_names(directories)}; {_ELSEWHERE}")
    return 0


def _described(store: Store) -> dict[str, object]:
    """One element of ``efc cache --json``. Keys are only ever added."""
    return {
        "source": store.source,
        "store": str(store.path),
        "held_bytes": store.held_bytes,
        "used_at_unix": int(store.used_at),
        "in_use": store.is_used,
        "mount": store.used_by or None,
    }


def _row(store: Store) -> tuple[str, ...]:
    used_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.used_at)) if store.used_at else "-"
    used_by = store.used_by or ("another keeper's mount" if store.is_used else "-")
    return (store.source, str(store.path), size(store.held_bytes), used_at, used_by)
