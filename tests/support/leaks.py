"""What a test session may not leave behind: mounts, processes (hung ones above all), loop devices, folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import all_mounts, detach
from tests.support.processes import TimeLimitError, processes, wait_until


class LeakError(AssertionError):
    """Something was left behind; the message lists it."""


def require_sandbox() -> None:
    """Raises RuntimeError outside tests/support/sandbox, where mounts and processes of other people would be seen."""
    if os.environ.get("EFC_TEST_SANDBOX") != "1":
        raise RuntimeError("this test mounts file systems: run it with `tests/support/sandbox COMMAND`, as `make` does")


@contextmanager
def no_leaks() -> Iterator[None]:
    """Raises LeakError if there are more mounts, processes or folders of ours after the block than before."""
    before = set(_everything())
    yield

    def left() -> set[str]:
        return set(_everything()) - before

    try:
        wait_until(lambda: not left(), what="everything to be gone", limit_s=5, interval_s=0.1)
    except TimeLimitError:
        leaks = sorted(left())
        for mount in list(all_mounts()):
            if f"mount {mount.target} ({mount.kind})" in leaks:
                detach(mount.target)
        raise LeakError("left behind:\n  " + "\n  ".join(leaks)) from None


def _everything() -> Iterator[str]:
    for mount in all_mounts():
        yield f"mount {mount.target} ({mount.kind})"
    for process in processes():
        if process.state != "Z" and process.pid != os.getpid():
            hung = ", hung in the kernel" if process.state == "D" else ""
            yield f"process {process.pid} {process.command or process.name}{hung}"
    for entry in Path(tempfile.gettempdir()).iterdir():
        if entry.suffix != ".log" and not entry.name.startswith("pytest-of-"):
            yield f"path {entry}"
