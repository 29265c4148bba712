"""Events are objects as well: their names must be names, however long the Dataset's is."""

from __future__ import annotations

import re
from typing import Any

import pytest

from csi.operator.cluster import Cluster, Json
from csi.operator.datasets.events import Events
from csi.operator.datasets.seen import WARNING, Event
from tests.unit.operator.test_decision import dataset

#: RFC 1123, which the API server goes by.
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Api(Cluster):
    """An API server that takes any event."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Json] = []

    async def create(self, path: str, new: Json) -> Json:
        assert path == "/api/v1/namespaces/default/events"
        self.made.append(new)
        return new


@pytest.mark.parametrize(
    "name", ["a", "a" * 253, "a" * 199 + "-" + "b" * 53, "a" * 199 + "." + "b" * 53, "a" * 190 + "-" * 62 + "b"]
)
async def test_the_name_of_an_event_is_one(name: str) -> None:
    api, about = Api(), dataset()
    about["metadata"]["name"] = name
    event: dict[str, Any] = {"about": about, "kind": "Dataset", "type": WARNING, "reason": "NoRuntime", "message": "m"}
    await Events(api).post(Event(**event))
    (made,) = api.made
    assert _SUBDOMAIN.fullmatch(made["metadata"]["name"])
    assert len(made["metadata"]["name"]) <= 253
