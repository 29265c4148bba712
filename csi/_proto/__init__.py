"""Generated from ``proto/``; never edit by hand, run ``python -m csi._proto.generate``."""
