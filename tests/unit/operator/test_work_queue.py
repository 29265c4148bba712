"""Keys are worked on one at a time, none is lost, and what fails comes again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from csi.base.errors import Code, DriverError
from csi.operator import work_queue
from csi.operator.work_queue import WorkQueue


@contextlib.asynccontextmanager
async def running(
    queue: WorkQueue[str], work: Callable[[str], Awaitable[None]], workers: int = 4
) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(work, workers=workers))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # of what tells nobody
            await asyncio.sleep(0.001)


async def test_a_key_is_worked_on_by_one_at_a_time_and_again_for_what_came_meanwhile() -> None:
    queue: WorkQueue[str] = WorkQueue()
    at_once: Counter[str] = Counter()
    most: Counter[str] = Counter()
    done: Counter[str] = Counter()

    async def work(key: str) -> None:
        at_once[key] += 1
        most[key] = max(most[key], at_once[key])
        if done[key] < 5:
            queue.add(key)
            queue.add(key)
        await asyncio.sleep(0.002)
        at_once[key] -= 1
        done[key] += 1

    async with running(queue, work):
        for key in "abcdefgh":
            queue.add(key)
        await until(lambda: all(done[key] == 6 for key in "abcdefgh"))
        await asyncio.sleep(0.02)
    assert set(most.values()) == {1}
    assert all(done[key] == 6 for key in "abcdefgh")


async def test_what_fails_is_tried_again_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "BACK_OFF_SECONDS_MIN", 0.001)
    queue: WorkQueue[str] = WorkQueue()
    tries: Counter[str] = Counter()

    async def work(key: str) -> None:
        tries[key] += 1
        if key == "bad" and tries[key] < 4:
            raise DriverError(Code.UNAVAILABLE, "away") if tries[key] % 2 else ValueError("a bug")

    async with running(queue, work, workers=1):
        queue.add("bad")
        queue.add("good")
        await until(lambda: tries["bad"] == 4 and tries["good"] == 1)


async def test_the_earliest_of_several_times_holds() -> None:
    queue: WorkQueue[str] = WorkQueue()
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(_: str) -> None:
        times.append(loop.time())

    async with running(queue, work):
        began = loop.time()
        queue.add_later("key", 30)
        queue.add_later("key", 0.02)
        queue.add_later("key", 10)
        await until(lambda: bool(times))
        await asyncio.sleep(0.05)
    assert len(times) == 1
    assert times[0] - began >= 0.02


async def test_what_is_planned_goes_with_the_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    async with running(queue, work):
        queue.add_later("gone", 0.01)
        queue.forget("gone")
        await asyncio.sleep(0.05)
    assert not done
