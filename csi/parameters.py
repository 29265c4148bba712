"""StorageClass parameters: what a StorageClass may say about the volumes that are made for it.

An allow-list like that of the mount options (:mod:`csi.options`), whose words are parameters too. A parameter that is
not known is an error, since a misspelt ``onDelete: retian`` would cost somebody's data.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from csi.errors import invalid
from csi.options import OPTIONS, MountOptions, parse, unknown
from csi.paths import check_relative
from csi.sources import Source

_ORIGIN = "the StorageClass's parameters"
#: What external-provisioner adds with --extra-create-metadata, by the name that a pathPattern uses.
_METADATA = {
    "pvc.namespace": "csi.storage.k8s.io/pvc/namespace",
    "pvc.name": "csi.storage.k8s.io/pvc/name",
    "pv.name": "csi.storage.k8s.io/pv/name",
}
_KUBERNETES_PREFIX = "csi.storage.k8s.io/"
_OWN = ("source", "pathPattern", "onDelete", "uid", "gid", "mode")
#: -1 as an unsigned number means "leave it" to chown(2), so it is nobody's id.
_ID_MAX = 2**32 - 2


class OnDelete(enum.Enum):
    """What becomes of a volume's directory when the volume is deleted."""

    DELETE = "delete"
    RETAIN = "retain"
    ARCHIVE = "archive"


@dataclass(frozen=True, kw_only=True)
class VolumeParameters:
    """Checked parameters. ``source`` is None, ``path`` empty when not given; ``mode`` is a number like 0o777."""

    source: Source | None
    path: str
    on_delete: OnDelete
    uid: int
    gid: int
    mode: int
    options: dict[str, str]

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "VolumeParameters":
        """Raises INVALID_ARGUMENT that names the parameter, the bad value and what is allowed."""
        for name in parameters:
            if name not in _OWN and name not in OPTIONS and not name.startswith(_KUBERNETES_PREFIX):
                raise unknown(name, known=[*_OWN, *OPTIONS], noun="parameter", origin=_ORIGIN)
        options = {name: value for name, value in parameters.items() if name in OPTIONS}
        source = Source.parse(parameters["source"]) if "source" in parameters else None
        checked = checked_options(options, origin=_ORIGIN)
        if source is not None:
            source = checked.source_with_ports(source)
        on_delete = parameters.get("onDelete", OnDelete.DELETE.value)
        if on_delete not in [choice.value for choice in OnDelete]:
            raise invalid(f"parameter 'onDelete' has value {on_delete!r}; allowed is delete, retain or archive")
        return cls(
            source=source,
            path=_path(parameters),
            on_delete=OnDelete(on_delete),
            uid=_id(parameters, "uid"),
            gid=_id(parameters, "gid"),
            mode=_mode(parameters),
            options=options,
        )


def checked_options(options: Mapping[str, str], *, origin: str) -> MountOptions:
    """Mount options that came as a map; an empty value is a flag without one (``ro: ""``)."""
    return parse([(name, value or None) for name, value in options.items()], origin=origin)


def _path(parameters: Mapping[str, str]) -> str:
    """The pattern with its variables replaced; "" without a pattern (the volume's id is the path then)."""
    pattern = parameters.get("pathPattern", "")

    def value(match: re.Match[str]) -> str:
        key = _METADATA.get(match[1])
        if key is None:
            allowed = ", ".join(f"${{{name}}}" for name in _METADATA)
            raise invalid(f"parameter 'pathPattern' has {match[0]!r}; allowed are {allowed}")
        text = parameters.get(key, "")
        if not text:
            raise invalid(
                f"parameter 'pathPattern' needs {key!r}: run external-provisioner with --extra-create-metadata"
            )
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text) or ".." in text:
            raise invalid(f"{key} {text[:64]!r} is no Kubernetes name, so it cannot be part of a path")
        return text

    path = check_relative(re.sub(r"\$\{([^}]*)\}", value, pattern), noun="the path of 'pathPattern'")
    if "$" in path:
        raise invalid(f"parameter 'pathPattern' has value {pattern!r}, with a '$' that begins no variable")
    return path


def _id(parameters: Mapping[str, str], name: str) -> int:
    text = parameters.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _ID_MAX:
        raise invalid(f"parameter {name!r} has value {text[:64]!r}; allowed is a number from 0 to {_ID_MAX}")
    return int(text)


def _mode(parameters: Mapping[str, str]) -> int:
    # Kubernetes hands no fsGroup to a volume that many pods share, so the default lets a pod of any user write.
    text = parameters.get("mode", "0777")
    if not re.fullmatch(r"0?[0-7]{3}|[0-7]{4}", text):
        raise invalid(f"parameter 'mode' has value {text[:64]!r}; allowed are permissions in octal, such as 0750")
    return int(text, 8)
