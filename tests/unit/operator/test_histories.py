"""Datasets and runtimes that are made, deleted and made anew at odd moments: at the end there is what there should be.

The operator's own reconciler against an API server that is played (:mod:`tests.unit.operator.model`), whose watches
lag each by a time of its own. `OPERATOR_HISTORIES` is how many histories are played, from `OPERATOR_SEED` on.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from csi.base.children import Children
from csi.operator.datasets import paths
from csi.operator.datasets.reconciler import Reconciler
from csi.operator.datasets.seen import Place
from tests.unit.operator.model.api import Api
from tests.unit.operator.model.clock import run
from tests.unit.operator.samples import SETTINGS

_NAME = ("default", "demo")
_PATHS = {kind: paths.KINDS[kind].path(_NAME) for kind in ("Dataset", "EFCRuntime")}
_SPECS: dict[str, dict[str, Any]] = {
    "Dataset": {"mounts": [{"mountPoint": "nfs://nas:/data"}], "placement": "Shared"},
    "EFCRuntime": {"replicas": 1},
}
#: Where the data may be, and as volumes say it.
_SOURCES = {"nfs://nas:/data": "nfs://nas/data", "nfs://nas:/other": "nfs://nas/other"}
_POD = paths.POD.path((_NAME[0], "user"))
_HISTORIES, _SEED = int(os.environ.get("OPERATOR_HISTORIES", "40")), int(os.environ.get("OPERATOR_SEED", "0"))
_STEPS = 12
#: How often users wait for what goes and make it anew at once, and how often they wait at all.
_RENEWED, _PAUSED = 0.3, 0.6
#: Of the played clock: after which all that is under way has come to an end.
_SETTLED_SECONDS = 120.0
_POLL_SECONDS, _POLLS_MAX = 0.01, 500


class Operators:
    """One after the other, and two for a moment."""

    def __init__(self, api: Api, choice: random.Random) -> None:
        self._api, self._choice = api, choice
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """One more."""
        reconciler = Reconciler(self._api, SETTINGS, children=Children())
        reconciler._prober = _Reached()  # type: ignore[assignment]
        self.tasks.append(asyncio.create_task(reconciler.run()))

    def replace(self) -> None:
        """Has another one come, and the former one go now or soon."""
        former = self.tasks[-1]
        asyncio.get_running_loop().call_later(self._choice.choice([0.0, 0.5, 5.0]), former.cancel)
        self.start()


class History:
    """What users do, and what they may expect of it."""

    def __init__(self, api: Api, operators: Operators, choice: random.Random) -> None:
        self._api, self._operators, self._choice = api, operators, choice
        self.said: list[str] = []
        #: By the kind: the UID of what is there by right, and has to stay; "" for none.
        self.uids = dict.fromkeys(_PATHS, "")

    async def play(self) -> None:
        """All steps, and then the end of all pods."""
        for _ in range(_STEPS):
            self._step()
            if self._choice.random() < _RENEWED:
                await self.renew(*self._some())
            if self._choice.random() < _PAUSED:
                await asyncio.sleep(self._choice.choice([0.05, 0.3, 1.0, 5.0]))
        await asyncio.sleep(self._choice.choice([0.0, 1.0, 20.0]))
        self._api.deleted(_POD)

    def _step(self) -> None:
        choice = self._choice.randrange(9)
        if choice < 2:
            self.make(*self._some())
        elif choice < 4:
            self.delete(self._choice.choice(list(_PATHS)))
        else:
            others = [
                self._use, self._api.forget_events, self._operators.replace, self._tear, self._force, self._move,
            ]  # fmt: skip
            self._choice.choice(others)()

    def _tear(self) -> None:
        """Somebody deletes what belongs to the Dataset."""
        parts = [path for path in self._api.objects if path not in (*_PATHS.values(), _POD)]
        if parts:
            path = self._choice.choice(parts)
            self.said.append(f"delete {path.split('/')[-2]}")
            self._api.deleted(path)

    def _move(self) -> None:
        """The Dataset's data is elsewhere from now on."""
        if _PATHS["Dataset"] in self._api.objects:
            self.said.append("move")
            point = self._choice.choice(list(_SOURCES))
            self._api.changed_spec(_PATHS["Dataset"], {"mounts": [{"mountPoint": point}]})

    def _force(self) -> None:
        """Somebody takes the finalizers off what is being deleted."""
        kind = self._choice.choice(list(_PATHS))
        found = self._api.objects.get(_PATHS[kind])
        if found is not None and found["metadata"].get("deletionTimestamp"):
            self.said.append(f"force {kind}")
            self._api.let_go(_PATHS[kind])

    def _some(self) -> list[str]:
        return self._choice.sample(list(_PATHS), k=self._choice.choice([1, 2, 2]))

    def watch(self) -> None:
        """Called after each change: a runtime that lies beside a Dataset which is being deleted may go with it."""
        dataset = self._api.objects.get(_PATHS["Dataset"])
        if dataset is not None and dataset["metadata"].get("deletionTimestamp"):
            self.uids["EFCRuntime"] = ""

    def make(self, *kinds: str) -> None:
        """As `kubectl apply` does: what is there stays, even if it is about to go."""
        for kind in kinds:
            if _PATHS[kind] in self._api.objects:
                continue
            metadata = {"name": _NAME[1], "namespace": _NAME[0]}
            new = {"apiVersion": "data.fluid.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": _SPECS[kind]}
            self.uids[kind] = self._api.made(paths.KINDS[kind].collection(_NAME[0]), new)["metadata"]["uid"]
            self.said.append(f"make {kind} {self.uids[kind][-4:]}")
            self.watch()

    async def renew(self, *kinds: str) -> None:
        """What is about to go is made anew in the moment in which it has gone, as `kubectl delete` and `apply` do."""
        for _ in range(_POLLS_MAX):
            there = [self._api.objects[path] for path in _PATHS.values() if path in self._api.objects]
            if not any(one["metadata"].get("deletionTimestamp") for one in there):
                break
            await asyncio.sleep(_POLL_SECONDS)
        self.make(*kinds)

    async def gone(self) -> None:
        """Waits until there is neither."""
        for _ in range(_POLLS_MAX):
            if not self._api.objects.keys() & {*_PATHS.values()}:
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise AssertionError(f"after {_POLLS_MAX} looks there is {[*self._api.objects]}")

    def delete(self, kind: str) -> None:
        """As `kubectl delete --wait=false` does."""
        if _PATHS[kind] in self._api.objects:
            self.said.append(f"delete {kind}")
            self.uids |= {kind: ""} if kind == "EFCRuntime" else dict.fromkeys(_PATHS, "")
            self._api.deleted(_PATHS[kind])

    def _use(self) -> None:
        if _POD in self._api.objects:
            self.said.append("end the pod")
            self._api.deleted(_POD)
            return
        self.said.append("a pod")
        volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": _NAME[1]}}]
        pod = {"kind": "Pod", "metadata": {"name": "user", "namespace": _NAME[0]}, "spec": {"volumes": volumes}}
        self._api.made(paths.POD.collection(_NAME[0]), pod)


class _Reached:
    """Every NAS answers."""

    async def reason(self, place: Place, *, namespace: str) -> str:
        del place, namespace
        await asyncio.sleep(0.1)
        return ""


@asynccontextmanager
async def played(choice: random.Random, *, lag_seconds: Mapping[str, float] | None = None) -> AsyncIterator[History]:
    """A cluster with an operator; at the end there is what there should be."""
    api = Api(choice, lag_seconds=lag_seconds)
    operators = Operators(api, choice)
    history = History(api, operators, choice)
    api.changed = history.watch
    controllers = asyncio.create_task(api.run_controllers())
    operators.start()
    try:
        yield history
        await asyncio.sleep(_SETTLED_SECONDS)
        check(api, history)
    finally:
        for task in (controllers, *operators.tasks):
            task.cancel()
        ended = await asyncio.gather(controllers, *operators.tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


def check(api: Api, history: History) -> None:
    """What is there is what users have made and not deleted, and all that belongs to it, and nothing else."""
    dataset, runtime = api.objects.get(_PATHS["Dataset"]), api.objects.get(_PATHS["EFCRuntime"])
    assert _uid(dataset) == history.uids["Dataset"], history.said
    assert history.uids["EFCRuntime"] in ("", _uid(runtime)), history.said
    assert not [path for path, one in api.objects.items() if one["metadata"].get("deletionTimestamp")], history.said
    volumes, claims = api.of("persistentvolumes"), api.of("persistentvolumeclaims")
    if dataset is None or runtime is None:
        assert (volumes, claims) == ({}, {}), history.said
        if runtime is None:
            assert {*api.objects} <= {_PATHS["Dataset"]}, history.said
        return
    assert dataset["status"]["phase"] == "Bound", (history.said, dataset["status"])
    (claim,), (volume,) = claims.values(), volumes.values()
    assert claim["status"]["phase"] == "Bound"
    assert volume["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
    assert volume["metadata"]["name"] == f"efc-dataset-{dataset['metadata']['uid']}"
    source = _SOURCES[dataset["spec"]["mounts"][0]["mountPoint"]]
    assert volume["spec"]["csi"]["volumeAttributes"]["source"] == source, history.said
    owned = [one for path, one in api.objects.items() if path not in _PATHS.values() and one is not volume]
    assert all(
        [owner["uid"] for owner in one["metadata"]["ownerReferences"]] == [runtime["metadata"]["uid"]]
        for one in owned
    )  # fmt: skip
    assert len(owned) == 8, "four Secrets, a Service, two StatefulSets and the claim"


def _uid(found: dict[str, Any] | None) -> str:
    return "" if found is None else str(found["metadata"]["uid"])


@pytest.mark.parametrize("seed", range(_SEED, _SEED + _HISTORIES))
def test_what_is_there_at_the_end(seed: int) -> None:
    async def story() -> None:
        async with played(random.Random(seed)) as history:
            await history.play()

    run(story())


def test_a_runtime_that_comes_when_both_have_gone_is_no_more_the_former_datasets() -> None:
    """The watch of runtimes shows the new one when that of Datasets still shows the former one, which is going."""

    async def story() -> None:
        lag_seconds = {paths.DATASET.plural: 1.0, paths.RUNTIME.plural: 0.0}
        async with played(random.Random(1), lag_seconds=lag_seconds) as history:
            history.make("Dataset", "EFCRuntime")
            await asyncio.sleep(_SETTLED_SECONDS)
            history.delete("Dataset")
            await history.gone()
            history.make("EFCRuntime")
            await asyncio.sleep(2.0)
            history.make("Dataset")

    run(story())
