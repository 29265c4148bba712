"""``efc dataset adopt``: removes the finalizers that a removed Fluid has left on Datasets and EFCRuntimes.

Fluid's controllers put a finalizer on each object that they serve. When Fluid is removed, the finalizers stay, and
nobody is left to remove them: such an object can never be deleted. Removing one while Fluid runs would cut its own
cleanup short, so nothing is done while one of its controllers exists.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from csi.base.errors import Code, DriverError
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import paths

#: Fluid's finalizers of the kinds that we serve (its v0.9 to v1.1).
FINALIZERS = {"Dataset": "fluid-dataset-controller-finalizer", "EFCRuntime": "efc-runtime-controller-finalizer"}
#: Fluid's controllers that put finalizers on objects or take them off, by their label ``control-plane``.
CONTROLLERS = (
    "dataset-controller", "alluxioruntime-controller", "cacheruntime-controller", "efcruntime-controller",
    "goosefsruntime-controller", "jindoruntime-controller", "juicefsruntime-controller", "thinruntime-controller",
    "vineyardruntime-controller",
)  # fmt: skip
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """One object, and the finalizer that was taken off it; "" if it had none of Fluid's."""

    kind: str
    namespace: str
    name: str
    finalizer: str
    is_deleting: bool


async def adopt(cluster: Cluster, *, namespace: str, name: str) -> list[Adopted]:
    """Takes Fluid's finalizers off a Dataset and the EFCRuntime of its name; those of them that there are.

    Raises FAILED_PRECONDITION while a controller of Fluid's runs, NOT_FOUND if there is neither.
    """
    await refuse_if_fluid_runs(cluster)
    done = []
    for kind in FINALIZERS:
        found = await _take_off(cluster, kind, namespace, name)
        if found is not None:
            done.append(found)
    if not done:
        raise DriverError(
            Code.NOT_FOUND, f"there is neither a Dataset nor an EFCRuntime {name!r} in namespace {namespace!r}"
        )
    return done


async def refuse_if_fluid_runs(cluster: Cluster) -> None:
    """Raises FAILED_PRECONDITION that names the Deployments of Fluid's controllers that run or are to run."""
    labels = f"control-plane in ({','.join(CONTROLLERS)})"
    try:
        listed = await cluster.list("/apis/apps/v1/deployments", labels=labels)
    except DriverError as error:
        if error.code is not Code.PERMISSION_DENIED:
            raise
        raise DriverError(
            Code.PERMISSION_DENIED,
            f"cannot see whether Fluid runs, which takes the right to list Deployments of all namespaces: "
            f"{error.message}",
        ) from None
    if running := list(_running(listed.items)):
        raise DriverError(
            Code.FAILED_PRECONDITION,
            f"Fluid runs here (Deployments {', '.join(running)}), and the finalizers belong to it: remove Fluid first, "
            "or scale these to 0",
        )


def _running(deployments: Iterable[Json]) -> Iterator[str]:
    for found in deployments:
        wanted = found["spec"].get("replicas", 1)
        there = (found.get("status") or {}).get("replicas") or 0
        if wanted or there:
            yield f"{found['metadata']['namespace']}/{found['metadata']['name']}"


async def _take_off(cluster: Cluster, kind: str, namespace: str, name: str) -> Adopted | None:
    path, finalizer = paths.KINDS[kind].path((namespace, name)), FINALIZERS[kind]
    for _ in range(_TRIES):
        found = await cluster.get(path)
        if found is None:
            return None
        present = list(found["metadata"].get("finalizers") or ())
        is_deleting = bool(found["metadata"].get("deletionTimestamp"))
        if finalizer not in present:
            return Adopted(kind=kind, namespace=namespace, name=name, finalizer="", is_deleting=is_deleting)
        left = [one for one in present if one != finalizer]
        # Of this object alone, and only if nobody has changed them meanwhile.
        operations = [
            {"op": "test", "path": "/metadata/uid", "value": found["metadata"]["uid"]},
            {"op": "test", "path": "/metadata/finalizers", "value": present},
            {"op": "replace", "path": "/metadata/finalizers", "value": left},
        ]
        if await cluster.patch(path, operations):
            return Adopted(kind=kind, namespace=namespace, name=name, finalizer=finalizer, is_deleting=is_deleting)
    raise DriverError(
        Code.ABORTED, f"somebody changes the finalizers of {kind} {namespace}/{name} at the same time: try again"
    )
