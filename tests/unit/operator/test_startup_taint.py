"""Which taint is removed, when, and that nothing else of a node is touched. tests/cluster has a real cluster do it."""

from __future__ import annotations

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.operator import startup_taint
from csi.operator.cluster import Json, service_address
from csi.operator.startup_taint import TAINT_KEY, StartupTaint, is_registered, is_tainted, removal

OURS = {"key": TAINT_KEY, "effect": "NoSchedule"}
OTHER = {"key": "other.example.com/agent-not-ready", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}


def node(*taints: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "n"}, "spec": {"taints": list(taints)} if taints else {}}


def csi_node(*drivers: str) -> dict[str, Any]:
    return {"spec": {"drivers": [{"name": name} for name in drivers] or None}}


class Api:
    """Two objects, patched as the API server would."""

    def __init__(self, node: dict[str, Any], csi_node: dict[str, Any] | None) -> None:
        self.node, self.csi_node = node, csi_node
        self.patches: list[Sequence[Json]] = []
        self.failures = 0
        self.conflicts = 0

    async def get(self, path: str) -> Json | None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise DriverError(Code.UNAVAILABLE, "away")
        assert path.endswith("/n")
        return copy.deepcopy(self.csi_node if "csinodes" in path else self.node)

    async def patch(self, path: str, operations: Sequence[Json]) -> bool:
        await asyncio.sleep(0)
        if self.conflicts:
            self.conflicts -= 1
            self.node["spec"]["taints"].append({**OTHER, "key": f"new-{self.conflicts}"})
        test, change = operations
        if test["value"] != self.node["spec"].get("taints", []):
            return False
        self.patches.append(operations)
        self.node["spec"].pop("taints")
        if change["op"] == "replace":
            self.node["spec"]["taints"] = change["value"]
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup_taint, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(startup_taint, "INTERVAL_SECONDS", 0.0)


async def tell(duty: StartupTaint, api: Api, *, kind: str | None = "MODIFIED") -> None:
    """Both events, side by side as kopf has them."""
    await asyncio.gather(
        duty.on_node(type=kind, body=copy.deepcopy(api.node), name="n"),
        duty.on_csi_node(type=kind, body=copy.deepcopy(api.csi_node or {}), name="n"),
    )


def test_the_api_server_is_found_without_names() -> None:
    """DNS may run on a node that waits for us."""
    for host, address in (("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")):
        environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
        assert service_address(environment) == address
    assert service_address({}) is None


def test_what_is_ours() -> None:
    assert TAINT_KEY == "efc.csi.data.fluid.io/agent-not-ready"
    assert is_tainted(node(OTHER, OURS))
    assert is_tainted(node({**OURS, "effect": "NoExecute"}))
    assert not is_tainted(node(OTHER))
    assert not is_tainted(node())
    assert is_registered(csi_node("other", driver.NAME))
    assert not is_registered(csi_node("other"))
    assert not is_registered(csi_node())
    assert not is_registered({})


def test_a_removal_leaves_other_taints() -> None:
    assert removal(node(OTHER, OURS)) == [
        {"op": "test", "path": "/spec/taints", "value": [OTHER, OURS]},
        {"op": "replace", "path": "/spec/taints", "value": [OTHER]},
    ]
    assert removal(node(OURS))[1] == {"op": "remove", "path": "/spec/taints"}


async def test_a_registered_node_loses_it_once() -> None:
    api = Api(node(OTHER, OURS), csi_node(driver.NAME))
    duty = StartupTaint(api)
    await tell(duty, api, kind=None)
    await tell(duty, api)
    assert api.node == node(OTHER)
    assert len(api.patches) == 1


@pytest.mark.parametrize(
    ("taints", "drivers"), [((OURS,), ()), ((OURS,), ("other",)), ((OTHER,), (driver.NAME,)), ((), (driver.NAME,))]
)
async def test_nothing_is_patched_before_both_are_so(taints: tuple[dict[str, str]], drivers: tuple[str]) -> None:
    api = Api(node(*taints), csi_node(*drivers))
    await tell(StartupTaint(api), api)
    assert api.patches == []


async def test_events_are_hints_only() -> None:
    """The node was replaced by another of its name, where nothing is registered yet."""
    api = Api(node(OURS), csi_node(driver.NAME))
    duty = StartupTaint(api)
    await duty.on_csi_node(type=None, body=api.csi_node or {}, name="n")
    api.csi_node = None
    await duty.on_node(type="ADDED", body=api.node, name="n")
    assert api.patches == []


async def test_a_deleted_node_is_forgotten() -> None:
    api = Api(node(OURS), csi_node())
    duty = StartupTaint(api)
    await tell(duty, api)
    await tell(duty, api, kind="DELETED")
    api.csi_node = csi_node(driver.NAME)
    await duty.on_csi_node(type="ADDED", body=api.csi_node, name="n")
    assert api.patches == []


async def test_failures_and_conflicts_are_tried_again() -> None:
    api = Api(node(OURS), csi_node(driver.NAME))
    api.failures, api.conflicts = 1, 1
    await tell(StartupTaint(api), api)
    assert api.node == node({**OTHER, "key": "new-0"})


async def test_a_server_that_stays_away_is_given_up_and_the_next_event_tries_again() -> None:
    api = Api(node(OURS), csi_node(driver.NAME))
    duty = StartupTaint(api)
    api.failures = 100
    await tell(duty, api)
    assert api.patches == []
    api.failures = 0
    await tell(duty, api)
    assert api.node == node()


async def test_who_taints_a_node_again_is_not_fought_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup_taint, "INTERVAL_SECONDS", 0.3)
    api = Api(node(OURS), csi_node(driver.NAME))
    duty = StartupTaint(api)
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        api.node = node(OURS)
        await tell(duty, api)
    assert len(api.patches) == 3
    assert asyncio.get_running_loop().time() - began >= 0.6


def test_a_node_plugin_does_not_import_the_operator() -> None:
    """Nor the libraries that only it needs."""
    script = (
        "import csi.cli.serve, csi.node.service, csi.controller.service, csi.node.registration, csi.observe.scraping;"
        "import json, sys;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert not {"kopf", "aiohttp", "yaml", "kubernetes", "prometheus_client"} & set(loaded)
    assert "grpc" in loaded
