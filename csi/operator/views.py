"""The views of ``efc dataset``: state of Datasets, where they are cached, who mounts them; from API objects alone.

Pure functions from objects to dictionaries, which are what ``efc dataset --json`` prints: keys are only ever added.
Figures are texts as the API has them ("10.00GiB", "99.5%"), None where there are none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from csi.api import quantities
from csi.api.efcruntime import EFCRuntime
from csi.api.status import ConditionType
from csi.base.errors import DriverError
from csi.operator.cluster import Json
from csi.operator.datasets import conditions
from csi.operator.names import ROLE_LABEL, UID_LABEL, WORKER_ROLE
from csi.operator.objects.levels import cache_of

_ENDED = ("Succeeded", "Failed")
_PARTS = {"masters": "master", "workers": "worker", "fuses": "fuse"}
#: Conditions whose message explains something when they have this status.
_TELLING = (
    (ConditionType.READY, "False"),
    (ConditionType.UPDATING, "True"),
    (ConditionType.UPDATING, "False"),
    (ConditionType.TOTALS_KNOWN, "False"),
    (ConditionType.MASTER_READY, "False"),
    (ConditionType.WORKERS_READY, "False"),
    (ConditionType.FUSES_READY, "False"),
    (ConditionType.FIELDS_IGNORED, "True"),
)
View = dict[str, Any]


def status(dataset: Json, runtime: Json | None, *, now: datetime) -> View:
    """How one Dataset does."""
    metadata, found = dataset["metadata"], dataset.get("status") or {}
    ran: Mapping[str, Any] = (runtime or {}).get("status") or {}
    cache = found.get("cacheStates") or {}
    said = [*_conditions(found, "Dataset"), *_conditions(ran, "EFCRuntime")]
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "phase": found.get("phase") or None,
        "ready": conditions.holds(found, ConditionType.READY),
        "notes": list(_notes(dataset, runtime, said)),
        "sources": [str(mount.get("mountPoint")) for mount in dataset["spec"].get("mounts") or ()],
        "size": found.get("ufsTotal") or None,
        "files": found.get("fileNum") or None,
        "cached": cache.get("cached") or None,
        "capacity": cache.get("cacheCapacity") or None,
        "cached_percentage": cache.get("cachedPercentage") or None,
        "used_percentage": _used(cache),
        "hit_ratio": cache.get("cacheHitRatio") or None,
        "local_hit_ratio": cache.get("localHitRatio") or None,
        "remote_hit_ratio": cache.get("remoteHitRatio") or None,
        **{part: _part(ran, field) if runtime is not None else None for part, field in _PARTS.items()},
        "conditions": said,
        "created": metadata["creationTimestamp"],
        "age_seconds": _age(metadata["creationTimestamp"], now),
        "deleting": bool(metadata.get("deletionTimestamp")),
    }


def _part(ran: Mapping[str, Any], field: str) -> dict[str, int]:
    return {
        "ready": int(ran.get(f"{field}NumberReady") or 0),
        "desired": int(ran.get(f"desired{field.title()}NumberScheduled") or 0),
    }


def _conditions(found: Mapping[str, Any], kind: str) -> list[dict[str, str]]:
    return [
        {"kind": kind}
        | {name: str(one.get(name) or "") for name in ("type", "status", "reason", "message")}
        | {"since": str(one.get("lastTransitionTime") or "")}
        for one in found.get("conditions") or ()
    ]


def _notes(dataset: Json, runtime: Json | None, said: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What there is to know about it, the most important first; nothing if all is well."""
    seen: set[str] = set()
    for found in (dataset, runtime):
        if found is not None and found["metadata"].get("deletionTimestamp"):
            kept = ", ".join(found["metadata"].get("finalizers") or ())
            kind = "the Dataset" if found is dataset else "the EFCRuntime"
            yield f"{kind} is being deleted, and stays while it has the finalizers {kept}"
    if not (dataset.get("status") or {}).get("phase"):
        yield (
            "nobody has looked at it: no operator runs, or it leaves this one alone (events: kubectl describe dataset)"
        )
    for kind, value in _TELLING:
        for one in said:
            if (one["type"], one["status"]) == (kind, value) and one["message"] and one["message"] not in seen:
                seen.add(one["message"])
                yield one["message"]


def _used(cache: Mapping[str, str]) -> str | None:
    cached, capacity = (quantities.size_of(cache.get(name) or "") for name in ("cached", "cacheCapacity"))
    return quantities.percentage(cached, capacity) if cached is not None and capacity is not None else None


def _age(text: str, now: datetime) -> int:
    return max(0, int((now - datetime.fromisoformat(text)).total_seconds()))


def workers(dataset: Json, runtime: Json, pods: Iterable[Json]) -> list[View]:
    """The Dataset's workers of these pods of its namespace: where each is, and what it holds."""
    held = {
        str(one.get("name")): str(one.get("cached") or "") or None
        for one in (runtime.get("status") or {}).get("workers") or ()
    }
    uid, capacity = dataset["metadata"]["uid"], _quota(runtime)
    found = []
    for pod in sorted(pods, key=lambda pod: _ordinal(pod["metadata"]["name"])):
        labels = pod["metadata"].get("labels") or {}
        if labels.get(UID_LABEL) == uid and labels.get(ROLE_LABEL) == WORKER_ROLE:
            name = pod["metadata"]["name"]
            found.append(
                {
                    "worker": name,
                    "node": pod["spec"].get("nodeName"),
                    "ready": _is_ready(pod),
                    "cached": held.get(name),
                    "capacity": capacity,
                    "note": _trouble(pod),
                }
            )
    return found


def _quota(runtime: Json) -> str | None:
    try:
        return quantities.size(cache_of(EFCRuntime.model_validate(runtime)).quota_bytes)
    except (DriverError, ValueError):
        return None


def _ordinal(name: str) -> tuple[str, int]:
    """For the order of a StatefulSet's pods."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isascii() and number.isdecimal() else (name, -1)


def _is_ready(pod: Json) -> bool:
    said = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in said)


def _trouble(pod: Json) -> str | None:
    """Why a pod is not ready, in the words of scheduler or kubelet."""
    found = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "is ending"
    for one in found.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return str(one.get("message") or one.get("reason") or "") or None
    for container in found.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return ": ".join(filter(None, (waiting["reason"], waiting.get("message"))))
    return None


def mounts(claim: str, pods: Iterable[Json], *, now: datetime) -> list[View]:
    """Pods that name a claim and have not ended: where each is, and at which paths it has the volume."""
    found = []
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        metadata, phase = pod["metadata"], (pod.get("status") or {}).get("phase") or "Unknown"
        volumes = _volumes(pod, claim)
        if not volumes or phase in _ENDED:
            continue
        found.append(
            {
                "namespace": metadata["namespace"],
                "pod": metadata["name"],
                "node": pod["spec"].get("nodeName"),
                "phase": "Terminating" if metadata.get("deletionTimestamp") else phase,
                "ready": _is_ready(pod),
                "paths": sorted(set(_paths(pod, volumes))),
                "created": metadata["creationTimestamp"],
                "age_seconds": _age(metadata["creationTimestamp"], now),
            }
        )
    return found


def _volumes(pod: Json, claim: str) -> set[str]:
    """The pod's own names of its volumes that are this claim."""
    found = set()
    for volume in pod["spec"].get("volumes") or ():
        named = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if named is None and "ephemeral" in volume:
            named = f"{pod['metadata']['name']}-{volume['name']}"
        if named == claim:
            found.add(str(volume["name"]))
    return found


def _paths(pod: Json, volumes: set[str]) -> Iterator[str]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod["spec"].get(kind) or ():
            for mount in container.get("volumeMounts") or ():
                if mount["name"] in volumes:
                    yield str(mount["mountPath"])


def order(views: Iterable[View], by: str) -> list[View]:
    """Datasets by ``cached``, ``size``, ``used`` or ``hits``, the most first; those without the figure last."""
    return sorted(views, key=lambda view: (-_amount(view, by), view["namespace"], view["name"]))


def _amount(view: View, by: str) -> float:
    if by in ("cached", "size"):
        found: float | None = quantities.size_of(view[by] or "")
    else:
        found = quantities.ratio_of(view["used_percentage" if by == "used" else "hit_ratio"] or "")
    return -1.0 if found is None else found
