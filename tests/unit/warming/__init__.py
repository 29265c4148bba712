"""Reading data into caches, without mounts: csi/warming."""
