"""Reconciles Datasets with their EFCRuntimes: pure functions decide, and :mod:`reconciler` executes.

A :class:`Seen` has everything that was observed for one key. From it :func:`decide`
(:mod:`csi.operator.datasets.decision`) computes what is to be done, without clock, network or memory of its own.
"""
