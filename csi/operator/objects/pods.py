"""The StatefulSets of a Dataset's master and workers.

Their pods have minimal privileges: no root, no capability, a read-only root file system, no token for the Kubernetes
API. They pass the Pod Security level `restricted`, except workers with files in directories of their nodes, and pods in
the network of their node, which need `privileged`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from csi.api.common import NetworkMode
from csi.api.dataset import Dataset, Placement
from csi.api.efcruntime import MASTERS_MAX, Component, EFCRuntime
from csi.operator.names import (
    DATASET_LABEL,
    MASTER_PORT,
    MASTER_ROLE,
    PLACEMENT_LABEL,
    ROLE_LABEL,
    WORKER_PORT,
    WORKER_ROLE,
    Names,
)
from csi.operator.objects.levels import Cache, worker_resources
from csi.operator.objects.settings import Settings

#: `nobody` of every distribution.
_USER = 65534
_TLS = "/etc/efc/tls"
_STATE, _DISK = "/var/lib/efc", "/var/lib/efc/disk-{}"
_READY = "/run/efc-worker"
_GRACE_SECONDS = 10
_READINESS = {"periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2}
_MASTER_RESOURCES = {"requests": {"cpu": "10m", "memory": "96Mi"}}
_HOST_TOPOLOGY = "kubernetes.io/hostname"


def placement_of(dataset: Dataset) -> Placement:
    """Exclusive unless Shared is said, as in Fluid."""
    return Placement.SHARED if dataset.spec.placement == Placement.SHARED else Placement.EXCLUSIVE


def port_of(component: Component, role: str, names: Names) -> int:
    """Where pods of this role listen."""
    if component.network_mode == NetworkMode.HOST:
        return names.host_port(role)
    return MASTER_PORT if role == MASTER_ROLE else WORKER_PORT


def master_set(dataset: Dataset, runtime: EFCRuntime, settings: Settings) -> dict[str, Any]:
    """The StatefulSet of the masters, without metadata but for its name."""
    names, master = Names.of(dataset.metadata), runtime.spec.master
    port = port_of(master, MASTER_ROLE, names)
    container = {
        "args": ["master", f"--listen=[::]:{port}", f"--tls={_TLS}", f"--state={_STATE}/state"],
        "ports": [{"name": "grpc", "containerPort": port, "protocol": "TCP"}],
        "resources": dict(master.resources) or _MASTER_RESOURCES,
        "volumeMounts": [{"name": "state", "mountPath": _STATE}],
    }
    volumes = [{"name": "state", "emptyDir": {}}]
    pod = _pod(
        dataset, master, settings, role="master", secret=names.master_secret, container=container, volumes=volumes
    )
    if master.network_mode != NetworkMode.HOST:
        # It counts what is on the NAS, which may want to be asked from a port below 1024.
        pod["securityContext"]["sysctls"] = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    replicas = min(max(master.replicas, 1), MASTERS_MAX)
    return _stateful_set(dataset, runtime, master, MASTER_ROLE, name=names.master, replicas=replicas, pod=pod)


def worker_set(dataset: Dataset, runtime: EFCRuntime, settings: Settings, cache: Cache) -> dict[str, Any]:
    """The StatefulSet of the workers, without metadata but for its name; of no replicas where no cache is wanted."""
    names, worker = Names.of(dataset.metadata), runtime.spec.worker
    port = port_of(worker, WORKER_ROLE, names)
    container = {
        "args": [
            "worker",
            f"--memory={cache.memory_mib + cache.buffer_mib}MiB",
            *(f"--disk={_DISK.format(number)}={disk.size_mib}MiB" for number, disk in enumerate(cache.disks)),
            f"--listen=[$(POD_ADDRESS)]:{port}",
            f"--ready-file={_READY}/ready",
            *(f"--tls-{part}={_TLS}/{file}" for part, file in _TLS_FILES),
        ],
        "env": [{"name": "POD_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "memcached", "containerPort": port, "protocol": "TCP"}],
        "resources": worker_resources(runtime, cache),
        "volumeMounts": [
            {"name": "ready", "mountPath": _READY},
            *({"name": f"disk-{number}", "mountPath": _DISK.format(number)} for number in range(len(cache.disks))),
        ],
        # Not before its memory is set aside: until then it holds what is no data of anybody.
        "readinessProbe": {**_READINESS, "exec": {"command": ["test", "-e", f"{_READY}/ready"]}},
    }
    volumes = [{"name": "ready", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, *_disks(cache)]
    pod = _pod(
        dataset, worker, settings, role="worker", secret=names.worker_secret, container=container, volumes=volumes
    )
    if any(disk.directory for disk in cache.disks):
        # kubelet makes directories of the node for root alone. Root without a capability may do no more there.
        pod["securityContext"] |= {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
    pod["affinity"] = _affinity(dataset)
    replicas = 0 if worker.disabled else max(runtime.spec.replicas, 0)
    return _stateful_set(dataset, runtime, worker, WORKER_ROLE, name=names.workers, replicas=replicas, pod=pod)


def _disks(cache: Cache) -> list[dict[str, Any]]:
    """Volumes; what workers make there ends with them, since it has no name."""
    return [
        {"name": f"disk-{number}", "hostPath": {"path": disk.directory, "type": "DirectoryOrCreate"}}
        if disk.directory
        else {"name": f"disk-{number}", "emptyDir": dict(disk.empty_dir)}
        for number, disk in enumerate(cache.disks)
    ]


_TLS_FILES = (("certificate", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt"))


def _stateful_set(
    dataset: Dataset,
    runtime: EFCRuntime,
    component: Component,
    role: str,
    *,
    name: str,
    replicas: int,
    pod: Mapping[str, Any],
) -> dict[str, Any]:
    names = Names.of(dataset.metadata)
    labels = names.pod_labels(role, placement=placement_of(dataset).value)
    theirs, here = runtime.spec.pod_metadata, component.pod_metadata
    metadata: dict[str, Any] = {"labels": {**theirs.labels, **here.labels, **labels}}
    if annotations := {**theirs.annotations, **here.annotations}:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "serviceName": names.master,
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},  # one by one, each when the one before it is ready
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": names.selector(role)},
            "template": {"metadata": metadata, "spec": dict(pod)},
        },
    }


def _pod(
    dataset: Dataset,
    component: Component,
    settings: Settings,
    *,
    role: str,
    secret: str,
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    port = {"tcpSocket": {"port": container["ports"][0]["name"]}}
    whole = {
        "name": role,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        # A connection is all that kubelet can try: it has no certificate. Nodes find out by themselves what answers.
        "readinessProbe": {**port, **_READINESS},
        **container,
        "volumeMounts": [{"name": "tls", "mountPath": _TLS, "readOnly": True}, *container["volumeMounts"]],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "livenessProbe": {
            **port,
            "initialDelaySeconds": 20,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "nodeSelector": {"kubernetes.io/os": "linux", **component.node_selector},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [whole],
        "volumes": [{"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}}, *volumes],
    }
    if dataset.spec.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in dataset.spec.tolerations]
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if component.network_mode == NetworkMode.HOST:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    return pod


def _affinity(dataset: Dataset) -> dict[str, Any]:
    """Where workers may be, and beside which others, of whatever namespace."""
    workers: dict[str, Any] = {"key": ROLE_LABEL, "operator": "In", "values": [WORKER_ROLE]}
    affinity: dict[str, Any] = {}
    if dataset.spec.node_affinity and dataset.spec.node_affinity.required:
        affinity["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": dict(dataset.spec.node_affinity.required)
        }
    if placement_of(dataset) is Placement.EXCLUSIVE:
        others = [workers, {"key": DATASET_LABEL, "operator": "Exists"}]
        affinity["podAntiAffinity"] = _required(others)
        return affinity
    exclusive = {"key": PLACEMENT_LABEL, "operator": "In", "values": [Placement.EXCLUSIVE.value]}
    affinity["podAntiAffinity"] = _required([workers, exclusive])
    # Packs: nodes that have workers are better ones.
    affinity["podAffinity"] = {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "podAffinityTerm": _term([workers])}]
    }
    return affinity


def _required(expressions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"requiredDuringSchedulingIgnoredDuringExecution": [_term(expressions)]}


def _term(expressions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "labelSelector": {"matchExpressions": expressions},
        "namespaceSelector": {},
        "topologyKey": _HOST_TOPOLOGY,
    }
