"""The files of a training: of 4 to 150 KiB, sizes and contents drawn from a seed, in a hundred directories."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

DIRECTORIES = 100
SIZE_MIN, SIZE_MAX = 4 << 10, 150 << 10
SEED = 1
_STEP_BYTES = 64


def sizes(files: int) -> Iterator[int]:
    """As many between 8 and 16 KiB as between 16 and 32: 40 KiB in the mean."""
    draw = random.Random(SEED)
    for _ in range(files):
        yield int(SIZE_MIN * (SIZE_MAX / SIZE_MIN) ** draw.random())


def make(folder: Path, files: int) -> None:
    """All of them. `files` is a multiple of the number of directories; no two contents are alike."""
    block = random.Random(SEED).randbytes(SIZE_MAX + _STEP_BYTES * files)
    for number in range(DIRECTORIES):
        (folder / f"{number:03}").mkdir(parents=True)
    for number, size in enumerate(sizes(files)):
        path = folder / f"{number % DIRECTORIES:03}" / f"{number // DIRECTORIES:04}"
        first = number * _STEP_BYTES
        path.write_bytes(block[first : first + size])
