"""The daemon's program as memory that nobody can change."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading

import pytest

from csi.node import program


def test_memory_that_is_in_use_for_a_moment_is_sealed_afterwards() -> None:
    memory = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, mmap.PAGESIZE)
    mapping = mmap.mmap(memory, mmap.PAGESIZE)
    with pytest.raises(OSError, match="busy"):
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    closer = threading.Timer(0.1, mapping.close)
    closer.start()
    program._seal(memory)
    closer.join()
    with pytest.raises(PermissionError):
        os.pwrite(memory, b"x", 0)
    os.close(memory)
