"""Makes and deletes Datasets by the hundred, and watches what becomes of them: a program beside an API server.

`python -m tests.scale.making make NAMESPACE COUNT PER_SECOND MOUNT_POINT` makes them, each with its EFCRuntime, at a
steady rate, and returns when all are Bound; `... delete NAMESPACE` deletes them all and returns when nothing of them is
left. Both print JSON. What takes too long ends it with a failure.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from csi.operator import store
from csi.operator.cluster import Cluster, Json
from csi.operator.names import UID_LABEL
from csi.operator.running import logged_in
from csi.operator.watching import Name, Resource, Watching
from tests.operator.objects import API_VERSION, dataset, runtime

LIMIT_S = 1500.0
_FLUID = f"/apis/{API_VERSION}"
_OURS = (
    Resource(name="datasets", path=f"{_FLUID}/datasets"),
    Resource(name="efcruntimes", path=f"{_FLUID}/efcruntimes"),
    *(one for one in store.RESOURCES if one.labels == UID_LABEL),
)
_OF_OWNER = Resource(name="pods", path="/api/v1/pods", labels=UID_LABEL)
_POLL_S = 0.1


async def make(cluster: Cluster, namespace: str, count: int, per_second: float, mount_point: str) -> dict[str, Any]:
    """Seconds from the request that makes each Dataset to when a watch has shown it Bound."""
    made: dict[str, float] = {}
    bound: dict[str, float] = {}
    all_bound = asyncio.Event()

    def changed(_before: Json | None, after: Json | None) -> None:
        if after is not None and (after.get("status") or {}).get("phase") == "Bound":
            bound.setdefault(after["metadata"]["name"], time.monotonic())
            if len(bound) == count:
                all_bound.set()

    watching = asyncio.create_task(Watching(_OURS[0], reduce=lambda one: one, changed=changed).run(cluster))
    began = time.monotonic()
    late_s = 0.0
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            name = f"data-{number:05}"
            made[name] = time.monotonic()
            late_s = max(late_s, made[name] - began - number / per_second)
            group.create_task(_create(cluster, namespace, name, mount_point))
    took_s = time.monotonic() - began
    async with asyncio.timeout(LIMIT_S):
        await all_bound.wait()
    watching.cancel()
    seconds = [round(bound[name] - made[name], 3) for name in sorted(made)]
    return {"bound_s": seconds, "making_s": round(took_s, 1), "late_s": round(late_s, 3)}


async def _create(cluster: Cluster, namespace: str, name: str, mount_point: str) -> None:
    path = f"{_FLUID}/namespaces/{namespace}"
    placed = {"metadata": {"name": name, "namespace": namespace}}
    await cluster.create(f"{path}/datasets", {**dataset(name, mount_point), **placed})
    await cluster.create(f"{path}/efcruntimes", {**runtime(name, replicas=1), **placed})


async def delete(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """Seconds until the last object of each resource has gone."""
    watches = [Watching(one, reduce=lambda kept: kept, changed=lambda *_: None) for one in (*_OURS, _OF_OWNER)]
    running = [asyncio.create_task(watching.run(cluster)) for watching in watches]
    for watching in watches:
        await watching.listed.wait()
    names = sorted(watches[0].objects)
    began = time.monotonic()
    gone: dict[str, float] = {}
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(_delete(cluster, namespace, name, watches[0].objects[name]))
        while len(gone) < len(watches):
            for watching in watches:
                if not watching.objects:
                    gone.setdefault(watching.resource.name, round(time.monotonic() - began, 1))
            await asyncio.sleep(_POLL_S)
    for task in running:
        task.cancel()
    return {"deleted": len(names), "gone_s": gone}


async def _delete(cluster: Cluster, namespace: str, name: Name, found: Json) -> None:
    assert name[0] == namespace
    await cluster.delete(f"{_FLUID}/namespaces/{namespace}/datasets/{name[1]}", uid=found["metadata"]["uid"])


async def _main(command: str, namespace: str, arguments: Sequence[str]) -> None:
    cluster = logged_in(Cluster())
    try:
        if command == "make":
            count, per_second, mount_point = arguments
            said = await make(cluster, namespace, int(count), float(per_second), mount_point)
        else:
            said = await delete(cluster, namespace)
    finally:
        await cluster.close()
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3:]))
