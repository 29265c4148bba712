"""Metrics: csi/observe."""
