"""What is there otherwise than it was known to be: objects are made anew by who has just found that they have gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from csi.base import driver
from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.operator import store as stores
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets.decision import decide
from csi.operator.datasets.notes import Notes
from csi.operator.datasets.reconciler import Reconciler
from csi.operator.datasets.settling import Settling
from csi.operator.store import Key, Store
from tests.unit.operator.samples import RUNTIME_UID, SETTINGS, UID
from tests.unit.operator.seen import NAME, dataset, first, metadata, runtime, settled, with_identity


class Api(Cluster):
    """An API server with what was made."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, dict[str, Any]] = {}

    async def get(self, path: str, *, not_older_than: str = "") -> Json | None:
        del not_older_than
        return self.objects.get(path)

    async def create(self, path: str, new: Json) -> Json:
        name = f"{path}/{new['metadata']['name']}"
        if name in self.objects:
            raise DriverError(Code.ALREADY_EXISTS, name)
        self.objects[name] = with_identity(dict(new), f"uid of number {len(self.objects)}")
        return self.objects[name]


@pytest.mark.parametrize("is_another_there", [False, True])
async def test_a_secret_that_has_gone_unseen_is_made_anew_at_once(*, is_another_there: bool) -> None:
    """Nobody watches Secrets, and they are read again one by one: with many Datasets that takes an hour."""
    api, seen = Api(), first()
    (wanted,) = (one for one in decide(seen, SETTINGS).objects if one["kind"] == "Secret")
    notes = Notes(uid=UID, runtime_uid=RUNTIME_UID)
    settling = Settling(api, Store(lambda *_: None), driver=driver.NAME)
    assert await settling.settle(notes, seen, [wanted])
    (path,) = api.objects
    if is_another_there:
        api.objects[path] = with_identity(wanted, "made anew by somebody")
    else:
        del api.objects[path]
    other = {**wanted, "data": {**wanted["data"], "more": "bW9yZQ=="}}
    assert await settling.settle(notes, seen, [other])
    assert await settling.settle(notes, seen, [other])
    known = notes.secrets
    assert known is not None
    assert known.authority is not None
    assert known.authority["metadata"]["uid"] == api.objects[path]["metadata"]["uid"]


async def test_what_has_gone_since_it_was_decided_is_decided_anew() -> None:
    """A claim would be made that the volume, which is the former one's, is never bound to."""
    api, seen = Api(), settled()
    decision = decide(seen, SETTINGS)
    objects = [one for one in decision.objects if one["kind"] != "Secret"]
    assert {one["kind"] for one in objects} == {"Service", "StatefulSet", "PersistentVolumeClaim", "PersistentVolume"}
    notes = Notes(uid=UID, runtime_uid=RUNTIME_UID)
    settling = Settling(api, Store(lambda *_: None), driver=driver.NAME)
    assert not await settling.settle(notes, seen, objects)
    assert api.objects == {}
    unseen = replace(seen, service=None, master=None, workers=None, claim=None, volumes=())
    assert await settling.settle(notes, unseen, objects)
    assert len(api.objects) == len(objects)


@pytest.mark.parametrize("resource", [stores.DATASETS, stores.RUNTIMES])
def test_the_end_of_a_pod_is_news_for_a_dataset_and_for_a_runtime_alone(resource: str) -> None:
    """A runtime whose Dataset was taken away by force waits for pods, too."""
    changed: list[tuple[str, Key]] = []
    store = Store(lambda *what: changed.append(what))
    store.saw(resource, dataset() if resource == stores.DATASETS else runtime())
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": NAME[1]}}]
    pod = {"metadata": metadata("user", "user"), "spec": {"volumes": volumes}, "status": {"phase": "Running"}}
    store.saw(stores.PODS, pod)
    store.saw(
        stores.PODS, {**pod, "metadata": metadata("user", "user", resourceVersion="2"), "status": {"phase": "Failed"}}
    )
    assert changed == [(resource, NAME), (stores.PODS, NAME), (stores.PODS, NAME)]


async def test_of_a_runtime_that_was_before_nothing_is_remembered() -> None:
    """Deleted and made anew within a moment, it was never seen to be gone; its Secrets go with it."""
    reconciler = Reconciler(Cluster(), SETTINGS, children=Children())
    former = reconciler._noted(NAME, dataset(), runtime())
    assert reconciler._noted(NAME, dataset(), runtime(status={"masterPhase": "Ready"})) is former
    again = runtime()
    again["metadata"]["uid"] = "another"
    assert reconciler._noted(NAME, dataset(), again) is not former
