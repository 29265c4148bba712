"""Datasets and runtimes that are made, deleted and made anew at odd moments: at the end there is what there should be.

The operator's own reconciler against an API server that is played (:mod:`tests.unit.operator.model`), whose watches
lag each by a time of its own. `OPERATOR_HISTORIES` is how many histories are played, from `OPERATOR_SEED` on.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from csi.base.children import Children
from csi.base.errors import DriverError
from csi.operator.datasets import paths
from csi.operator.datasets.reconciler import Reconciler
from csi.operator.datasets.seen import Place
from tests.unit.operator.model.api import Api
from tests.unit.operator.model.clock import run
from tests.unit.operator.samples import SETTINGS

_NAME = ("default", "demo")
_DATASET, _RUNTIME = paths.DATASET.path(_NAME), paths.RUNTIME.path(_NAME)
_POD = paths.POD.path((_NAME[0], "user"))
_HISTORIES, _SEED = int(os.environ.get("OPERATOR_HISTORIES", "40")), int(os.environ.get("OPERATOR_SEED", "0"))
_STEPS = 12
#: Of the played clock: after which all that is under way has come to an end.
_SETTLED_SECONDS = 120.0
_POLL_SECONDS, _POLLS_MAX = 0.01, 500


class History:
    """What users do, and what they may expect of it."""

    def __init__(self, api: Api, choice: random.Random) -> None:
        self._api, self._choice = api, choice
        self.said: list[str] = []
        #: The runtime that is there by right, and has to stay: its UID, "" for none.
        self.runtime = ""
        self.dataset = ""

    async def play(self) -> None:
        """All steps, and then the end of all pods."""
        for _ in range(_STEPS):
            step = self._choice.choice([self._make, self._make, self._delete_dataset, self._delete_runtime, self._use])
            step()
            if self._choice.random() < 0.3:
                await self._renew()
            if self._choice.random() < 0.6:
                await asyncio.sleep(self._choice.choice([0.05, 0.3, 1.0, 5.0]))
        await asyncio.sleep(self._choice.choice([0.0, 1.0, 20.0]))
        self._api.deleted(_POD)
        await asyncio.sleep(_SETTLED_SECONDS)

    def watch(self) -> None:
        """Called after each change: a runtime that lies beside a Dataset which is being deleted may go with it."""
        dataset = self._api.objects.get(_DATASET)
        if dataset is not None and dataset["metadata"].get("deletionTimestamp"):
            self.runtime = ""

    def _make(self) -> None:
        """As `kubectl apply` does: what is there stays, even if it is about to go."""
        for kind in self._choice.sample(["Dataset", "EFCRuntime"], k=self._choice.choice([1, 2, 2])):
            path = paths.KINDS[kind].path(_NAME)
            if path in self._api.objects:
                continue
            spec: dict[str, Any] = {"replicas": 1}
            if kind == "Dataset":
                spec = {"mounts": [{"mountPoint": "nfs://nas:/data"}], "placement": "Shared"}
            metadata = {"name": _NAME[1], "namespace": _NAME[0]}
            new = {"apiVersion": "data.fluid.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
            made = self._api.made(paths.KINDS[kind].collection(_NAME[0]), new)
            uid = made["metadata"]["uid"]
            self.said.append(f"make {kind} {uid[-4:]}")
            if kind == "Dataset":
                self.dataset = uid
            else:
                self.runtime = uid
            self.watch()

    async def _renew(self) -> None:
        """What is about to go is made anew in the moment in which it has gone, as `kubectl delete` and `apply` do."""
        for _ in range(_POLLS_MAX):
            there = [self._api.objects[path] for path in (_DATASET, _RUNTIME) if path in self._api.objects]
            if not any(one["metadata"].get("deletionTimestamp") for one in there):
                break
            await asyncio.sleep(_POLL_SECONDS)
        self._make()

    def _delete_dataset(self) -> None:
        if _DATASET in self._api.objects:
            self.said.append("delete Dataset")
            self.dataset = self.runtime = ""
            self._api.deleted(_DATASET)

    def _delete_runtime(self) -> None:
        if _RUNTIME in self._api.objects:
            self.said.append("delete EFCRuntime")
            self.runtime = ""
            self._api.deleted(_RUNTIME)

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


async def story(seed: int) -> None:
    """One history, and what has come of it."""
    choice = random.Random(seed)
    api = Api(choice)
    reconciler = Reconciler(api, SETTINGS, children=Children())
    reconciler._prober = _Reached()  # type: ignore[assignment]
    history = History(api, choice)
    api.changed = history.watch
    tasks = [asyncio.create_task(work) for work in (reconciler.run(), api.run_controllers())]
    try:
        await history.play()
        assert not [task.exception() for task in tasks if task.done()]
        check(api, history)
    except (AssertionError, DriverError) as error:
        raise AssertionError(f"seed {seed}: {', '.join(history.said)}: {error}") from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def check(api: Api, history: History) -> None:
    """What is there is what users have made and not deleted, and all that belongs to it, and nothing else."""
    dataset, runtime = api.objects.get(_DATASET), api.objects.get(_RUNTIME)
    assert (dataset or {"metadata": {"uid": ""}})["metadata"]["uid"] == history.dataset, "the Dataset"
    if history.runtime:
        assert runtime is not None, "the runtime has gone"
        assert runtime["metadata"]["uid"] == history.runtime
    volumes, claims = api.of("persistentvolumes"), api.of("persistentvolumeclaims")
    if dataset is None or runtime is None:
        assert (volumes, claims) == ({}, {})
        if runtime is None:
            assert {*api.objects} <= {_DATASET}
        return
    assert dataset["status"]["phase"] == "Bound", dataset["status"]
    (claim,), (volume,) = claims.values(), volumes.values()
    assert claim["status"]["phase"] == "Bound"
    assert volume["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
    assert volume["metadata"]["name"] == f"efc-dataset-{dataset['metadata']['uid']}"
    owned = [one for path, one in api.objects.items() if path not in (_DATASET, _RUNTIME) and one is not volume]
    assert all(
        [owner["uid"] for owner in one["metadata"]["ownerReferences"]] == [runtime["metadata"]["uid"]]
        for one in owned
    )  # fmt: skip
    assert len(owned) == 8, "four Secrets, a Service, two StatefulSets and the claim"


@pytest.mark.parametrize("seed", range(_SEED, _SEED + _HISTORIES))
def test_what_is_there_at_the_end(seed: int) -> None:
    run(story(seed))
