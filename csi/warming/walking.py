"""Finds the files: walks directories in the order of their listings, the files of each before its subdirectories.

Symbolic links are not followed, other file systems not entered, and of several names of one file only the first counts.
That is tracked for :data:`LINKED_FILES_MAX` files; further ones are read once under each of their names. Changes during
a walk may be seen or not, as with any listing.
"""

import errno
import fnmatch
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from csi.warming.tally import Tally

#: Files with several names that are remembered.
LINKED_FILES_MAX = 1_000_000
#: Directories that were found and not yet listed.
DIRECTORIES_WAITING_MAX = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """A file or directory that is to be read, and the device number of the file system that it must lie on."""

    path: str
    device: int


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A regular file as it was found; times in ns since 1970, ``seen_at`` in seconds of the monotonic clock."""

    path: str
    device: int
    size: int
    mtime_ns: int
    ctime_ns: int
    seen_at: float
    #: It was named, not found in a directory: that it is not there is a failure.
    is_root: bool = False

    def is_same_as(self, status: os.stat_result) -> bool:
        """Whether it has not changed since it was found."""
        now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return now == (self.size, self.mtime_ns, self.ctime_ns)


def _ignore(_ctime_ns: int) -> None:
    """Shown to nobody."""


class Walk:
    """Finds the files of some roots, whose names match one of ``globs`` if there are any; counts them in a tally.

    ``show_ctime`` is called with the ctime of each file and directory, in ns since 1970, as soon as it is known.
    """

    def __init__(
        self, roots: Sequence[Root], *, globs: Sequence[str], tally: Tally, show_ctime: Callable[[int], None] = _ignore
    ) -> None:
        self._roots, self._globs, self._tally, self._show_ctime = roots, globs, tally, show_ctime
        self._linked: set[tuple[int, int]] = set()

    def files(self) -> Iterator[File]:
        """All of them, one after the other. What cannot be looked at is counted as failed."""
        for root in self._roots:
            try:
                status = os.lstat(root.path)
            except OSError as error:
                self._tally.fail(root.path, error.errno or errno.EIO)
                continue
            if stat.S_ISLNK(status.st_mode):
                self._tally.fail(root.path, errno.ELOOP)  # what it leads to can be named
            elif status.st_dev != root.device:
                self._tally.fail(root.path, errno.EXDEV)
            elif stat.S_ISDIR(status.st_mode):
                self._show_ctime(status.st_ctime_ns)
                yield from self._below(root)
            else:
                yield from self._taken(root.path, status, root, is_root=True)
        self._tally.walked()

    def _below(self, root: Root) -> Iterator[File]:
        waiting = [root.path]
        while waiting:
            directories: list[str] = []
            yield from self._in(waiting.pop(), root, directories)
            room = max(0, DIRECTORIES_WAITING_MAX - len(waiting))
            for path in directories[room:]:
                self._tally.fail(path, errno.ENOMEM)
            waiting += reversed(directories[:room])

    def _in(self, directory: str, root: Root, directories: list[str]) -> Iterator[File]:
        """The files of one directory; its directories are added to ``directories``."""
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    yield from self._entry(entry, root, directories)
        except OSError as error:
            self._gone_or_failed(directory, error, is_root=directory == root.path)

    def _entry(self, entry: "os.DirEntry[str]", root: Root, directories: list[str]) -> Iterator[File]:
        try:
            is_directory = entry.is_dir(follow_symlinks=False)
            if not is_directory and not entry.is_file(follow_symlinks=False):
                self._tally.add(files_other=1)
                return
            if not is_directory and not self._is_wanted(entry, root):
                return
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._gone_or_failed(entry.path, error, is_root=False)
            return
        if status.st_dev != root.device:
            self._tally.add(files_other=1)
        elif is_directory:
            self._show_ctime(status.st_ctime_ns)
            directories.append(entry.path)
        else:
            yield from self._taken(entry.path, status, root)

    def _is_wanted(self, entry: "os.DirEntry[str]", root: Root) -> bool:
        """A pattern with a slash is compared with the path below the root, another one with the name."""
        below = entry.path[len(root.path) :].lstrip("/")
        return not self._globs or any(
            fnmatch.fnmatchcase(below if "/" in pattern else entry.name, pattern) for pattern in self._globs
        )

    def _taken(self, path: str, status: os.stat_result, root: Root, *, is_root: bool = False) -> Iterator[File]:
        if not stat.S_ISREG(status.st_mode):
            self._tally.add(files_other=1)
            return
        if status.st_nlink > 1 and not self._is_first_name(status):
            self._tally.add(files_linked=1)
            return
        self._show_ctime(status.st_ctime_ns)
        self._tally.add(files_found=1, bytes_found=status.st_size)
        yield File(
            path=path,
            device=root.device,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            seen_at=time.monotonic(),
            is_root=is_root,
        )

    def _is_first_name(self, status: os.stat_result) -> bool:
        key = (status.st_dev, status.st_ino)
        if key in self._linked:
            return False
        if len(self._linked) < LINKED_FILES_MAX:
            self._linked.add(key)
        return True

    def _gone_or_failed(self, path: str, error: OSError, *, is_root: bool) -> None:
        if has_vanished(error) and not is_root:
            self._tally.add(files_vanished=1)
        else:
            self._tally.fail(path, error.errno or errno.EIO)


def has_vanished(error: OSError) -> bool:
    """Whether an error says that a file is no longer there."""
    return error.errno in (errno.ENOENT, errno.ESTALE)
