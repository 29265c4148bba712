"""Whether a path is a directory by ``efc-fs stat``, which reports a symbolic link as such, and follows none."""

import json

from csi.base.errors import Code, DriverError, invalid


def check_directory(printed: bytes, *, source: str) -> None:
    """Raises INVALID_ARGUMENT that names ``source`` if what ``efc-fs stat`` has printed of it is no directory."""
    try:
        kind = str(json.loads(printed)["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise DriverError(
            Code.INTERNAL, f"efc-fs stat printed something other than a file's attributes: {error}"
        ) from None
    if kind != "directory":
        raise invalid(f"{source} is a {kind}, not a directory")
