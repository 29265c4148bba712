"""StorageClass parameters: the settings of the volumes that are made for a StorageClass.

An allow-list like that of the mount options (:mod:`csi.config.options`), all of which are parameters too. An unknown
parameter is an error, since a misspelt ``onDelete: retian`` would cost somebody's data. Those of csi-driver-nfs
are accepted as well (:mod:`csi.config.driver_nfs`).
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from csi.base.errors import invalid
from csi.config import driver_nfs
from csi.config.mount_options import is_option, own_words, parse
from csi.config.options import OPTIONS
from csi.config.patterns import METADATA, filled_in
from csi.config.sources import Source
from csi.config.unknown_names import unknown

_ORIGIN = "the StorageClass's parameters"
_KUBERNETES_PREFIX = "csi.storage.k8s.io/"
#: Longest part of a name in a directory (255 bytes) that has two parts and what connects them.
_NAME_PART_LENGTH_MAX = 120
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
    """Checked parameters. ``source`` is None, ``path`` empty when not given; ``mode`` is a number like 0o777.

    ``default_path`` is where a directory is to be made without ``path``; empty: at the volume's id. ``options`` are in
    the words of :mod:`csi.config.options` only, since they travel to nodes of any release.
    """

    source: Source | None
    path: str
    default_path: str
    on_delete: OnDelete
    uid: int
    gid: int
    mode: int
    options: dict[str, str]

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "VolumeParameters":
        """Reads parameters; raises INVALID_ARGUMENT that names the parameter, the bad value and what is allowed."""
        parameters = driver_nfs.own_parameters(parameters)
        for name in parameters:
            if name not in _OWN and not is_option(name) and not name.startswith(_KUBERNETES_PREFIX):
                raise unknown(name, known=[*_OWN, *OPTIONS], noun="parameter", origin=_ORIGIN)
        options = {name: value for name, value in parameters.items() if is_option(name)}
        source = Source.parse(parameters["source"]) if "source" in parameters else None
        checked = parse([(name, value or None) for name, value in options.items()], origin=_ORIGIN)
        if source is not None:
            source = checked.source_with_ports(source)
        on_delete = parameters.get("onDelete", OnDelete.DELETE.value)
        if on_delete not in [choice.value for choice in OnDelete]:
            raise invalid(f"parameter 'onDelete' has value {on_delete!r}; allowed is delete, retain or archive")
        return cls(
            source=source,
            path=_path(parameters),
            default_path=_default_path(parameters, OnDelete(on_delete)),
            on_delete=OnDelete(on_delete),
            uid=_id(parameters, "uid"),
            gid=_id(parameters, "gid"),
            mode=_mode(parameters),
            options=own_words(options, origin=_ORIGIN),
        )


def _path(parameters: Mapping[str, str]) -> str:
    """The path that pathPattern makes; "" without one."""
    pattern = parameters.get("pathPattern", "")
    return filled_in(pattern, parameters, parameter="pathPattern") if pattern else ""


def _default_path(parameters: Mapping[str, str], on_delete: OnDelete) -> str:
    """The name of a directory that outlives its volume, which tells people whose it is; "" for others."""
    if on_delete is OnDelete.DELETE or not all(parameters.get(key) for key in METADATA.values()):
        return ""
    namespace, claim, volume = (filled_in(f"${{{name}}}", parameters, parameter="pathPattern") for name in METADATA)
    if len(volume) > _NAME_PART_LENGTH_MAX:
        return ""
    return f"{namespace}-{claim}"[:_NAME_PART_LENGTH_MAX].rstrip("-.") + f"-{volume}"


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
