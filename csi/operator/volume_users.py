"""Finds what forbids uninstalling the driver: pods of the cluster that use its volumes, and Datasets.

Without the driver the volumes of these pods could not be unmounted, and the pods would hang in Terminating for ever.
Without the operator Datasets could not be deleted.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster, Json

#: Most objects in a page of a list; there is another page while the answer has a token.
_PAGE_OBJECTS_MAX = 500
_PAGES_MAX = 10_000
_ENDED = ("Succeeded", "Failed")
#: Most users or Datasets that one message names.
_NAMED_MAX = 20


def users(*, volumes: Iterable[Json], pods: Iterable[Json]) -> Iterator[str]:
    """One line for each pod on a node that uses a volume of the driver."""
    claims = {}
    for volume in volumes:
        claim = volume["spec"].get("claimRef")
        if claim and (volume["spec"].get("csi") or {}).get("driver") == driver.NAME:
            claims[claim["namespace"], claim["name"]] = volume["metadata"]["name"]
    for pod in pods:
        node = pod["spec"].get("nodeName")
        # A pod without a node mounts nothing.
        if node and pod.get("status", {}).get("phase") not in _ENDED:
            yield from _uses(pod, node, claims)


def _uses(pod: Json, node: str, claims: dict[tuple[str, str], str]) -> Iterator[str]:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    for volume in pod["spec"].get("volumes") or ():
        if (volume.get("csi") or {}).get("driver") == driver.NAME:
            yield f"pod {namespace}/{name} on node {node} uses an inline volume, {volume['name']}"
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim is None and "ephemeral" in volume:
            claim = f"{name}-{volume['name']}"
        if claim is not None and (bound := claims.get((namespace, claim))) is not None:
            yield f"pod {namespace}/{name} on node {node} uses claim {claim} (volume {bound})"


def own_datasets(*, datasets: Iterable[Json], runtimes: Iterable[Json]) -> Iterator[str]:
    """One line for each Dataset that has an EFCRuntime, and for each EFCRuntime that has lost its Dataset."""
    names = {_place(runtime) for runtime in runtimes}
    for dataset in datasets:
        if _place(dataset) in names:
            names.remove(_place(dataset))
            yield f"Dataset {_place(dataset)} exists"
    yield from (f"EFCRuntime {name} exists" for name in sorted(names))


def _place(found: Json) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


async def refuse_if_used(cluster: Cluster, *, again_after_seconds: float) -> None:
    """Raises FAILED_PRECONDITION that names pods and Datasets, now or at a second look, or the API server's error."""
    await _refuse_if_used(cluster)
    if again_after_seconds:
        await asyncio.sleep(again_after_seconds)
        await _refuse_if_used(cluster)


async def _refuse_if_used(cluster: Cluster) -> None:
    volumes = await _all(cluster, "/api/v1/persistentvolumes")
    pods = users(volumes=volumes, pods=await _all(cluster, "/api/v1/pods"))
    _refuse(list(pods), "volumes are in use: end these pods first")
    # There are none where nobody has installed their CRDs.
    datasets, runtimes = [
        await _all(cluster, f"/apis/data.fluid.io/v1alpha1/{kind}", missing_ok=True)
        for kind in ("datasets", "efcruntimes")
    ]
    _refuse(
        list(own_datasets(datasets=datasets, runtimes=runtimes)),
        "Datasets exist, and nobody could delete them afterwards: delete them first",
    )


def _refuse(found: Sequence[str], words: str) -> None:
    if found:
        more = f"\nand {len(found) - _NAMED_MAX} more" if len(found) > _NAMED_MAX else ""
        raise DriverError(Code.FAILED_PRECONDITION, "\n".join([words, *found[:_NAMED_MAX]]) + more)


async def _all(cluster: Cluster, path: str, *, missing_ok: bool = False) -> list[Json]:
    items: list[Json] = []
    token = ""
    for _ in range(_PAGES_MAX):
        page = await cluster.get(f"{path}?limit={_PAGE_OBJECTS_MAX}&continue={quote(token)}")
        if page is None and missing_ok:
            return []
        if page is None:
            raise DriverError(Code.UNAVAILABLE, f"the API server has no {path}")
        items += page.get("items") or ()
        token = (page.get("metadata") or {}).get("continue", "")
        if not token:
            return items
    raise DriverError(Code.RESOURCE_EXHAUSTED, f"{path} has more than {_PAGES_MAX} pages")
