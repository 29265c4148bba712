"""A collection is kept in step with a server that is played: each watch is a list of events, or an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster, Json, Listed
from csi.operator.watching import Resource, Watching

_WATCHES = 8
Event = tuple[str, Json]


class Played(Cluster):
    """Lists ``items``; each watch has the next of ``watches``, and then none ever comes back."""

    def __init__(self, items: list[list[Json]], watches: list[list[Event] | DriverError]) -> None:
        super().__init__()
        self._items, self._watches = items, watches
        self.since: list[str] = []
        self.over = asyncio.Event()

    async def pages(self, path: str, *, labels: str = "") -> AsyncIterator[Listed]:
        del path, labels
        items = self._items.pop(0)
        newest = max((int(one["metadata"]["resourceVersion"]) for one in items), default=5)
        yield Listed(items=items, resource_version=str(newest))

    async def watch(self, path: str, *, since: str, labels: str = "") -> AsyncIterator[Event]:
        del path, labels
        self.since.append(since)
        if not self._watches:
            self.over.set()
            await asyncio.Event().wait()
        events = self._watches.pop(0)
        if isinstance(events, DriverError):
            raise events
        for event in events:
            yield event


def one(name: str, uid: str, version: int) -> Json:
    return {"metadata": {"namespace": "default", "name": name, "uid": uid, "resourceVersion": str(version)}}


async def followed(played: Played, monkeypatch: pytest.MonkeyPatch) -> tuple[Watching, list[Any], list[float]]:
    """What came of it: the changes that were told, and the pauses between watches."""
    told: list[Any] = []
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("csi.operator.watching.asyncio.sleep", pause)
    followed = Watching(
        Resource(name="things", path="/things"),
        reduce=lambda found: found,
        changed=lambda old, new: told.append(tuple(found and found["metadata"]["uid"] for found in (old, new))),
    )
    task = asyncio.create_task(followed.run(played))
    async with asyncio.timeout(20):
        await played.over.wait()
    task.cancel()
    await asyncio.wait({task})
    return followed, told, pauses


async def test_watches_that_end_at_once_are_begun_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a proxy which cuts all of them off costs neither it nor us a processor."""
    _, _, pauses = await followed(Played([[]], [[] for _ in range(_WATCHES)]), monkeypatch)
    assert len(pauses) == _WATCHES
    assert all(pause >= 0.1 for pause in pauses)
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 5


async def test_an_object_made_anew_while_nobody_watched_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = DriverError(Code.OUT_OF_RANGE, "too old resource version")
    items = [[one("a", "first", 7), one("b", "b", 8)], [one("a", "second", 20)]]
    played = Played(items, [gone, [("DELETED", one("a", "first", 19))]])
    kept, told, _ = await followed(played, monkeypatch)
    assert played.since == ["8", "20", "19"]
    assert told == [(None, "first"), (None, "b"), ("first", "second"), ("b", None)]
    assert [found["metadata"]["uid"] for found in kept.objects.values()] == ["second"]


class Answering(Played):
    """In the middle of its second list an answer to a request of ours comes."""

    def __init__(self, items: list[list[Json]], watches: list[list[Event] | DriverError], *, answer: Json) -> None:
        super().__init__(items, watches)
        self._answer = answer
        self.answered: Watching | None = None

    async def pages(self, path: str, *, labels: str = "") -> AsyncIterator[Listed]:
        async for page in super().pages(path, labels=labels):
            yield page
            if self.answered is not None and not self._items:
                self.answered.saw(self._answer)


@pytest.mark.parametrize(("version", "is_kept"), [(21, True), (20, False)])
async def test_what_is_made_during_a_list_is_kept_and_no_more_than_that(version: int, *, is_kept: bool) -> None:
    """Of what the list does not have, newer objects are to come by the watch; all others have been deleted."""
    told: list[bool] = []
    watching = Watching(
        Resource(name="things", path="/things"),
        reduce=lambda found: found,
        changed=lambda _, new: told.append(new is not None),
    )
    others = [one("a", "a", 20)]
    played = Answering([others, others], [], answer=one("made", "made", version))
    await watching._list(played)
    played.answered = watching
    await watching._list(played)
    assert (("default", "made") in watching.objects) == is_kept
    assert told == ([True, True] if is_kept else [True, True, False])
    watching.saw(one("late", "late", 19))
    assert ("default", "late") not in watching.objects, "it was deleted before the list"
    watching.saw(one("new", "new", 22))
    assert ("default", "new") in watching.objects
