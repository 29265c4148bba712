"""What applications have written to a file that grew is read back whole from the next daemon on."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from tests.support.keeper import Keeper
from tests.support.nas import Nas

#: Each is a chance: the kernel ignores a size that comes while its pages are being dropped.
FILES = 50
CONTENT, MORE = b"2345", b"678"


def test_a_successor_does_not_believe_that_a_file_is_as_short_as_it_was(nas: Nas, keeper: Keeper) -> None:
    """Its pages were noted when it had one byte, and nothing is noted of what the kernel has written since."""
    for number in range(FILES):
        (nas.export_folder() / f"grown-{number}").write_bytes(b"1")
    with keeper.mounted(nas.url, options=["attr-ttl=0s"]) as mount, ExitStack() as stack:
        paths = [mount / f"grown-{number}" for number in range(FILES)]
        assert {path.stat().st_size for path in paths} == {1}
        time.sleep(0.1)  # longer than a tick of the server's clock
        pairs = []
        for path in paths:
            pairs.append([os.open(path, os.O_RDWR) for _ in range(2)])
            for file in pairs[-1]:
                stack.callback(os.close, file)
        assert {os.pread(first, 20, 0) for first, _ in pairs} == {b"1"}
        assert {os.pwrite(first, CONTENT, 0) for first, _ in pairs} == {len(CONTENT)}
        keeper.replace_daemon(mount)
        assert {os.pread(file, 20, 0) for pair in pairs for file in pair} == {CONTENT}
        assert {os.pwrite(second, MORE, len(CONTENT)) for _, second in pairs} == {len(MORE)}
        assert {os.pread(file, 20, 0) for pair in pairs for file in pair} == {CONTENT + MORE}
        assert {os.fstat(file).st_size for pair in pairs for file in pair} == {len(CONTENT + MORE)}
