"""The mount options of a Dataset, from all the places where they are written."""

from collections.abc import Mapping
from dataclasses import dataclass

from csi.api.common import NetworkMode
from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.base.errors import invalid
from csi.config.options import OPTIONS, own_words
from csi.operator.objects.settings import Settings

READ_ONLY_MANY = "ReadOnlyMany"
#: Which options are ours to say: they name files of the nodes.
_OURS = frozenset({"workers", "workers-key", "workers-tls"})
#: How words of Fluid's EFC begin that configure its closed programs.
_FLUIDS = "g_"


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A field that has no effect here, and why; for people."""

    field: str
    reason: str


def access_modes(dataset: Dataset) -> tuple[str, ...]:
    """Those of claim and volume."""
    return dataset.spec.access_modes or (READ_ONLY_MANY,)


def is_read_only(dataset: Dataset) -> bool:
    """Whether nobody may write through the Dataset."""
    return set(access_modes(dataset)) <= {READ_ONLY_MANY} or any(mount.read_only for mount in dataset.spec.mounts)


def mount_options(dataset: Dataset, runtime: EFCRuntime, settings: Settings) -> dict[str, str]:
    """Words of docs/CONFIGURATION.md and their values; a flag's is true or false.

    Of the same option in several places wins, from the weakest: the default for a Dataset, ``fuse.properties``,
    ``sharedOptions``, the mount's ``options``. What stands in Secrets is not among them, and wins over all. Raises
    INVALID_ARGUMENT that names place, option and what is allowed.
    """
    read_only = is_read_only(dataset)
    places = [
        ("the runtime's fuse.properties", _properties(runtime)),
        ("the Dataset's sharedOptions", dataset.spec.shared_options),
    ]
    places += [(f"the options of mount {mount.mount_point}", mount.options) for mount in dataset.spec.mounts]
    result = {"consistency": "bounded" if read_only else "cto"}
    if runtime.spec.fuse.network_mode is NetworkMode.CONTAINER and settings.has_pod_network:
        result["network"] = "pod"
    for place, options in places:
        _merge(result, _words(options, origin=place))
    if read_only:
        _merge(result, {"ro": "true"})
    return own_words(result, origin="the Dataset's and the runtime's options together")


def ignored_options(runtime: EFCRuntime, settings: Settings) -> list[Ignored]:
    """What :func:`mount_options` left out."""
    found = [
        Ignored(field=f"spec.fuse.properties.{name}", reason="it is an option of Fluid's closed client")
        for name in sorted(runtime.spec.fuse.properties)
        if name.startswith(_FLUIDS)
    ]
    if runtime.spec.fuse.network_mode is NetworkMode.CONTAINER and not settings.has_pod_network:
        reason = "no pod efc-network is on the nodes (chart value network.enabled): the node's network is used"
        found.append(Ignored(field="spec.fuse.networkMode", reason=reason))
    return found


def _properties(runtime: EFCRuntime) -> Mapping[str, str]:
    return {name: value for name, value in runtime.spec.fuse.properties.items() if not name.startswith(_FLUIDS)}


def _words(options: Mapping[str, str], *, origin: str) -> dict[str, str]:
    for name in options:
        if name in _OURS:
            raise invalid(f"option {name!r} in {origin} is not for Datasets: their workers are made by the runtime")
    return own_words(options, origin=origin)


def _merge(result: dict[str, str], words: Mapping[str, str]) -> None:
    """Puts ``words`` over what is there: `rw` takes the place of `ro`, since both say the same thing."""
    fields = {OPTIONS[name].field for name in words}
    for name in [name for name in result if OPTIONS[name].field in fields]:
        del result[name]
    result.update(words)
