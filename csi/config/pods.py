"""The pod that a volume is published for, by kubelet's word.

kubelet puts pod information into the volume context, over what a pod or a PersistentVolume has written under the same
keys, but only with podInfoOnMount. That it is there is known by the pod's uid, which the target names too, and which
nobody knew when the pod was written.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAMESPACE = "csi.storage.k8s.io/pod.namespace"
_NAME = "csi.storage.k8s.io/pod.name"
_UID = "csi.storage.k8s.io/pod.uid"
#: Namespaces and names of pods, as Kubernetes allows them.
_NAMES = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Pod:
    """The names of a pod, for people to read: nothing is decided by them."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def namespace_of(context: Mapping[str, str], *, target: str) -> str | None:
    """The pod's namespace; None if kubelet does not say it."""
    uid = context.get(_UID, "")
    if not uid or f"/pods/{uid}/volumes/" not in target:
        return None
    return context.get(_NAMESPACE) or None


def pod_of(context: Mapping[str, str], *, target: str) -> Pod | None:
    """The pod's names; None if kubelet does not say them."""
    namespace, name = namespace_of(context, target=target), context.get(_NAME, "")
    if namespace is None or not _NAMES.fullmatch(namespace) or not _NAMES.fullmatch(name):
        return None
    return Pod(namespace=namespace, name=name)
