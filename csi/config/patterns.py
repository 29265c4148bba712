"""Expands patterns in paths, such as ``${pvc.namespace}/${pvc.name}``, with what Kubernetes says of a volume."""

import re
from collections.abc import Mapping

from csi.base.errors import invalid
from csi.config.paths import check_relative

#: Name in a pattern -> parameter that external-provisioner adds with --extra-create-metadata.
METADATA = {
    "pvc.namespace": "csi.storage.k8s.io/pvc/namespace",
    "pvc.name": "csi.storage.k8s.io/pvc/name",
    "pv.name": "csi.storage.k8s.io/pv/name",
}
#: Name in a pattern of csi-driver-nfs -> the same here.
_OTHER_NAMES = {
    "pvc.metadata.namespace": "pvc.namespace",
    "pvc.metadata.name": "pvc.name",
    "pv.metadata.name": "pv.name",
}


def filled_in(pattern: str, metadata: Mapping[str, str], *, parameter: str) -> str:
    """The relative path that ``pattern``, the value of ``parameter``, makes; raises INVALID_ARGUMENT."""

    def value(match: re.Match[str]) -> str:
        key = METADATA.get(_OTHER_NAMES.get(match[1], match[1]))
        if key is None:
            allowed = ", ".join(f"${{{name}}}" for name in METADATA)
            raise invalid(f"parameter {parameter!r} has {match[0][:64]!r}; allowed are {allowed}")
        text = metadata.get(key, "")
        if not text:
            raise invalid(
                f"parameter {parameter!r} needs {key!r}: run external-provisioner with --extra-create-metadata"
            )
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text) or ".." in text:
            raise invalid(f"{key} {text[:64]!r} is not a Kubernetes name, so it cannot be part of a path")
        return text

    path = check_relative(re.sub(r"\$\{([^}]*)\}", value, pattern), noun=f"the path of {parameter!r}")
    if "$" in path:
        raise invalid(f"parameter {parameter!r} has value {pattern[:256]!r}, with a '$' that begins no variable")
    return path
