"""Volumes as directories of a NAS: csi/controller."""
