"""What the quick start reads and writes: files whose bytes follow from their name, and their checksums.

Made at memory speed, and still without two pages that are alike anywhere: the bytes of a file are one random megabyte,
turned by an odd amount per megabyte, so that a page of another file, of another place or of zeros is always noticed.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
DIRECTORIES, FILES_PER_DIRECTORY = 100, 101
BIG_FILE = "big/2-gib.bin"
BIG_FILE_BYTES = 2 << 30

Checksums = dict[str, str]  # of paths relative to the tree's root
Advance = Callable[[int], None]  # called with the bytes done since the last call

_MEGABYTE = random.Random("EFC quick start").randbytes(MIB) * 2


def part(name: str, index: int) -> bytes:
    """Megabyte number `index` of the file called `name`."""
    turn = (int.from_bytes(hashlib.blake2s(name.encode(), digest_size=4).digest()) + index * 4099) % MIB
    return _MEGABYTE[turn : turn + MIB]


def parts(name: str, size: int) -> Iterator[bytes]:
    """All bytes of a file, megabyte by megabyte."""
    for index in range((size + MIB - 1) // MIB):
        yield part(name, index)[: size - index * MIB]


def write_file(path: Path, name: str, size: int, advance: Advance) -> str:
    """Writes a file through to its disk and returns its checksum."""
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for data in parts(name, size):
            file.write(data)
            digest.update(data)
            advance(len(data))
    return digest.hexdigest()


def small_files() -> Iterator[tuple[str, int]]:
    """Names and sizes of the tree's small files: empty ones, odd ones, 7 KiB on average."""
    for directory in range(DIRECTORIES):
        for number in range(FILES_PER_DIRECTORY):
            yield f"directory-{directory:03}/file-{number:03}", (directory * 131 + number * number * 7919) % 14_337


def make_tree(root: Path, advance: Advance) -> Checksums:
    """Makes the whole tree; returns what must be read from it."""
    checksums: Checksums = {}
    for name, size in [*small_files(), (BIG_FILE, BIG_FILE_BYTES)]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        checksums[name] = write_file(path, name, size, advance)
    return checksums


def tree_bytes() -> int:
    """Size of what `make_tree` makes."""
    return sum(size for _, size in small_files()) + BIG_FILE_BYTES


def file_names(root: Path, *, count_max: int | None = None) -> list[str]:
    """Regular files below `root` in directory order, relative to it; symlinks are not followed."""
    found: list[str] = []
    for folder, directories, files in os.walk(root):
        directories.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if not path.is_symlink() and path.is_file():
                found.append(str(path.relative_to(root)))
            if count_max is not None and len(found) >= count_max:
                return found
    return found


def checksum(path: Path, advance: Advance) -> str:
    """SHA-256 of a file as it is read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(MIB):
            digest.update(data)
            advance(len(data))
    return digest.hexdigest()


def drop_from_page_cache(path: Path) -> None:
    """Lets the next reader find nothing of a file in this machine's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
