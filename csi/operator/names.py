"""Names of a Dataset's objects, and the labels by which they are found.

A Dataset's name may have 253 characters, dots included, its namespace 63. Where that is more than an object's name or a
label may have, the Dataset's UID takes its place: names are never truncated, so that no two Datasets share one.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csi.api.common import API_VERSION, ObjectMeta

#: Where masters and workers listen, but in the network of their node (:meth:`Names.host_port`).
MASTER_PORT, WORKER_PORT = 9810, 11211
#: The names in the certificates of masters and workers: addresses of pods change.
MASTER_HOST, WORKER_HOST = "master.efc", "worker.efc"
MASTER_ROLE, WORKER_ROLE = "efc-master", "efc-worker"
#: Of pods: whose they are, whether other Datasets' workers may be beside them.
DATASET_LABEL, PLACEMENT_LABEL, ROLE_LABEL = "fluid.io/dataset", "fluid.io/dataset-placement", "role"
#: Of everything: the UID of the Dataset, by which the operator selects what is its own.
UID_LABEL = "efc.data.fluid.io/dataset-uid"
#: Of the master's pod that leads: the Service selects it.
LEADER_LABEL = "data.fluid.io/efc-leader"
#: Of everything: the hash of what was wanted when the object was last applied.
APPLIED_ANNOTATION = "efc.data.fluid.io/applied"
#: Of pods: whose certificates they believe (:data:`csi.operator.pki.LINE`).
LINE_ANNOTATION = "efc.data.fluid.io/authority-line"
#: The class in whose name claims and volumes are bound; there is no object of it.
STORAGE_CLASS = "fluid"
DATASET_KIND, RUNTIME_KIND = "Dataset", "EFCRuntime"

_NAME_LENGTH_MAX = 253
_LABEL_LENGTH_MAX = 63
#: Of a StatefulSet: its pods have a label with a hyphen and ten characters behind its name.
_STATEFUL_SET_LENGTH_MAX = _LABEL_LENGTH_MAX - len("-0123456789")
#: What a Service may be called (RFC 1035), and a pod's host.
_HOST = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
#: Ports of the nodes for masters and workers in their network: below those that Linux gives to clients (32768).
_HOST_PORTS = range(20_000, 30_000)


@dataclass(frozen=True, kw_only=True)
class Names:
    """Of the objects of one Dataset and its runtime."""

    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, dataset: ObjectMeta) -> "Names":
        """Those of the Dataset with this metadata."""
        return cls(namespace=dataset.namespace, name=dataset.name, uid=dataset.uid)

    @property
    def authority(self) -> str:
        """The Secret with the key that signs the Dataset's certificates: the operator's alone."""
        return self._secret("authority")

    @property
    def node_secret(self) -> str:
        """The Secret that nodes get when they publish the volume."""
        return self._secret("node")

    @property
    def master_secret(self) -> str:
        """The Secret of the master's pods."""
        return self._secret("master")

    @property
    def worker_secret(self) -> str:
        """The Secret of the workers' pods."""
        return self._secret("worker")

    @property
    def master(self) -> str:
        """The StatefulSet and the Service of the master."""
        return self._host("master")

    @property
    def workers(self) -> str:
        """The StatefulSet of the workers."""
        return self._host("worker")

    @property
    def claim(self) -> str:
        """The PersistentVolumeClaim: the one thing that users' pods name."""
        return self.name

    @property
    def volume(self) -> str:
        """The PersistentVolume; it belongs to no namespace, so the Dataset's name would not do."""
        return f"efc-dataset-{self.uid}"

    @property
    def volume_handle(self) -> str:
        """What the volume is called between kubelet and the driver."""
        return f"dataset-{self.uid}"

    @property
    def dataset(self) -> str:
        """What the Dataset is called where both parts are needed."""
        return f"{self.namespace}/{self.name}"

    @property
    def identity(self) -> str:
        """NAMESPACE-NAME as the value of a label. It is not always one Dataset's alone: names have hyphens."""
        return self._fitting(f"{self.namespace}-{self.name}")

    @property
    def node_label(self) -> str:
        """The label that claim and volume have with the value "true"."""
        name = f"s-{self.namespace}-{self.name}"
        return f"fluid.io/{name if len(name) <= _LABEL_LENGTH_MAX else f's-{self.uid}'}"

    def labels(self) -> dict[str, str]:
        """Of every object."""
        return {"app": "efc", "release": self._fitting(self.name), UID_LABEL: self.uid}

    def pod_labels(self, role: str, *, placement: str) -> dict[str, str]:
        """Of the pods of the master or the workers."""
        return {**self.labels(), ROLE_LABEL: role, DATASET_LABEL: self.identity, PLACEMENT_LABEL: placement}

    def volume_labels(self) -> dict[str, str]:
        """Of claim and volume."""
        return {**self.labels(), self.node_label: "true", "fluid.io/dataset-id": self.identity}

    def selector(self, role: str) -> dict[str, str]:
        """The labels that the pods of this role have, and no others of the namespace."""
        return {**self.labels(), ROLE_LABEL: role}

    def host_port(self, role: str) -> int:
        """The port of the master or the workers in the network of their nodes, always the same for one Dataset.

        Two Datasets may have the same one. The scheduler keeps their pods apart then: it knows the ports.
        """
        number = int.from_bytes(hashlib.sha256(f"{self.uid} {role}".encode()).digest()[:8], "big")
        return _HOST_PORTS[number % len(_HOST_PORTS)]

    def _secret(self, purpose: str) -> str:
        name = f"{self.name}-efc-{purpose}"
        return name if len(name) <= _NAME_LENGTH_MAX else f"efc-{self.uid}-efc-{purpose}"

    def _host(self, purpose: str) -> str:
        name = f"{self.name}-{purpose}"
        fits = len(name) <= _STATEFUL_SET_LENGTH_MAX and _HOST.fullmatch(name)
        return name if fits else f"efc-{self.uid}-{purpose}"

    def _fitting(self, value: str) -> str:
        return value if len(value) <= _LABEL_LENGTH_MAX else self.uid


def owner_reference(kind: str, owner: ObjectMeta, *, is_controller: bool = True) -> dict[str, Any]:
    """The entry of ``metadata.ownerReferences`` of what belongs to a Dataset or an EFCRuntime.

    An object has one controller at most.
    """
    reference = {"apiVersion": API_VERSION, "kind": kind, "name": owner.name, "uid": owner.uid}
    return reference | {"controller": True} if is_controller else reference


def is_owned(metadata: Mapping[str, Any], owner: ObjectMeta) -> bool:
    """Whether an object, by its ``metadata``, belongs to ``owner``: what does not is never touched."""
    return any(reference.get("uid") == owner.uid for reference in metadata.get("ownerReferences") or ())


def is_our_volume(volume: Mapping[str, Any], names: Names, *, driver: str) -> bool:
    """Whether a PersistentVolume of the Dataset's volume's name is the Dataset's: nothing can own one but a label."""
    csi = volume["spec"].get("csi") or {}
    return csi.get("driver") == driver and csi.get("volumeHandle") == names.volume_handle
