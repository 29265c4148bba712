"""The ``efc`` command: csi/cli."""
