"""Rows of reopening: whether what the page cache has of a file is still good after other work."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench.reads import read_all
from bench.rows import BEGIN, KIB, Load, Row, fill, numbered

_FILES, _OTHERS = "16 files of 4 MiB", "150,000 files"


def _reopen(*, scan: bool = False) -> Load:
    """Files are read, then others are asked for their attributes, then the first are read again."""

    def load() -> Iterator[int]:
        paths = [f"{number:05}" for number in range(16)]
        for path in paths:
            read_all(path)
        if scan:
            for folder in numbered(150):
                for number in range(1000):
                    os.stat(f"../{_OTHERS}/{folder}/{number:05}")
        yield BEGIN
        for path in paths:
            read_all(path)
        yield len(paths)

    return load


ROWS = (
    Row(name="reopen, read 4 MiB, at once", load=_reopen(), state="just read", unit="file", data=_FILES),
    Row(
        name="reopen, read 512 KiB, just written by another node", load=_reopen(), unit="file",
        state="just read, nothing newer seen", on_server=lambda folder: fill(folder, count=16, size=512 * KIB),
    ),
    Row(
        name="reopen, read 4 MiB, after a stat of 150,000 files", load=_reopen(scan=True),
        state="read, then 150,000 others asked", unit="file", data=_FILES, beside=_OTHERS, once=True,
    ),
    Row(
        name="reopen, read 4 MiB, after a kill of the daemon", load=_reopen(), state="just read, another daemon",
        unit="file", data=_FILES, kills_daemon=True,
    ),
)  # fmt: skip
