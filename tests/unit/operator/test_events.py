"""Events are objects as well: their names must be names, however long the Dataset's is."""

from __future__ import annotations

import re
from typing import Any

import pytest

from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets.events import Events
from csi.operator.datasets.reconciler import Reconciler
from csi.operator.datasets.seen import WARNING, Deletion, Event
from csi.operator.store import CLAIMS
from tests.unit.operator.samples import SETTINGS
from tests.unit.operator.seen import NAME, dataset, settled

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


async def test_a_deletion_that_is_refused_is_said_and_tried_again() -> None:
    """By somebody's policy, for example: the Dataset would stay in deletion without a word."""

    class Refusing(Api):
        async def delete(self, path: str, *, uid: str) -> None:
            raise DriverError(
                Code.PERMISSION_DENIED, f"DELETE {path} of {uid}: policy 'keep claims' denied the request"
            )

    api = Refusing()
    reconciler = Reconciler(api, SETTINGS, children=Children())
    deletion = Deletion(resource=CLAIMS, name=NAME, uid="claim")
    for _ in range(2):
        with pytest.raises(DriverError, match="denied"):
            await reconciler._delete(settled(), deletion)
    assert [made["involvedObject"]["kind"] for made in api.made] == ["Dataset", "EFCRuntime"]
    assert all("keep claims" in made["message"] for made in api.made)
