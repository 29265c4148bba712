"""The cache of watched objects, indexed by the Dataset that they concern; decisions are made from nothing else.

A *key* is the namespace and name that a Dataset and its EFCRuntime share. Every change of an object is reported as the
key that it concerns. Our own objects have the Dataset's UID as a label. Users' pods are found by their claims; only
pods with claims of Datasets are kept, and of these only the parts that are needed here.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from csi.api.common import API_VERSION
from csi.operator import names
from csi.operator.cluster import Cluster, Json
from csi.operator.sharing import shared
from csi.operator.watching import Name, Resource, Watching, name_of

Key = Name
_FLUID = f"/apis/{API_VERSION}"
#: Pods of ours, and all others that use claims.
PODS = "pods"
DATASETS, RUNTIMES = "datasets", "efcruntimes"
CLAIMS, VOLUMES, SERVICES, STATEFUL_SETS = "persistentvolumeclaims", "persistentvolumes", "services", "statefulsets"
#: Fluid's controller of the same EFCRuntimes.
RIVALS = "deployments"
#: Where Fluid is installed, by its own documents.
FLUID_NAMESPACE = "fluid-system"
RIVAL_LABEL = "control-plane=efcruntime-controller"
#: Other kinds that can be a Dataset's runtime; served by Fluid, or by nobody.
OTHER_RUNTIMES = {
    "alluxioruntimes": "AlluxioRuntime",
    "cacheruntimes": "CacheRuntime",
    "jindoruntimes": "JindoRuntime",
    "juicefsruntimes": "JuiceFSRuntime",
    "thinruntimes": "ThinRuntime",
    "vineyardruntimes": "VineyardRuntime",
}
_OTHER_RUNTIMES_ABSENT_SECONDS = 60.0

RESOURCES = (
    Resource(name=DATASETS, path=f"{_FLUID}/datasets"),
    Resource(name=RUNTIMES, path=f"{_FLUID}/efcruntimes"),
    Resource(name=STATEFUL_SETS, path="/apis/apps/v1/statefulsets", labels=names.UID_LABEL),
    Resource(name=SERVICES, path="/api/v1/services", labels=names.UID_LABEL),
    Resource(name=CLAIMS, path="/api/v1/persistentvolumeclaims", labels=names.UID_LABEL),
    Resource(name=VOLUMES, path="/api/v1/persistentvolumes", labels=names.UID_LABEL),
    Resource(name=PODS, path="/api/v1/pods"),
    Resource(name=RIVALS, path="/apis/apps/v1/deployments", labels=RIVAL_LABEL, optional=True),
    *(
        Resource(name=plural, path=f"{_FLUID}/{plural}", optional=True, absent_seconds=_OTHER_RUNTIMES_ABSENT_SECONDS)
        for plural in OTHER_RUNTIMES
    ),
)


class Store:
    """Objects as last seen; ``changed`` is called with the resource that something changed of, and the key."""

    def __init__(self, changed: Callable[[str, Key], None]) -> None:
        self._changed = changed
        self._keys: dict[str, Key] = {}  # by the UID of a Dataset
        self._users: dict[Key, set[Name]] = defaultdict(set)  # pods, by namespace and claim
        self._owned: dict[str, set[Name]] = defaultdict(set)  # pods of ours, by the UID of the Dataset
        self._volumes: dict[Key, set[Name]] = defaultdict(set)  # by the claim that they are for
        self._watching = {
            resource.name: Watching(
                resource, reduce=_REDUCERS.get(resource.name, reduced), changed=self._notice(resource.name)
            )
            for resource in RESOURCES
        }

    def watches(self) -> Iterator[Watching]:
        """Those that must run for the store to be in step."""
        yield from self._watching.values()

    async def complete(self) -> None:
        """Returns when everything was listed once: no decision before that."""
        for watching in self._watching.values():
            await watching.listed.wait()

    def is_complete(self) -> bool:
        """Whether everything was listed once."""
        return all(watching.listed.is_set() for watching in self._watching.values())

    def saw(self, resource: str, found: Json) -> None:
        """Notes what a request of ours was answered with."""
        self._watching[resource].saw(found)

    def get(self, resource: str, name: Name) -> Json | None:
        """One object."""
        return self._watching[resource].objects.get(name)

    def all(self, resource: str) -> Mapping[Name, Json]:
        """All objects of a resource."""
        return self._watching[resource].objects

    def all_keys(self) -> set[Key]:
        """All that there is something for."""
        datasets, runtimes = self._watching[DATASETS].objects, self._watching[RUNTIMES].objects
        return {*datasets, *runtimes, *(key for key, volumes in self._volumes.items() if volumes)}

    def users(self, key: Key) -> list[Json]:
        """Pods that name the claim of this key, our own included, in the order of their names."""
        pods = self._watching[PODS].objects
        return [pods[name] for name in sorted(self._users.get(key, ()))]

    def pods(self, uid: str) -> list[Json]:
        """Pods of the master and the workers of the Dataset with this UID."""
        pods = self._watching[PODS].objects
        return [pods[name] for name in sorted(self._owned.get(uid, ()))]

    def volumes(self, key: Key) -> list[Json]:
        """PersistentVolumes of ours for the claim of this key."""
        volumes = self._watching[VOLUMES].objects
        return [volumes[name] for name in sorted(self._volumes.get(key, ()))]

    def other_runtimes(self, key: Key) -> list[str]:
        """Kinds of the runtimes of this name that are not ours."""
        return [kind for plural, kind in OTHER_RUNTIMES.items() if key in self._watching[plural].objects]

    def rival(self) -> str | None:
        """Where Fluid's own controller of EFCRuntimes runs: NAMESPACE/NAME of its Deployment."""
        for (namespace, name), deployment in self._watching[RIVALS].objects.items():
            # A label can be anybody's: Fluid is in its own namespace.
            if namespace == FLUID_NAMESPACE and deployment["spec"].get("replicas", 1) > 0:
                return f"{namespace}/{name}"
        return None

    def exists(self, resource: str) -> bool:
        """Whether the API server has such a resource at all."""
        return self._watching[resource].exists

    # ------------------------------------------------------------ inside

    def _notice(self, resource: str) -> Callable[[Json | None, Json | None], None]:
        def changed(old: Json | None, new: Json | None) -> None:
            for key in self._concerned(resource, old, new):
                self._changed(resource, key)

        return changed

    def _concerned(self, resource: str, old: Json | None, new: Json | None) -> set[Key]:
        keys: set[Key] = set()
        if resource == PODS and old is not None and new is not None and _without_version(old) == _without_version(new):
            return keys
        for found, is_new in ((old, False), (new, True)):
            if found is None:
                continue
            if resource == PODS:
                self._index_pod(found, is_there=is_new)
            elif resource == DATASETS:
                self._keys[found["metadata"]["uid"]] = name_of(found)
            elif resource == VOLUMES:
                self._index(self._volumes, _claim_of(found), name_of(found), is_there=is_new)
            keys.update(self._keys_of(resource, found))
        if resource == DATASETS and new is None and old is not None:
            self._keys.pop(old["metadata"]["uid"], None)
        return keys

    def _keys_of(self, resource: str, found: Json) -> Iterator[Key]:
        if resource == RIVALS:
            yield from self.all_keys()
        elif resource == PODS:
            namespace = found["metadata"]["namespace"]
            # A runtime that is being deleted waits for pods, also when its Dataset has gone.
            known = [self._watching[resource].objects for resource in (DATASETS, RUNTIMES)]
            keys = ((namespace, claim) for claim in found["claims"])
            yield from (key for key in keys if any(key in objects for objects in known))
        elif resource == VOLUMES:
            yield _claim_of(found)
        elif resource in (SERVICES, STATEFUL_SETS):
            pass
        else:
            yield name_of(found)
        uid = (found["metadata"].get("labels") or {}).get(names.UID_LABEL, "")
        if uid in self._keys:
            yield self._keys[uid]

    def _index_pod(self, pod: Json, *, is_there: bool) -> None:
        name = name_of(pod)
        for claim in pod["claims"]:
            self._index(self._users, (name[0], claim), name, is_there=is_there)
        if uid := (pod["metadata"].get("labels") or {}).get(names.UID_LABEL):
            self._index(self._owned, uid, name, is_there=is_there)

    @staticmethod
    def _index(index: dict[Any, set[Name]], key: object, name: Name, *, is_there: bool) -> None:
        if is_there:
            index[key].add(name)
        elif key in index:
            index[key].discard(name)
            if not index[key]:
                del index[key]


def _without_version(found: Json) -> Json:
    metadata = {name: value for name, value in found["metadata"].items() if name != "resourceVersion"}
    return {**found, "metadata": metadata}


def _claim_of(volume: Json) -> Key:
    claim = volume["spec"].get("claimRef") or {}
    return claim.get("namespace", ""), claim.get("name", "")


def reduced(found: Json) -> Json:
    """An object without the notes of who set which field, which are more than half of it."""
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    return shared({**found, "metadata": metadata})


def _existence(found: Json) -> Json:
    metadata = found["metadata"]
    return {
        "metadata": {
            name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in metadata
        }
    }


def _reduced_pod(pod: Json) -> Json | None:
    """What is kept of a pod: nothing, if it uses no claim and is none of ours."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    labels = {
        name: value
        for name, value in (metadata.get("labels") or {}).items()
        if name in (names.UID_LABEL, names.ROLE_LABEL, names.LEADER_LABEL)
    }
    claims = sorted(_claims(metadata["name"], spec))
    if not claims and names.UID_LABEL not in labels:
        return None
    kept = {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in metadata}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    return shared(
        {
            "metadata": kept | {"labels": labels, "deletionTimestamp": metadata.get("deletionTimestamp")},
            "claims": claims,
            "node": spec.get("nodeName", ""),
            "phase": status.get("phase", ""),
            "address": status.get("podIP", ""),
            "ready": conditions.get("Ready", {}).get("status") == "True",
            "unschedulable": scheduled.get("message", "") if scheduled.get("status") == "False" else "",
            "waiting": _waiting(status),
            "ports": [
                port["containerPort"]
                for container in spec.get("containers") or ()
                for port in container.get("ports") or ()
            ]
            if labels
            else [],
        }
    )


def _claims(pod: str, spec: Json) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            yield volume["persistentVolumeClaim"]["claimName"]
        elif "ephemeral" in volume:
            yield f"{pod}-{volume['name']}"


def _waiting(status: Json) -> str:
    """Why a container of the pod does not serve, in words that are the same from one try to the next."""
    for container in status.get("containerStatuses") or ():
        state, last = container.get("state") or {}, container.get("lastState") or {}
        ended = state.get("terminated") or last.get("terminated")
        if ended and not container.get("ready"):
            words = ended.get("message") or f"{ended.get('reason', 'Error')}, status {ended.get('exitCode')}"
            return f"container {container['name']} ends again and again: {words}"
        waiting = state.get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return ": ".join(filter(None, (waiting["reason"], waiting.get("message"))))
    return ""


_REDUCERS: dict[str, Callable[[Json], Json | None]] = {
    PODS: _reduced_pod,
    **dict.fromkeys(OTHER_RUNTIMES, _existence),
}


async def keep_in_step(store: Store, cluster: Cluster) -> None:
    """Runs all watches until cancelled."""
    async with asyncio.TaskGroup() as group:
        for watching in store.watches():
            group.create_task(watching.run(cluster))
