"""The sources of a Dataset in canonical form; those of ``pvc://`` are resolved to the source of the claim's volume."""

from csi.api.dataset import Dataset
from csi.api.sources import ClaimSource, places_of, source_of
from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.config import driver_nfs
from csi.config.several import MountedSource, Sources
from csi.config.sources import Source
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import paths

#: csi-driver-nfs, whose volumes are directories of a NAS as well.
_DRIVER_NFS = "nfs.csi.k8s.io"


async def source(cluster: Cluster, dataset: Dataset) -> str:
    """The canonical form of the Dataset's source, or of its sources if one shows elsewhere than at the root.

    Raises INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION.
    """
    mounted = []
    for place, mount in zip(places_of(dataset), dataset.spec.mounts, strict=True):
        found = source_of(mount.mount_point)
        if isinstance(found, ClaimSource):
            found = await _of_claim(cluster, dataset.metadata.namespace, found)
        mounted.append(MountedSource(path=place, source=found, read_only=mount.read_only))
    if len(mounted) == 1 and mounted[0].path == "/":
        return mounted[0].source.canonical()
    return Sources.of(mounted).canonical()


async def _of_claim(cluster: Cluster, namespace: str, wanted: ClaimSource) -> Source:
    claim = await cluster.get(paths.CLAIM.path((namespace, wanted.claim)))
    if claim is None:
        raise DriverError(Code.NOT_FOUND, f"there is no claim {wanted.claim!r} in namespace {namespace!r}")
    name = claim["spec"].get("volumeName")
    if not name or (claim.get("status") or {}).get("phase") != "Bound":
        raise DriverError(Code.FAILED_PRECONDITION, f"claim {wanted.claim!r} is not bound to a volume yet")
    volume = await cluster.get(paths.VOLUME.path(("", name)))
    if volume is None:
        raise DriverError(Code.NOT_FOUND, f"there is no volume {name!r}, to which claim {wanted.claim!r} is bound")
    return of_volume(volume, claim=wanted.claim).beneath(wanted.path)


def of_volume(volume: Json, *, claim: str) -> Source:
    """The directory that a PersistentVolume is; FAILED_PRECONDITION if it is none of a NAS."""
    spec = volume["spec"]
    if nfs := spec.get("nfs"):
        return Source.of(host=nfs["server"], path=nfs["path"])
    csi = spec.get("csi") or {}
    if csi.get("driver") in (_DRIVER_NFS, driver.NAME):
        attributes, _ = driver_nfs.own_attributes(csi.get("volumeAttributes") or {})
        if attributes.get("source"):
            return Source.parse(attributes["source"]).beneath(attributes.get("path", "").strip("/"))
    raise DriverError(
        Code.FAILED_PRECONDITION,
        f"claim {claim!r} is not a directory of a NAS (volume {volume['metadata']['name']!r}): a Dataset can have "
        f"claims of in-tree nfs volumes, of {_DRIVER_NFS} and of {driver.NAME}",
    )
