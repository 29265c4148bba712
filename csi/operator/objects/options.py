"""The mount options of a Dataset that may stand in an object."""

from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.api.sources import options_of_all
from csi.operator.objects.settings import Settings


def mount_options(dataset: Dataset, runtime: EFCRuntime, settings: Settings) -> dict[str, str]:
    """Those of the Dataset's mounts (:func:`csi.api.sources.options_of_all`), without what stands in Secrets.

    Raises INVALID_ARGUMENT that names place, option and what is allowed.
    """
    mounts = tuple(mount.model_copy(update={"encrypt_options": ()}) for mount in dataset.spec.mounts)
    spec = dataset.spec.model_copy(update={"mounts": mounts, "shared_encrypt_options": ()})
    public = dataset.model_copy(update={"spec": spec})
    return options_of_all(public, runtime=runtime, has_pod_network=settings.has_pod_network)
