"""Datasets whose files have rested: what has changed within ten seconds, by the NAS's clock, no cache keeps."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.nas import Nas
from tests.support.site import REST_S


@contextmanager
def rested_datasets(count: int, *, size: int, small_sizes: Sequence[int] = ()) -> Iterator[tuple[Nas, list[Path]]]:
    """A server, and so many datasets with a file of ``size`` each, and a folder of small ones, that have rested."""
    with Nas() as nas:
        folders = [Path(tempfile.mkdtemp(dir=nas.export_folder())) for _ in range(count)]
        for folder in folders:
            folder.chmod(0o777)
            (folder / "file").write_bytes(os.urandom(size))
            if small_sizes:
                (folder / "small").mkdir()
            for small_size in small_sizes:
                (folder / "small" / str(small_size)).write_bytes(os.urandom(small_size))
        time.sleep(REST_S)
        for folder in folders:
            (folder / "clock").touch()  # tells what the server's clock shows by now
        yield nas, folders
