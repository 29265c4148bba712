"""What torch's DataLoader does, without torch: worker processes by fork and by spawn, which map samples into memory."""

import hashlib
import mmap
import multiprocessing
import os
import sys
from pathlib import Path

COUNT, WORKERS = 400, 4


def sample(path: Path) -> bool:
    """A sample through a memory map, as map-style data sets read it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return hashlib.sha256(data[32:]).digest() == data[:32]


def main() -> None:
    folder = Path(sys.argv[1]) / "samples"
    folder.mkdir()
    paths = [folder / f"{number}.bin" for number in range(COUNT)]
    for number, path in enumerate(paths):
        data = os.urandom(5_000 + number * 97)
        path.write_bytes(hashlib.sha256(data).digest() + data)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(WORKERS) as pool:
            for _epoch in range(2):
                assert all(pool.imap_unordered(sample, paths, chunksize=8))
    print("all as written")


if __name__ == "__main__":
    main()
