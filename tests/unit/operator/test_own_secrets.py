"""Secrets of ours are read again one by one, and what was written meanwhile stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import own_secrets
from csi.operator.datasets.notes import Notes
from csi.operator.datasets.own_secrets import OwnSecrets
from csi.operator.datasets.seen import Secrets
from csi.operator.names import UID_LABEL, Names
from csi.operator.store import Key

_LIMIT_S = 30


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


class Api(Cluster):
    """An API server with the four Secrets of some Datasets; ``asked`` are names and versions, ``at_once`` how many."""

    def __init__(self, uids: list[str]) -> None:
        super().__init__()
        self.versions = {
            f"{uid}-efc-{part}": (uid, "7") for uid in uids for part in ("authority", "node", "master", "worker")
        }
        self.asked: list[tuple[str, str]] = []
        self.at_once, self._now = 0, 0
        self.hook: Callable[[str], None] = lambda _name: None

    async def get(self, path: str, *, not_older_than: str = "") -> Json | None:
        name = _name_of(path)
        self.asked.append((name, not_older_than))
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        self.hook(name)
        if name not in self.versions:
            return None
        uid, version = self.versions[name]
        return {"metadata": {"name": name, "resourceVersion": version, "labels": {UID_LABEL: uid}}}


def _key(uid: str) -> Key:
    return "default", uid


async def _noted(secrets: OwnSecrets, uids: list[str]) -> dict[Key, Notes]:
    names = {uid: Names(namespace="default", name=uid, uid=uid) for uid in uids}
    return {_key(uid): Notes(uid=uid, secrets=await secrets.read(names[uid])) for uid in uids}


def _version(secret: Json | None) -> str | None:
    return secret["metadata"]["resourceVersion"] if secret is not None else None


class Again:
    """Reads again for the time of an `async with`; ``changed`` are the keys that it told of."""

    def __init__(self, secrets: OwnSecrets, notes: dict[Key, Notes]) -> None:
        self.changed: list[Key] = []
        self._reading = secrets.read_again(notes, self.changed.append)

    async def __aenter__(self) -> Again:
        self._task = asyncio.create_task(self._reading)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert not self._task.done(), "it ends only when it is told to"
        self._task.cancel()
        await asyncio.wait({self._task})


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not condition():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_secrets, "_PER_SECOND", 1e5)
    monkeypatch.setattr(own_secrets, "_SECONDS_MIN", 0.0)


async def test_they_are_asked_for_one_by_one_by_the_version_that_is_known() -> None:
    api = Api(uids := ["a", "b", "c"])
    secrets = OwnSecrets(api)
    notes = await _noted(secrets, uids)
    assert {version for _, version in api.asked} == {""}, "the first time they are read as they are"
    api.asked.clear()
    api.at_once = 0
    async with Again(secrets, notes) as again:
        await _until(lambda: len(api.asked) >= 12)
    assert api.at_once == 1
    assert sorted(api.asked[:12]) == sorted((name, "7") for name in api.versions)
    assert again.changed == []


async def test_what_somebody_changed_or_deleted_is_told() -> None:
    api = Api(["a", "b"])
    secrets = OwnSecrets(api)
    notes = await _noted(secrets, ["a", "b"])
    api.versions["a-efc-node"] = ("a", "9")
    del api.versions["b-efc-worker"]
    api.versions["b-efc-master"] = ("somebody else's", "9")
    async with Again(secrets, notes) as again:
        await _until(lambda: len(again.changed) == 3)
    assert sorted(again.changed) == [_key("a"), _key("b"), _key("b")]
    first, second = (notes[_key(uid)].secrets or Secrets() for uid in ("a", "b"))
    assert [_version(one) for one in first.all()] == ["7", "9", "7", "7"]
    assert [_version(one) for one in second.all()] == ["7", "7", None, None]


async def test_what_we_write_while_it_is_read_stays() -> None:
    api = Api(["a"])
    secrets = OwnSecrets(api)
    notes = await _noted(secrets, ["a"])
    written: dict[str, Any] = {"metadata": {"name": "a-efc-node", "resourceVersion": "20"}}

    def write(name: str) -> None:
        if name == "a-efc-node" and notes[_key("a")].secrets is before:
            notes[_key("a")].secrets = Secrets(node=written)

    before = notes[_key("a")].secrets
    api.hook = write
    api.versions["a-efc-node"] = ("a", "19")
    async with Again(secrets, notes):
        await _until(lambda: len(api.asked) >= 7)
    kept = notes[_key("a")].secrets
    assert kept is not None
    assert kept.node == written


async def test_an_api_server_that_is_away_is_asked_no_more_often() -> None:
    """And all is read when it is back."""
    api = Api(["a"])
    secrets = OwnSecrets(api)
    notes = await _noted(secrets, ["a"])
    away = True

    def refuse(_name: str) -> None:
        if away:
            raise DriverError(Code.UNAVAILABLE, "the API server is away")

    api.hook = refuse
    api.versions["a-efc-worker"] = ("a", "8")
    async with Again(secrets, notes) as again:
        await _until(lambda: len(api.asked) >= 8)
        assert (api.at_once, again.changed) == (4, [])  # four when all were read
        away = False
        await _until(lambda: again.changed == [_key("a")])
