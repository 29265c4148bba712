"""Figures are written into an object once in five seconds at most; what else there is to say, at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from csi.api.status import DatasetStatus
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import paths, statuses, writing
from csi.operator.datasets.notes import Notes
from csi.operator.datasets.writing import FIGURES_SECONDS, Writing
from csi.operator.store import Key, Store
from csi.operator.work_queue import WorkQueue
from tests.unit.operator.seen import dataset

_FIELDS = {str(one.alias) for one in DatasetStatus.model_fields.values()}


class Api(Cluster):
    """An API server that takes every status of one Dataset."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = dataset(status={"phase": "Bound", "ufsTotal": "0.00B"})
        self.written: list[dict[str, Any]] = []

    async def merge(self, path: str, changes: Json) -> Json:
        assert path.endswith("/status")
        self.written.append(dict(changes["status"]))
        self.found = {**self.found, "status": {**self.found["status"], **changes["status"]}}
        return self.found


def test_figures_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(writing, "clock", lambda: now)

    async def story() -> None:
        nonlocal now
        api = Api()
        queue: WorkQueue[Key] = WorkQueue()
        written, notes = Writing(api, Store(lambda *_: None), queue), Notes()

        async def say(**status: str) -> None:
            wanted = {**api.found["status"], **status}
            await written.write_status(notes, paths.DATASET, api.found, wanted=wanted, fields=_FIELDS)

        for number in range(1, 50):
            await say(ufsTotal=f"{number}.00B")
            now += 0.1
        assert api.written == [{"ufsTotal": "1.00B"}]
        await say(phase="Failed", ufsTotal="60.00B")
        assert api.written[1:] == [{"phase": "Failed", "ufsTotal": "60.00B"}]
        now += FIGURES_SECONDS - 0.1
        await say(ufsTotal="61.00B")
        assert len(api.written) == 2
        now += 0.2
        await say(ufsTotal="62.00B")
        assert api.written[2:] == [{"ufsTotal": "62.00B"}]

    asyncio.run(story())


def _runtime_status(*, ready: bool, words: str) -> dict[str, Any]:
    fuses = {"type": "FusesReady", "status": str(ready), "reason": "Ready" if ready else "NotReady"}
    return {"fuseReason": words, "conditions": [{**fuses, "message": words, "lastProbeTime": f"when it was {words}"}]}


def test_what_nodes_say_in_words_is_a_figure() -> None:
    """How much room a full disk has is another number each second, for ever."""
    before = _runtime_status(ready=True, words="n1: 17 MiB free")
    assert statuses.differs_in_figures_only(before, _runtime_status(ready=True, words="n1: 18 MiB free"))
    assert not statuses.differs_in_figures_only(before, _runtime_status(ready=False, words="n1: 17 MiB free"))
