"""What the driver is called, and which release it is."""

from importlib import metadata

#: A domain name, as CSI asks (GetPluginInfo): at most 63 characters, a letter or digit at both ends. Never change it: PVs name it.
NAME = "efc.csi.data.fluid.io"
#: The distribution that carries this package.
DISTRIBUTION = "efc-csi"


def version() -> str:
    """The installed release, or ``0.0.0`` when run from a source tree that is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0.0.0"
