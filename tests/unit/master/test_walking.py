"""What of a NAS is asked for a Dataset's totals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from csi._proto import dataset_pb2
from csi.master.core import Core
from csi.master.signal import Changes
from csi.master.walking import Walking, _opened

_LIMIT_S = 30
_WALKED = '{"bytes": 1, "files": 1, "directories": 1, "skipped": 0, "unchecked": 0, "done": true, "checkpoint": ""}'


@pytest.mark.parametrize(
    ("root", "opened"),
    [
        ("", ("nfs://nas/data/team/x", "")),
        ("nfs://nas/data/team/x", ("nfs://nas/data/team/x", "")),
        ("nfs://nas/data", ("nfs://nas/data", "team/x")),
        ("nfs://nas/", ("nfs://nas/", "data/team/x")),
    ],
)
def test_a_source_is_opened_from_its_root_on(root: str, opened: tuple[str, str]) -> None:
    assert _opened(dataset_pb2.SourceMount(source="nfs://nas/data/team/x", root=root)) == opened


class Counting:
    """A master's walks with a program that counts one file at once; ``runs`` has a line for each."""

    def __init__(self, folder: Path, *, watchers: int) -> None:
        self.core, self.changes = Core(watchers=watchers), Changes()
        self.walking = Walking(self.core, self.changes)
        self._runs = folder / "runs"
        program = folder / "efc-fs"
        program.write_text(f"#!/bin/sh\necho >> {self._runs}\necho '{_WALKED}'\n")
        program.chmod(0o755)
        self.walking._program = str(program)
        mounts = [dataset_pb2.SourceMount(source="nfs://nas/data")]
        self.core.configure(dataset_pb2.Configuration(revision=1, mounts=mounts, walk_every_ms=100))

    def runs(self) -> int:
        return len(self._runs.read_text()) if self._runs.exists() else 0

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.walking.watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_LIMIT_S):
            while not condition():  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(0.01)


async def test_a_clock_that_is_put_back_delays_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, real = Counting(tmp_path, watchers=1), time.time
    async with counting.under_way():
        await counting.until(lambda: counting.core.totals.known is not None)
        monkeypatch.setattr(time, "time", lambda: real() - 86_400)
        before = counting.runs()
        await counting.until(lambda: counting.runs() > before + 1)


async def test_a_master_that_nobody_watches_counts_nothing(tmp_path: Path) -> None:
    """One that led until another one did would go on for ever, beside that one."""
    counting = Counting(tmp_path, watchers=0)
    async with counting.under_way():
        await asyncio.sleep(0.5)
        assert counting.runs() == 0
        counting.core.watchers = 1
        counting.changes.note()
        await counting.until(lambda: counting.runs() > 1)
