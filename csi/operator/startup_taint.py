"""The startup taint: keeps pods off a node until the driver works there.

A pod that is scheduled to a new node before the node plugin has registered fails to mount, is retried with growing
back-off, and starts late. So node pools may have their nodes register with the taint
``efc.csi.data.fluid.io/agent-not-ready:NoSchedule`` (kubelet's ``--register-with-taints``, or a field of the node
pool), and it is removed here, whatever its effect, once the node's CSINode object lists the driver. Other drivers use
taints of the same form.

A taint is only ever removed. A node whose driver goes away later is not tainted again: its pods keep running, and new
ones wait there as they would without a taint. If somebody taints a node with the driver again, the taint is removed
again, once a minute at most, so that two programs that disagree do not load the API server.

Events only tell which node to look at. The decision is made from the present state of both objects, and the patch
applies only if the taints are still those that were read (JSON patch, ``test``).
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import kopf

from csi.base import driver
from csi.base.errors import DriverError
from csi.operator.cluster import Json

_LOGGER = logging.getLogger(__name__)
TAINT_KEY = f"{driver.NAME}/agent-not-ready"
#: Shortest time between two removals of the taint at one node.
INTERVAL_SECONDS = 60.0
#: Delays after tries at which the API server did not answer, or somebody changed the taints in the same moment.
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


class Objects(Protocol):
    """The part of :class:`csi.operator.cluster.Cluster` that removing taints needs."""

    async def get(self, path: str) -> Json | None:
        """The object at ``path``, or None."""

    async def patch(self, path: str, operations: Sequence[Json]) -> bool:
        """Changes the object at ``path``; returns False if it is not as tested."""


def is_tainted(node: Json) -> bool:
    """Whether a Node has the taint."""
    return any(taint.get("key") == TAINT_KEY for taint in _taints(node))


def is_registered(csi_node: Json) -> bool:
    """Whether a CSINode lists the driver: kubelet can call it."""
    drivers = csi_node.get("spec", {}).get("drivers") or []
    return any(found.get("name") == driver.NAME for found in drivers)


def removal(node: Json) -> list[Json]:
    """The JSON patch of a tainted Node that takes our taint off, and no other's."""
    taints = _taints(node)
    kept = [taint for taint in taints if taint.get("key") != TAINT_KEY]
    return [
        {"op": "test", "path": "/spec/taints", "value": taints},
        {"op": "replace", "path": "/spec/taints", "value": kept} if kept else {"op": "remove", "path": "/spec/taints"},
    ]


def _taints(node: Json) -> list[dict[str, Any]]:
    return list(node.get("spec", {}).get("taints") or [])


class StartupTaint:
    """Removes the taint from nodes that have the driver."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        # Names of nodes by what events said last: no more than hints.
        self._tainted: set[str] = set()
        self._registered: set[str] = set()
        self._removed_at: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def attach(self, registry: kopf.OperatorRegistry) -> None:
        """Handles events of nodes and their CSINodes."""
        kopf.on.event("", "v1", "nodes", id="startup-taint", registry=registry)(self.on_node)
        kopf.on.event("storage.k8s.io", "v1", "csinodes", id="startup-taint", registry=registry)(self.on_csi_node)

    async def on_node(self, *, type: str | None, body: Mapping[str, Any], name: str, **_: object) -> None:  # noqa: A002
        """Handles that a node came, changed or went."""
        if type == "DELETED":
            self._removed_at.pop(name, None)
            self._locks.pop(name, None)
        _note(self._tainted, name, present=type != "DELETED" and is_tainted(body))
        await self._settle(name)

    async def on_csi_node(self, *, type: str | None, body: Mapping[str, Any], name: str, **_: object) -> None:  # noqa: A002
        """Handles that the list of a node's drivers came, changed or went."""
        _note(self._registered, name, present=type != "DELETED" and is_registered(body))
        await self._settle(name)

    async def _settle(self, name: str) -> None:
        if not self._is_due(name):
            return
        async with self._locks.setdefault(name, asyncio.Lock()):
            for delay in RETRY_SECONDS:
                if not self._is_due(name):
                    return
                await self._wait_for_turn(name)
                if await self._remove(name):
                    return
                await asyncio.sleep(delay)
            _LOGGER.warning("node %s keeps %s until its next event", name, TAINT_KEY)

    def _is_due(self, name: str) -> bool:
        return name in self._tainted and name in self._registered

    async def _wait_for_turn(self, name: str) -> None:
        removed_at = self._removed_at.get(name)
        if removed_at is not None:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, removed_at + INTERVAL_SECONDS - loop.time()))

    async def _remove(self, name: str) -> bool:
        """Removes the taint of node ``name`` if it is due; returns False if that must be tried again."""
        path = f"/api/v1/nodes/{name}"
        try:
            csi_node = await self._objects.get(f"/apis/storage.k8s.io/v1/csinodes/{name}")
            node = await self._objects.get(path)
            if csi_node is None or node is None or not is_tainted(node) or not is_registered(csi_node):
                return True
            if not await self._objects.patch(path, removal(node)):
                return False
        except DriverError as error:
            _LOGGER.warning("node %s: %s", name, error.message)
            return False
        self._removed_at[name] = asyncio.get_running_loop().time()
        _LOGGER.info("removed %s from node %s: the driver is registered there", TAINT_KEY, name)
        return True


def _note(names: set[str], name: str, *, present: bool) -> None:
    if present:
        names.add(name)
    else:
        names.discard(name)
