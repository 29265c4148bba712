"""What is asked of the API server for a Dataset: what its user names is never anybody else's."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from csi.api.dataset import Dataset
from csi.api.sources import SECRETS_MAX
from csi.base.errors import DriverError
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import paths
from csi.operator.datasets.looking import Looking
from csi.operator.datasets.notes import Notes
from csi.operator.masters import Masters
from csi.operator.store import Key, Store
from csi.operator.work_queue import WorkQueue
from tests.unit.operator.seen import dataset


class Api(Cluster):
    """An API server that has any Secret; ``asked`` are the paths."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def get(self, path: str, *, not_older_than: str = "") -> Json | None:
        del not_older_than
        self.asked.append(path)
        return {"metadata": {"resourceVersion": "1"}, "data": {"k": base64.b64encode(b"3s").decode()}}


async def _options(api: Api, names: list[str]) -> dict[str, dict[str, str]]:
    options = [{"name": "attr-ttl", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}} for name in names]
    found: Any = dataset(spec={"sharedEncryptOptions": options})
    queue: WorkQueue[Key] = WorkQueue()
    looking = Looking(api, Store(lambda *_: None), Masters(lambda *_: None), queue)
    try:
        return await looking._options(Notes(), Dataset.model_validate(found))
    finally:
        queue.forget(("default", "efc-demo"))


async def test_no_name_leads_into_another_namespace() -> None:
    api = Api()
    found = await _options(api, ["../../other/secrets/token", "..", "a?x=1", "nas"])
    assert api.asked == ["/api/v1/namespaces/default/secrets/nas"]
    assert found == {"nas": {"k": "3s"}}


async def test_more_secrets_than_there_may_be_are_not_read() -> None:
    api = Api()
    assert await _options(api, [f"s{number}" for number in range(SECRETS_MAX + 1)]) == {}
    assert api.asked == []


@pytest.mark.parametrize("name", [("team", "../../x"), ("..", "x"), ("team", ""), ("", "x"), ("team", "a?b")])
def test_a_path_is_of_one_object(name: tuple[str, str]) -> None:
    with pytest.raises(DriverError, match="is not the name"):
        paths.SECRET.path(name)
