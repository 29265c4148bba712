"""Sizes of a file system, as ``efc-mount-helper statvfs`` prints them for a mount and ``efc-fs df`` for a NAS."""

import json
from dataclasses import dataclass

from csi.base.errors import Code, DriverError


@dataclass(frozen=True, kw_only=True)
class Statvfs:
    """A file system's sizes: ``bytes_*`` in bytes, ``files_*`` in inodes."""

    bytes_total: int
    bytes_free: int
    bytes_available: int
    files_total: int
    files_free: int

    @classmethod
    def from_json(cls, text: bytes, *, origin: str) -> "Statvfs":
        """Reads the JSON object that program ``origin`` has printed; raises INTERNAL if it is none of these sizes."""
        try:
            fields = json.loads(text)
            return cls(**{name: int(fields[name]) for name in cls.__annotations__})
        except (ValueError, KeyError, TypeError) as error:
            raise DriverError(Code.INTERNAL, f"{origin} printed something other than statvfs: {error}") from None
