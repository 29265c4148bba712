"""Sizes in Datasets and runtimes."""

from csi.api.quantities import bytes_of
from csi.base.errors import DriverError, invalid


def size_of(value: str | int, *, field: str) -> int:
    """The bytes that a quantity is; INVALID_ARGUMENT that names the field it stands in."""
    try:
        return bytes_of(value)
    except DriverError as error:
        raise invalid(f"{field}: {error.message}") from None
