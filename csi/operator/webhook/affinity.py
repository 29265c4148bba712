"""The affinity that a new pod gets to the workers of the Datasets that it uses, or why the pod is refused.

It is a pod affinity to the Dataset's workers: the scheduler finds their nodes when it places the pod. A node affinity,
computed when the pod is created, would be wrong as soon as a worker moves, and empty for a pod that is created together
with its Dataset. A pod's own affinity stays unchanged: all required terms of a pod affinity must hold, as must those of
a node affinity, so that adding a term weakens no other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csi.operator.cluster import Json
from csi.operator.names import WORKER_ROLE, Names

#: Of pods: placed at the workers of their Datasets.
PLACED_LABEL = "fuse.serverful.fluid.io/inject"
#: Of pods: they are to have a sidecar that mounts, which there is not.
SIDECAR_LABEL = "serverless.fluid.io/inject"
#: Of pods: "false" leaves the pod as it is, whatever else it says.
OPT_OUT_LABEL = "fluid.io/enable-injection"
#: Of preferred terms; the most that a term may have.
WEIGHT = 100
#: Most claims of one pod: each is looked up, and other pods wait meanwhile.
CLAIMS_MAX = 100

_REQUIRED_LABEL_BEGIN, _REQUIRED_LABEL_END, _REQUIRED = "fluid.io/dataset.", ".sched", "required"
#: What an object may be called (RFC 1123), 253 characters at most.
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_TOPOLOGY = "kubernetes.io/hostname"
_REQUIRED_TERMS = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED_TERMS = "preferredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The pod may be made, changed by a JSON patch (RFC 6902), which may be empty."""

    patch: tuple[Json, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The pod may not be made."""

    reason: str


def claims(pod: Json) -> tuple[str, ...]:
    """The names of the claims that a pod names, in their order. Those made for the pod alone are no Dataset's."""
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    named = (volume["persistentVolumeClaim"]["claimName"] for volume in volumes if volume.get("persistentVolumeClaim"))
    # The pod has not been validated yet: what is no name is no object's.
    return tuple(dict.fromkeys(name for name in named if _NAME.fullmatch(name)))


def is_concerned(pod: Json) -> bool:
    """Whether a pod asks for anything; of others, nothing need be looked up."""
    labels = _labels(pod)
    return labels.get(OPT_OUT_LABEL) != "false" and "true" in (labels.get(PLACED_LABEL), labels.get(SIDECAR_LABEL))


def mutate(pod: Json, datasets: Mapping[str, Names | None]) -> Admitted | Refused:
    """What becomes of a new pod; ``datasets`` has those that it uses, by the names of their claims.

    None is a Dataset that has a runtime of another kind: others place its pods.
    """
    labels = _labels(pod)
    if not is_concerned(pod):
        return Admitted()
    if labels.get(SIDECAR_LABEL) == "true":
        return Refused(
            reason=f"the label {SIDECAR_LABEL}: there are no sidecars here. Remove the label: each node mounts the"
            f" Dataset's claim for any pod. For pods at the Dataset's workers there is {PLACED_LABEL}"
        )
    named = claims(pod)
    if len(named) > CLAIMS_MAX:
        return Refused(
            reason=f"the label {PLACED_LABEL}: the pod has {len(named)} claims, and no more than {CLAIMS_MAX} are"
            " looked up. Remove the label, or some of the claims"
        )
    used = {name: datasets[name] for name in named if name in datasets}
    required = {dataset for dataset in map(_required_by, labels.items()) if dataset}
    if missing := sorted(required - used.keys()):
        return Refused(
            reason=f"the label {_REQUIRED_LABEL_BEGIN}{missing[0]}{_REQUIRED_LABEL_END}: the pod has no claim"
            f" {missing[0]!r} of a Dataset of that name. Create the Dataset before the pod, or remove the label"
        )
    affinity = (pod.get("spec") or {}).get("affinity") or {}
    changed = affinity
    for name, dataset in used.items():
        if dataset is None:
            continue
        term = _at_workers(dataset)
        if name in required:
            changed = _appended(changed, _REQUIRED_TERMS, term)
        else:
            changed = _appended(changed, _PREFERRED_TERMS, {"weight": WEIGHT, "podAffinityTerm": term})
    if changed == affinity:
        return Admitted()
    return Admitted(patch=({"op": "add", "path": "/spec/affinity", "value": changed},))


def _labels(pod: Json) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("labels") or {}


def _required_by(label: tuple[str, str]) -> str | None:
    """The Dataset at whose workers a pod with this label must run."""
    key, value = label
    is_one = key.startswith(_REQUIRED_LABEL_BEGIN) and key.endswith(_REQUIRED_LABEL_END) and value == _REQUIRED
    return key[len(_REQUIRED_LABEL_BEGIN) : -len(_REQUIRED_LABEL_END)] if is_one else None


def _at_workers(dataset: Names) -> dict[str, Any]:
    """On a node of a worker. Workers are in the namespace of the Dataset, which is the pod's: no other is looked at."""
    return {"labelSelector": {"matchLabels": dataset.selector(WORKER_ROLE)}, "topologyKey": _TOPOLOGY}


def _appended(affinity: Json, kind: str, entry: Json) -> Json:
    """The affinity with one more entry, unless it has it: other webhooks may have the pod come again."""
    to_pods = affinity.get("podAffinity") or {}
    entries = to_pods.get(kind) or []
    if entry in entries:
        return affinity
    return {**affinity, "podAffinity": {**to_pods, kind: [*entries, entry]}}
