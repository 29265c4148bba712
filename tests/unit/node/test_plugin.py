"""What goes on beside the calls of a node plugin."""

import asyncio
from pathlib import Path

import pytest

from csi.base.children import Children
from csi.node import plugin
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper
from csi.node.mounts import Mounts
from csi.node.plugin import watch_always


async def test_a_watch_that_ends_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_AGAIN_SECONDS", 0.001)
    begun = asyncio.Queue[int]()

    async def watch() -> None:
        begun.put_nowait(1)
        raise KeyError("whatever it is")

    watching = asyncio.create_task(watch_always(watch))
    for _ in range(3):
        await asyncio.wait_for(begun.get(), timeout=10)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_daemons_are_watched_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one of several watches ends, none goes on beside those that are begun anew."""
    keeper = Keeper(str(tmp_path))
    going: set[str] = set()

    class Program:
        async def watch(self) -> None:
            going.add("program")
            try:
                await asyncio.Event().wait()
            finally:
                going.remove("program")

    async def fails() -> None:
        await asyncio.sleep(0.01)
        assert going == {"program"}
        raise KeyError("whatever it is")

    daemons = Daemons(
        run_dir=str(tmp_path), keeper=keeper, mounts=Mounts(children=Children()), idle_grace_seconds=1,
        program=Program(),  # type: ignore[arg-type]  # as much of it as is watched
    )  # fmt: skip
    monkeypatch.setattr(daemons._sessions, "watch", fails)
    with pytest.raises(ExceptionGroup):
        await daemons.watch()
    assert going == set()
