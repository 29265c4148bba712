"""What the operator sees of a Dataset: samples, from the first look to one that is settled."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from csi._proto import dataset_pb2
from csi.config.several import MountedSource, Sources
from csi.config.sources import Source
from csi.operator.datasets.decision import decide
from csi.operator.datasets.seen import Decision, Figures, Origin, Probe, Secrets, Seen
from csi.operator.names import LEADER_LABEL, MASTER_ROLE, ROLE_LABEL, UID_LABEL, WORKER_ROLE
from tests.unit.operator.samples import NOW, RUNTIME_UID, SETTINGS, UID

NAME = ("default", "efc-demo")
SOURCE = "nfs://nas/data"
CREATED = "2026-11-29T11:00:00Z"
BOUND = {"type": "Initialized", "status": "True"}


def metadata(name: str, uid: str, **others: Any) -> dict[str, Any]:
    return {
        "name": name, "namespace": NAME[0], "uid": uid, "resourceVersion": "1", "generation": 1,
        "creationTimestamp": CREATED, **others,
    }  # fmt: skip


def dataset(*, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **others: Any) -> Any:
    mounts = [{"mountPoint": "nfs://nas:/data"}]
    return {
        "apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": metadata(NAME[1], UID, **others),
        "spec": {"mounts": mounts, "placement": "Shared", **(spec or {})}, "status": status or {},
    }  # fmt: skip


def runtime(*, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **others: Any) -> Any:
    return {
        "apiVersion": "data.fluid.io/v1alpha1", "kind": "EFCRuntime",
        "metadata": metadata(NAME[1], RUNTIME_UID, **others),
        "spec": {"replicas": 2, **(spec or {})}, "status": status or {},
    }  # fmt: skip


def made(decision: Decision, kind: str) -> list[str]:
    return [one["metadata"]["name"] for one in decision.objects if one["kind"] == kind]


def with_identity(wanted: dict[str, Any], uid: str, **others: Any) -> dict[str, Any]:
    return {**wanted, "metadata": {**wanted["metadata"], "uid": uid, "resourceVersion": "1"}, **others}


def first(**others: Any) -> Seen:
    """Two objects that were made a moment ago, of a source that has been found."""
    given: dict[str, Any] = {
        "name": NAME, "now": NOW, "random": random.Random(1).randbytes, "dataset": dataset(), "runtime": runtime(),
        "origin": Origin(source=SOURCE),
    }  # fmt: skip
    return Seen(**given | others)


def fresh(**others: Any) -> Seen:
    """The same when their authority has been made."""
    (authority,) = (one for one in decide(first(), SETTINGS).objects if one["kind"] == "Secret")
    return first(**{"secrets": Secrets(authority=with_identity(authority, "authority"))} | others)


def pod(name: str, role: str, *, ready: bool = True, leads: bool = False, **others: Any) -> dict[str, Any]:
    labels = {UID_LABEL: UID, ROLE_LABEL: role} | ({LEADER_LABEL: "true"} if leads else {})
    return {
        "metadata": {"name": name, "namespace": NAME[0], "uid": name, "labels": labels, "deletionTimestamp": None},
        "claims": [], "node": "n1", "phase": "Running", "address": "10.0.0.1", "ready": ready, "unschedulable": "",
        "waiting": "", "ports": [9810 if role == MASTER_ROLE else 11211], **others,
    }  # fmt: skip


def user(name: str = "app", *, phase: str = "Running", node: str = "n1") -> dict[str, Any]:
    return pod(name, "", phase=phase, node=node) | {"claims": [NAME[1]]}


def settled(*, made_of: dict[str, Any] | None = None, **others: Any) -> Seen:
    """All objects are there and bound, and the source has been reached; ``made_of``: what is seen from the first."""
    seen = fresh(
        **{"probe": Probe(source=SOURCE)} | (made_of or {}),
        service={"metadata": {"ownerReferences": [{"uid": RUNTIME_UID}]}, "spec": {"clusterIP": "10.96.0.7"}},
    )
    (volume,) = [one for one in decide(seen, SETTINGS).objects if one["kind"] == "PersistentVolume"]
    # The claim comes when Kubernetes knows the volume.
    seen = replace(seen, volumes=(with_identity(volume, "volume", status={"phase": "Available"}),))
    objects = {(one["kind"], one["metadata"]["name"]): one for one in decide(seen, SETTINGS).objects}
    found = {kind: one for (kind, _), one in objects.items() if kind in ("PersistentVolume", "PersistentVolumeClaim")}
    sets = {name: one for (kind, name), one in objects.items() if kind == "StatefulSet"}
    secrets = {name: with_identity(one, name) for (kind, name), one in objects.items() if kind == "Secret"}
    assert seen.service is not None
    seen = replace(
        seen,
        service=with_identity({**objects["Service", "efc-demo-master"], "spec": seen.service["spec"]}, "service"),
        claim=with_identity(found["PersistentVolumeClaim"], "claim", status={"phase": "Bound"}),
        volumes=(with_identity(found["PersistentVolume"], "volume", status={"phase": "Bound"}),),
        master=with_identity(sets["efc-demo-master"], "master", status={"replicas": 1}),
        workers=with_identity(sets["efc-demo-worker"], "workers", status={"replicas": 2}),
        secrets=Secrets(
            authority=secrets["efc-demo-efc-authority"], node=secrets["efc-demo-efc-node"],
            master=secrets["efc-demo-efc-master"], worker=secrets["efc-demo-efc-worker"],
        ),
        pods=(
            pod("efc-demo-master-0", MASTER_ROLE, leads=True), pod("efc-demo-worker-0", WORKER_ROLE),
            pod("efc-demo-worker-1", WORKER_ROLE),
        ),
    )  # fmt: skip
    return replace(seen, **others)


def said(decision: Decision, kind: str) -> dict[str, Any]:
    assert decision.dataset_status is not None
    assert decision.runtime_status is not None
    both = [*decision.dataset_status["conditions"], *decision.runtime_status["conditions"]]
    found = [one for one in both if one["type"] == kind]
    return dict(found[0]) if found else {}


def figures(**totals: Any) -> Figures:
    latest = dataset_pb2.Figures(
        totals=dataset_pb2.Totals(**totals),
        workers=[dataset_pb2.WorkerFigures(name="w", cached_bytes=512 << 20, reachable=True)],
        read=dataset_pb2.ReadFigures(total=1000, from_node=100, from_workers=400),
        nodes=[dataset_pb2.NodeFigures(node="n1", volumes=1, serving=True, connected=True)],
    )
    return Figures(latest=latest, connected=True)


def several(**paths: str) -> str:
    mounted = (MountedSource(path=f"/{path}", source=Source.parse(url)) for path, url in paths.items())
    return Sources.of(mounted).canonical()


def of_sources(found: dict[str, Any], sources: str) -> dict[str, Any]:
    return {"dataset": found, "origin": Origin(source=sources), "probe": Probe(source=sources)}


def told(sources: str, **others: Any) -> Figures:
    node = dataset_pb2.NodeFigures(node="node-1", connected=True, serving=True, sources=sources, **others)
    reachable = dataset_pb2.Reachability(known=True, reachable=True)
    return Figures(latest=dataset_pb2.Figures(nodes=[node], source=reachable), connected=True)
