"""Volumes of Datasets: their attributes beside source and options, and the contents of their Secret.

The operator makes these PersistentVolumes. ``dataset`` is NAMESPACE/NAME, ``master`` the address of the Dataset's
master (HOST:PORT), ``clean-policy`` when its daemon ends, ``fuse-memory-max`` the daemon's limit in bytes,
``live-sources`` whether the master may change the sources. The volume's id is ``dataset-UID``. The Secret has the keys
below, and is only ever handed to the node plugin.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from csi._proto import dataset_pb2
from csi.base.errors import invalid

#: Attributes that only volumes of Datasets have.
ATTRIBUTES = ("dataset", "master", "clean-policy", "fuse-memory-max", "live-sources")
ON_DEMAND, ON_RUNTIME_DELETED = "OnDemand", "OnRuntimeDeleted"
VOLUME_ID_PREFIX = "dataset-"
_BLOCK_KEY, _AUTHORITY, _CERTIFICATE, _PRIVATE_KEY = SECRET_KEYS = ("block-key", "ca.crt", "tls.crt", "tls.key")
#: A UID of Kubernetes; it becomes the name of a directory.
_UID = re.compile(r"[0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?")
_NAME = re.compile(r"[0-9a-z][0-9a-z-]{0,62}/[0-9a-z][0-9a-z.-]{0,252}")
_MASTER = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_BYTES = re.compile(r"[0-9]{1,18}")
_HEX_KEY = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, kw_only=True)
class DatasetVolume:
    """A Dataset as its volume describes it. ``stays``: its daemon outlives its last volume; 0 is no limit of memory.

    Without ``live_sources`` its sources are those that the volume names, whatever a master says: a volume is the
    administrator's and the operator's word, a master runs in the namespace of its Dataset's users.
    """

    uid: str
    name: str
    master: str
    stays: bool
    memory_max: int = 0
    live_sources: bool = False

    @classmethod
    def from_attributes(cls, volume_id: str, attributes: Mapping[str, str]) -> Self | None:
        """The Dataset, or None if the volume is of none. Raises INVALID_ARGUMENT."""
        given = {name: attributes[name] for name in ATTRIBUTES if name in attributes}
        if not given:
            return None
        uid = volume_id.removeprefix(VOLUME_ID_PREFIX)
        if not volume_id.startswith(VOLUME_ID_PREFIX) or not _UID.fullmatch(uid):
            raise invalid(f"volume {volume_id[:128]!r} has attributes of a Dataset: its id must be dataset-UID")
        name, master = given.get("dataset", ""), given.get("master", "")
        policy, memory_max = given.get("clean-policy", ON_RUNTIME_DELETED), given.get("fuse-memory-max", "0")
        if not _NAME.fullmatch(name):
            raise invalid(f"attribute 'dataset' is {name[:320]!r}: expected NAMESPACE/NAME")
        if not _MASTER.fullmatch(master):
            raise invalid(f"attribute 'master' is {master[:320]!r}: expected HOST:PORT")
        if policy not in (ON_DEMAND, ON_RUNTIME_DELETED):
            raise invalid(f"attribute 'clean-policy' is {policy[:64]!r}: {ON_DEMAND} or {ON_RUNTIME_DELETED}")
        if given.get("live-sources", "true") != "true":
            raise invalid(f"attribute 'live-sources' is {given['live-sources'][:64]!r}: leave it out, or write true")
        if not _BYTES.fullmatch(memory_max):
            raise invalid(f"attribute 'fuse-memory-max' is {memory_max[:64]!r}: expected a number of bytes")
        return cls(
            uid=uid, name=name, master=master, stays=policy == ON_RUNTIME_DELETED, memory_max=int(memory_max),
            live_sources="live-sources" in given,
        )  # fmt: skip

    @property
    def volume_id(self) -> str:
        """The id of its volume."""
        return VOLUME_ID_PREFIX + self.uid


def secrets_of(given: Mapping[str, str]) -> dataset_pb2.Secrets:
    """What a Secret of a Dataset holds; raises INVALID_ARGUMENT that names keys, and no value."""
    missing = [name for name in SECRET_KEYS if not given.get(name)]
    if missing:
        raise invalid(f"the Secret of the Dataset's volume (nodePublishSecretRef) has no {', '.join(missing)}")
    digits = given[_BLOCK_KEY].strip()
    if not _HEX_KEY.fullmatch(digits):
        raise invalid(f"key {_BLOCK_KEY!r} in the Secret of the Dataset's volume is not 64 hexadecimal digits")
    return dataset_pb2.Secrets(
        block_key=bytes.fromhex(digits),
        authority=given[_AUTHORITY].encode(),
        certificate=given[_CERTIFICATE].encode(),
        private_key=given[_PRIVATE_KEY].encode(),
    )
