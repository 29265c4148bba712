"""What all packages share: csi/base."""
