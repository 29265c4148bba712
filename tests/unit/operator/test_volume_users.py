"""Who uses volumes, as an uninstallation asks; deploy/uninstall asks by kubectl, tests/tools/test_uninstall.py."""

from typing import Any

import pytest

from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.operator import volume_users
from csi.operator.cluster import Cluster, Json
from csi.operator.volume_users import refuse_if_used, users


def volume(name: str, claim: str, of: str = driver.NAME) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"csi": {"driver": of}, "claimRef": {"namespace": "shop", "name": claim}},
    }


def pod(name: str, *volumes: dict[str, Any], node: str | None = "n1", phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"volumes": list(volumes)} | ({"nodeName": node} if node else {}),
        "status": {"phase": phase},
    }


def claim(name: str) -> dict[str, Any]:
    return {"name": "disk", "persistentVolumeClaim": {"claimName": name}}


VOLUMES = [
    volume("pv-1", "data"),
    volume("pv-2", "web-0-scratch"),
    volume("pv-3", "other", of="other.example.com"),
    {"metadata": {"name": "pv-4"}, "spec": {"csi": {"driver": driver.NAME}}},
    {"metadata": {"name": "pv-5"}, "spec": {"nfs": {}, "claimRef": {"namespace": "shop", "name": "kernel"}}},
]


@pytest.mark.parametrize(
    ("used", "lines"),
    [
        (pod("db", claim("data")), ["pod shop/db on node n1 uses claim data (volume pv-1)"]),
        (pod("db", claim("data"), phase="Pending"), ["pod shop/db on node n1 uses claim data (volume pv-1)"]),
        (
            pod("web-0", {"name": "scratch", "ephemeral": {}}),
            ["pod shop/web-0 on node n1 uses claim web-0-scratch (volume pv-2)"],
        ),
        (
            pod("in", {"name": "x", "csi": {"driver": driver.NAME}}),
            ["pod shop/in on node n1 uses an inline volume, x"],
        ),
        (pod("idle", {"name": "token", "projected": {}}), []),
        (pod("other", claim("other"), claim("kernel")), []),
        (pod("done", claim("data"), phase="Succeeded"), []),
        (pod("waits", claim("data"), node=None), []),
    ],
)
def test_users(used: dict[str, Any], lines: list[str]) -> None:
    assert list(users(volumes=VOLUMES, pods=[pod("none"), used])) == lines


class Api(Cluster):
    """Lists in pages of two; ``looks`` is what pods there are, one look after the other; ``own`` our own objects."""

    def __init__(self, *looks: list[dict[str, Any]], **own: list[dict[str, Any]]) -> None:
        super().__init__()
        self.own = own
        self.looks = list(looks)

    async def get(self, path: str, *, not_older_than: str = "") -> Json | None:
        kind, _, query = path.partition("?")
        if kind.startswith("/apis/data.fluid.io/"):
            found = self.own.get(kind.rpartition("/")[2])
            return None if found is None else {"items": found}
        token = int(query.partition("continue=")[2] or 0)
        items = VOLUMES if kind == "/api/v1/persistentvolumes" else self.looks[0]
        if token + 2 >= len(items) and items is self.looks[0] and len(self.looks) > 1:
            self.looks.pop(0)
        more = str(token + 2) if token + 2 < len(items) else ""
        return {"items": items[token : token + 2], "metadata": {"continue": more}}


async def test_it_is_refused_with_the_names() -> None:
    with pytest.raises(DriverError) as caught:
        await refuse_if_used(Api([pod("a"), pod("b"), pod("c"), pod("db", claim("data"))]), again_after_seconds=0)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "pod shop/db on node n1 uses claim data (volume pv-1)" in caught.value.message
    await refuse_if_used(Api([pod("a")]), again_after_seconds=0)


async def test_it_looks_again() -> None:
    with pytest.raises(DriverError, match="shop/new"):
        await refuse_if_used(Api([pod("a")], [pod("new", claim("data"))]), again_after_seconds=0.01)


async def test_many_are_counted() -> None:
    pods = [pod(f"p{number}", claim("data")) for number in range(volume_users._NAMED_MAX + 5)]
    with pytest.raises(DriverError, match="and 5 more"):
        await refuse_if_used(Api(pods), again_after_seconds=0)


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": name}}


async def test_datasets_of_ours_are_named() -> None:
    """Those with an EFCRuntime; a Dataset of another runtime is somebody else's."""
    datasets, runtimes = [named("demo"), named("theirs")], [named("demo"), named("alone")]
    with pytest.raises(DriverError) as caught:
        await refuse_if_used(Api([], datasets=datasets, efcruntimes=runtimes), again_after_seconds=0)
    assert caught.value.message.splitlines()[1:] == ["Dataset shop/demo exists", "EFCRuntime shop/alone exists"]
    await refuse_if_used(Api([], datasets=datasets, efcruntimes=[]), again_after_seconds=0)
    await refuse_if_used(Api([], datasets=datasets), again_after_seconds=0)
