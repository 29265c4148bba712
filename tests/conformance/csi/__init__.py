"""CSI conformance: csi-sanity against the real driver on a real NAS, with no skip list."""
