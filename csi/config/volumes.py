"""What a volume is: its id, its record on the NAS, and the context that travels in its PV.

A provisioned volume's id is derived from the name that the CO chose, so a repeated CreateVolume finds its own traces on
the NAS without any other state. A record beside the data says what an id stands for. A static PV may have any
``volumeHandle``: on a node an id is a label, and never becomes part of a path or an option.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from csi.base.errors import Code, DriverError, invalid
from csi.base.saved import DamagedError, checked, decoded
from csi.config import datasets, driver_nfs, pods
from csi.config.datasets import DatasetVolume
from csi.config.mount_options import MountOptions, is_option, parse, parse_item
from csi.config.option_values import VALUE_LENGTH_MAX, WORD_LENGTH_MAX
from csi.config.options import OPTIONS
from csi.config.parameters import OnDelete
from csi.config.paths import check_relative
from csi.config.pods import Pod
from csi.config.several import Sources
from csi.config.sources import Source
from csi.config.unknown_names import unknown

#: Longest volume id in characters. The CSI specification allows 128; static PVs of other drivers have longer ones.
VOLUME_ID_LENGTH_MAX = 1024
#: Longest name of a volume in bytes (the CSI specification, "General size limits").
NAME_LENGTH_MAX = 128
RECORD_VERSION = 1
#: Keys that Kubernetes adds to a map: pod information, tokens, the claim's name, the provisioner's identity.
KUBERNETES_PREFIXES = ("csi.storage.k8s.io/", "storage.kubernetes.io/")
#: Limits of some numbers in a record; all others fit an int64, as the CSI specification's do.
_NUMBER_LIMITS = {"uid": 1 << 32, "gid": 1 << 32, "mode": 1 << 12, "fileid": 1 << 64}
#: Attributes of a volume beside options.
_ATTRIBUTES = ("source", "sources", "path", *datasets.ATTRIBUTES)
_OWN_ID = re.compile(r"efc-[0-9a-f]{32}")
_EPHEMERAL = "csi.storage.k8s.io/ephemeral"
#: As kubelet names inline volumes.
_INLINE_ID = re.compile(r"csi-[0-9a-f]{64}")


def volume_id_of(name: str) -> str:
    """The id of the volume that the CO calls ``name``. Raises INVALID_ARGUMENT."""
    if not name:
        raise invalid("the volume has no name")
    if len(name.encode(errors="replace")) > NAME_LENGTH_MAX or not name.isprintable():
        raise invalid(f"the volume's name must be printable and at most {NAME_LENGTH_MAX} bytes long")
    return "efc-" + hashlib.sha256(name.encode()).hexdigest()[:32]


def is_own_id(volume_id: str) -> bool:
    """Whether :func:`volume_id_of` can have made this id."""
    return _OWN_ID.fullmatch(volume_id) is not None


def check_volume_id(volume_id: str) -> str:
    """``volume_id`` itself, if it may stand in a PV; raises INVALID_ARGUMENT."""
    if not volume_id:
        raise invalid("the request has no volume id")
    if len(volume_id) > VOLUME_ID_LENGTH_MAX or not volume_id.isprintable():
        raise invalid(f"the volume id must be printable and at most {VOLUME_ID_LENGTH_MAX} characters long")
    return volume_id


@dataclass(frozen=True, kw_only=True)
class VolumeRecord:
    """A provisioned volume, as it stands on the NAS in ``.efc/volumes/<id>.json``.

    ``path`` is relative to ``source``, which lies at or beneath the configured source where the record is. ``fileid``
    is the directory's inode number: the marker by which a directory is known to be this volume's.
    """

    id: str
    name: str
    source: str
    path: str
    capacity_bytes: int
    on_delete: str
    uid: int
    gid: int
    mode: int
    options: dict[str, str]
    fileid: int
    created_unix_ns: int
    version: int = RECORD_VERSION

    def to_json(self) -> bytes:
        """The record as JSON, as it stands on the NAS; people may read it."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes, *, volume_id: str) -> Self:
        """Reads and checks a record; raises INTERNAL, since nothing in it is taken on trust."""
        try:
            record = checked(cls, decoded(text))
            record.check(volume_id)
        except (ValueError, DriverError) as error:
            raise DriverError(
                Code.INTERNAL, f"the record of volume {volume_id!r} on the NAS is damaged: {error}"
            ) from None
        return record

    def check(self, volume_id: str) -> None:
        """Raises ValueError or DriverError unless this can be the record of volume ``volume_id``."""
        if self.version != RECORD_VERSION:
            raise DamagedError(f"its version is not {RECORD_VERSION}")
        if self.id != volume_id or not is_own_id(self.id) or volume_id_of(self.name) != self.id:
            raise DamagedError("it is another volume's")
        if Source.parse(self.source).canonical() != self.source:
            raise DamagedError("its source is not canonical")
        if not check_relative(self.path, noun="path"):
            raise DamagedError("it has no path")
        for name in ("capacity_bytes", "created_unix_ns", "uid", "gid", "mode", "fileid"):
            if not 0 <= getattr(self, name) < _NUMBER_LIMITS.get(name, 1 << 63):
                raise DamagedError(f"field {name!r} is out of range")
        for name, value in self.options.items():
            is_too_long = len(name) > WORD_LENGTH_MAX or len(value) > VALUE_LENGTH_MAX
            if is_too_long or not (name + value).isprintable():
                raise DamagedError("one of its options is too long or cannot be printed")
        OnDelete(self.on_delete)

    def context(self) -> dict[str, str]:
        """The volume context: what the node needs to find the directory, and nothing else."""
        return {"source": self.source, "path": self.path, **self.options}


@dataclass(frozen=True, kw_only=True)
class NodeVolume:
    """A volume as a node sees it: a directory of a dataset, and the options of the dataset's daemon.

    ``inline_in`` is the pod's namespace if its own specification says what to mount (see csi.node.inline), and None if
    a PersistentVolume does. ``pod`` is who it is published for, None if kubelet does not say; nothing is decided by it.
    ``dataset`` is the Dataset whose volume it is, None if it is none's. ``serving`` are the sources that its daemon is
    to serve by now, if they are others than those that the volume names.
    """

    id: str
    source: Source | Sources
    path: str
    options: MountOptions
    inline_in: str | None = None
    pod: Pod | None = None
    dataset: DatasetVolume | None = None
    serving: Sources | None = None

    @classmethod
    def from_context(
        cls, volume_id: str, context: Mapping[str, str], *, mount_flags: list[str], target: str = ""
    ) -> Self:
        """Checks everything; raises INVALID_ARGUMENT, or FAILED_PRECONDITION if an inline volume is nobody's.

        ``target`` is where the volume shall be published, which tells whose it is.
        """
        check_volume_id(volume_id)
        context, items = driver_nfs.own_attributes(context)
        if bool(context.get("source")) == bool(context.get("sources")):
            raise invalid("the volume's attributes must have 'source', such as nfs://nas/directory, or 'sources'")
        for name, value in context.items():
            if is_option(name):
                items.append((name, value or None))
            elif name not in _ATTRIBUTES and not name.startswith(KUBERNETES_PREFIXES):
                raise unknown(
                    name,
                    known=["source", "sources", "path", *OPTIONS],
                    noun="attribute",
                    origin="the volume's attributes",
                )
        items += [parse_item(flag) for flag in mount_flags]
        options = parse(items, origin="the volume's attributes and mount options")
        inline_in = _namespace_of_inline(volume_id, context, target=target)
        dataset = DatasetVolume.from_attributes(volume_id, context)
        if dataset is not None and inline_in is not None:
            raise invalid("an inline volume cannot be a volume of a Dataset: mount the Dataset's claim")
        if context.get("sources") and inline_in is not None:
            raise invalid("an inline volume has one 'source', and no 'sources'")
        return cls(
            id=volume_id,
            source=_origin(volume_id, context, options, dataset=dataset),
            path=check_relative(context.get("path", ""), noun="the volume's path"),
            options=options,
            inline_in=inline_in,
            pod=pods.pod_of(context, target=target),
            dataset=dataset,
        )


def _origin(
    volume_id: str, context: Mapping[str, str], options: MountOptions, *, dataset: DatasetVolume | None
) -> Source | Sources:
    """Where the volume's data is; a Dataset's id stands for its sources as a whole where they come and go."""
    if context.get("source"):
        return options.source_with_ports(Source.parse(context["source"]))
    are_live = dataset is not None and dataset.live_sources
    sources = Sources.parse(context["sources"], identity=volume_id if are_live else "")
    return sources.with_ports(port=options.port, mount_port=options.mount_port)


def _namespace_of_inline(volume_id: str, context: Mapping[str, str], *, target: str) -> str | None:
    """The pod's namespace, by kubelet's word; None if a PersistentVolume describes the volume.

    Nothing here may be the pod's own word. The id is kubelet's: a pod cannot choose it; nor can it know the uid by
    which pod information is known (:mod:`csi.config.pods`).
    """
    has_inline_id = _INLINE_ID.fullmatch(volume_id) is not None
    if not has_inline_id and context.get(_EPHEMERAL, "false") == "false":
        return None
    if context.get(_EPHEMERAL) == "false":
        raise DriverError(
            Code.FAILED_PRECONDITION,
            f"volume {volume_id!r} has the name of an inline volume and says that it is none: the CSIDriver object "
            "needs podInfoOnMount: true, and a PersistentVolume another volumeHandle",
        )
    namespace = pods.namespace_of(context, target=target)
    if namespace is None:
        raise DriverError(
            Code.FAILED_PRECONDITION,
            "kubelet does not say to which namespace the pod of this inline volume belongs: the CSIDriver object needs "
            "podInfoOnMount: true",
        )
    return namespace
