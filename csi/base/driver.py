"""The driver's name and release."""

import re
import sys
from pathlib import Path

#: The driver's name, a domain name as CSI asks (GetPluginInfo): at most 63 characters. It stands in every PV.
NAME = "efc.csi.data.fluid.io"
_METADATA = re.compile(r"efc_csi-([0-9][^-]*)\.dist-info")


def version() -> str:
    """The installed release, or ``0.0.0`` when run from a source tree that is not installed.

    Read from the name of the distribution's metadata: importlib.metadata would do the same, but brings in the whole of
    ``email``, 2.5 MB in every node plugin.
    """
    for folder in sys.path:
        for path in sorted(Path(folder).glob("efc_csi-*.dist-info")):
            if match := _METADATA.fullmatch(path.name):
                return match[1]
    return "0.0.0"
