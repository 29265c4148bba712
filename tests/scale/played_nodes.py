"""Nodes that are played: `python -m tests.scale.played_nodes NODES`, beside an API server, until a signal.

Pods that the scheduler gives them are running and ready at once, without a container. Masters of Datasets among them
answer, all in this process, by the product's own service; what they say of the NAS is made up, and no node and no
worker is behind them. A node has room for more pods than a real one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import grpc.aio

from csi._proto import dataset_pb2, dataset_pb2_grpc
from csi.master.core import Core
from csi.master.service import Context, MasterService
from csi.master.serving import OPTIONS
from csi.master.signal import Changes
from csi.master.totals import Counted
from csi.operator.cluster import Cluster, Json
from csi.operator.names import MASTER_ROLE, ROLE_LABEL
from csi.operator.running import logged_in
from csi.operator.watching import Name, Resource, Watching
from csi.operator.work_queue import WorkQueue

#: Addresses of pods: all of this machine's, once it has the route.
_NETWORK, _FIRST = "10.99.0.0/16", (10 << 24) + (99 << 16) + 1
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_PODS_MAX = 2000
_HEARTBEAT_S = 10.0
_WORKERS = 12
_FILE_BYTES = 1000


class Api(Cluster):
    """The API, as kubelet uses it."""

    async def let_go(self, pod: Json) -> None:
        """Says that a pod that was deleted has ended."""
        options = {
            "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
            "preconditions": {"uid": pod["metadata"]["uid"]},
        }  # fmt: skip
        await self._request("DELETE", path_of(pod), options)


def path_of(pod: Json) -> str:
    """Where a pod is in the API."""
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


class _Answering(MasterService):
    """A master that knows its NAS as soon as it has been told of it."""

    def __init__(self, core: Core, changes: Changes) -> None:
        super().__init__(core, changes)
        self._known = core, changes

    async def Configure(  # noqa: N802  # the name in proto/dataset.proto
        self, request: dataset_pb2.Configuration, context: Context
    ) -> dataset_pb2.ConfigureReply:
        reply = await super().Configure(request, context)
        core, changes = self._known
        core.source = dataset_pb2.Reachability(known=True, reachable=True)
        core.totals.known = Counted(bytes=_FILE_BYTES, files=1)
        changes.note()
        return reply


async def _serve(secret: Json, address: str) -> grpc.aio.Server:
    files = {name: base64.b64decode(text) for name, text in secret["data"].items()}
    credentials = grpc.ssl_server_credentials(
        [(files["tls.key"], files["tls.crt"])], root_certificates=files["ca.crt"], require_client_auth=True
    )
    server = grpc.aio.server(options=OPTIONS)
    service = _Answering(Core(), Changes())
    dataset_pb2_grpc.add_MasterServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    server.add_secure_port(address, credentials)
    await server.start()
    return server


class Nodes:
    """All that is played."""

    def __init__(self, api: Api, count: int) -> None:
        self._api, self._names = api, [f"played-{number}" for number in range(1, count + 1)]
        self._queue: WorkQueue[Name] = WorkQueue()
        self._addresses = self._free()
        self._masters: dict[str, grpc.aio.Server] = {}  # by the UID of the pod
        self._pods = Watching(Resource(name="pods", path="/api/v1/pods"), reduce=lambda pod: pod, changed=self._changed)

    async def run(self) -> None:
        """Until cancelled."""
        for name in self._names:
            for path, new in (("/api/v1/nodes", _node(name)), (_LEASES, _lease(name))):
                if await self._api.get(f"{path}/{name}") is None:
                    await self._api.create(path, new)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run(self._api))
            group.create_task(self._queue.run(self._work, workers=_WORKERS))
            group.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            for name in self._names:
                await self._api.merge(f"{_LEASES}/{name}", {"spec": _lease(name)["spec"]})

    def _changed(self, before: Json | None, after: Json | None) -> None:
        pod = after or before
        if pod is not None and pod["spec"].get("nodeName") in self._names:
            self._queue.add((pod["metadata"]["namespace"], pod["metadata"]["name"]))
        if before is not None and (after is None or after["metadata"]["uid"] != before["metadata"]["uid"]):
            self._end(before)

    async def _work(self, name: Name) -> None:
        pod = self._pods.objects.get(name)
        if pod is None:
            return
        if pod["metadata"].get("deletionTimestamp"):
            self._end(pod)
            await self._api.let_go(pod)
        elif pod["status"].get("phase") == "Pending":
            address = next(self._addresses)
            if (pod["metadata"].get("labels") or {}).get(ROLE_LABEL) == MASTER_ROLE:
                await self._begin(pod, address)
            changes = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": _running(pod, address)}
            self._pods.saw(await self._api.merge(f"{path_of(pod)}/status", changes))

    async def _begin(self, pod: Json, address: str) -> None:
        if pod["metadata"]["uid"] in self._masters:
            return
        mounted = next(volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume)
        secret = await self._api.get(f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{mounted}")
        assert secret is not None, f"there is no Secret {mounted}"
        port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
        self._masters[pod["metadata"]["uid"]] = await _serve(secret, f"{address}:{port}")

    def _end(self, pod: Json) -> None:
        server = self._masters.pop(pod["metadata"]["uid"], None)
        if server is not None:
            asyncio.get_running_loop().create_task(server.stop(grace=None))

    @staticmethod
    def _free() -> Iterator[str]:
        for number in range(_FIRST, _FIRST + (1 << 16) - 2):
            yield ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _node(name: str) -> dict[str, Any]:
    room = {"cpu": "1000", "memory": "1Pi", "pods": str(_PODS_MAX)}
    ready = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": _now()}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {"capacity": room, "allocatable": room, "conditions": [ready]},
    }  # fmt: skip


def _lease(name: str) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
    }  # fmt: skip


def _running(pod: Json, address: str) -> dict[str, Any]:
    now = _now()
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        "containerStatuses": [
            {
                "name": container["name"], "image": container["image"], "imageID": "", "ready": True, "started": True,
                "restartCount": 0, "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ],
    }  # fmt: skip


async def _main(count: int) -> None:
    api = Api()
    logged_in(api)
    try:
        await Nodes(api, count).run()
    finally:
        await api.close()


if __name__ == "__main__":
    subprocess.run(["ip", "route", "replace", "local", _NETWORK, "dev", "lo"], check=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(int(sys.argv[1])))
