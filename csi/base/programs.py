"""Where the Rust programs are: in ``EFC_BIN_DIR``, else beside the Python interpreter, as installed."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from csi.base.errors import Code, DriverError

DAEMON = "efcd"
KEEPER = "efc-keeper"
MOUNT_HELPER = "efc-mount-helper"
NAS_CLIENT = "efc-fs"


def find(name: str, *, environment: Mapping[str, str] | None = None) -> str:
    """The absolute path of program ``name``.

    Raises FAILED_PRECONDITION when it is not installed. The search path (``PATH``) is not asked: these programs run as
    root, and their version must be this package's.
    """
    environment = os.environ if environment is None else environment
    directory = environment.get("EFC_BIN_DIR")
    # Not resolved: in a virtual environment the interpreter is a link, and the programs lie beside the link.
    folder = Path(directory) if directory else Path(sys.executable).parent
    path = (folder / name).absolute()
    if not os.access(path, os.X_OK):
        raise DriverError(
            Code.FAILED_PRECONDITION,
            f"program {name} is not in {folder}: install EFC with its Rust programs, or set EFC_BIN_DIR",
        )
    return str(path)
