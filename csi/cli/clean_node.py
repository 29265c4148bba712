"""``efc clean-node``: what the node parts leave on a node, empty folders and sockets, goes with an uninstallation.

It refuses while a keeper runs or anything of ours is mounted, and removes only what bears a name that the node parts
give: a run directory that somebody else uses as well keeps what is theirs.
"""

import argparse
import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.node import registration
from csi.node.mounts import FILE_SYSTEM_TYPE, Mount, beneath, read_mounts

#: In a run directory: files, and folders that hold files and empty folders of ours only.
_FILES = ("keeper.sock", "keeper.lock", "keeper.log")
_FOLDERS = ("csi", "datasets", "mnt", "s", "network", "warmup")


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc clean-node``, and says which folders are left, which is no error."""
    mounts = read_mounts()
    for path in clean(Path(parsed.run_dir), Path(parsed.kubelet_root), mounts=mounts):
        print(f"{path} stays: it is not empty")
    return 0


def clean(run_dir: Path, kubelet_root: Path, *, mounts: Iterable[Mount]) -> list[Path]:
    """Removes the run directory and the driver's folder and socket at kubelet; returns folders that are not empty.

    Raises FAILED_PRECONDITION, with nothing removed, while the driver is in use here.
    """
    for mount in mounts:
        is_ours = mount.file_system_type == FILE_SYSTEM_TYPE
        if is_ours and any(beneath(mount.target, str(folder)) for folder in (run_dir, kubelet_root)):
            raise DriverError(Code.FAILED_PRECONDITION, f"{mount.target} is still mounted: nothing is removed")
    _refuse_if_locked(run_dir / "keeper.lock")
    for name in _FOLDERS:
        _empty(run_dir / name)
    for name in _FILES:
        _remove_file(run_dir / name)
    plugin = kubelet_root / "plugins" / driver.NAME
    _remove_file(plugin / "csi.sock")
    _remove_file(Path(registration.socket_endpoint(str(kubelet_root / "plugins_registry")).removeprefix("unix://")))
    return [folder for folder in (run_dir, plugin) if not _remove_folder(folder)]


def _refuse_if_locked(lock: Path) -> None:
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DriverError(Code.FAILED_PRECONDITION, f"a keeper runs at {lock.parent}: nothing is removed") from None


def _empty(folder: Path) -> None:
    """Removes files and sockets in ``folder``, and its folders when they are empty; links are never followed."""
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            _remove_file(Path(place, name))
        for name in folders:
            _remove_folder(Path(place, name))
    _remove_folder(folder)


def _remove_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()


def _remove_folder(path: Path) -> bool:
    """Removes a folder; False if it is there still: not empty, or a mount point."""
    with contextlib.suppress(OSError):
        path.rmdir()
    return not os.path.lexists(path)
