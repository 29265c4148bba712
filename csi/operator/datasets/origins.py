"""Where a Dataset's data is, as one canonical source: for ``pvc://`` what the volume of that claim names."""

from csi.api.dataset import Dataset
from csi.api.sources import ClaimSource, source_of
from csi.base import driver
from csi.base.errors import Code, DriverError, invalid
from csi.config import driver_nfs
from csi.config.sources import Source
from csi.operator.cluster import Cluster, Json
from csi.operator.datasets import paths

#: csi-driver-nfs, whose volumes are directories of a NAS as well.
_DRIVER_NFS = "nfs.csi.k8s.io"


async def source(cluster: Cluster, dataset: Dataset) -> str:
    """The canonical source of the Dataset's only mount; raises INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION."""
    mounts = dataset.spec.mounts
    if len(mounts) != 1:
        raise invalid(
            f"the Dataset has {len(mounts)} mounts: exactly one is served for now; make a Dataset for each source"
        )
    found = source_of(mounts[0].mount_point)
    if isinstance(found, ClaimSource):
        found = await _of_claim(cluster, dataset.metadata.namespace, found)
    return found.canonical()


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
        f"claim {claim!r} is no directory of a NAS (volume {volume['metadata']['name']!r}): a Dataset can have claims "
        f"of in-tree nfs volumes, of {_DRIVER_NFS} and of {driver.NAME}",
    )
