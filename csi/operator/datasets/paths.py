"""API paths of the objects of a Dataset."""

from dataclasses import dataclass

from csi.api.common import API_VERSION, is_object_name
from csi.base.errors import invalid
from csi.operator import store
from csi.operator.cluster import Json
from csi.operator.watching import Name


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of objects: its part of the API, its plural, the store's name for it ("": it is not watched)."""

    base: str
    plural: str
    resource: str
    namespaced: bool = True

    def collection(self, namespace: str) -> str:
        """The path of all objects of the kind in a namespace."""
        return f"{self.base}/namespaces/{namespace}/{self.plural}" if self.namespaced else f"{self.base}/{self.plural}"

    def path(self, name: Name) -> str:
        """The path of one object; INVALID_ARGUMENT for what is no name, which could lead to another object."""
        for part in name if self.namespaced else name[1:]:
            if not is_object_name(part):
                raise invalid(f"{part[:64]!r} is not the name of an object")
        return f"{self.collection(name[0])}/{name[1]}"


_CORE, _FLUID = "/api/v1", f"/apis/{API_VERSION}"
DATASET = Kind(base=_FLUID, plural="datasets", resource=store.DATASETS)
RUNTIME = Kind(base=_FLUID, plural="efcruntimes", resource=store.RUNTIMES)
POD = Kind(base=_CORE, plural="pods", resource=store.PODS)
SECRET = Kind(base=_CORE, plural="secrets", resource="")
EVENT = Kind(base=_CORE, plural="events", resource="")
CLAIM = Kind(base=_CORE, plural="persistentvolumeclaims", resource=store.CLAIMS)
VOLUME = Kind(base=_CORE, plural="persistentvolumes", resource=store.VOLUMES, namespaced=False)
SERVICE = Kind(base=_CORE, plural="services", resource=store.SERVICES)
STATEFUL_SET = Kind(base="/apis/apps/v1", plural="statefulsets", resource=store.STATEFUL_SETS)
KINDS = {
    "Dataset": DATASET,
    "EFCRuntime": RUNTIME,
    "Secret": SECRET,
    "PersistentVolumeClaim": CLAIM,
    "PersistentVolume": VOLUME,
    "Service": SERVICE,
    "StatefulSet": STATEFUL_SET,
}
OF_RESOURCE = {kind.resource: kind for kind in (DATASET, RUNTIME, POD, CLAIM, VOLUME, SERVICE, STATEFUL_SET)}


def label_of(found: Json) -> str:
    """KIND/NAME of an object that has its kind in it."""
    return f"{found['kind']}/{found['metadata']['name']}"
