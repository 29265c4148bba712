"""What the node plugin does, without mounts: csi/node."""
