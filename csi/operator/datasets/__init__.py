"""What becomes of a Dataset and its EFCRuntime: pure functions decide, and :mod:`reconciler` does it.

Everything that is known of one key is a :class:`Seen`, of which :func:`decide` (:mod:`csi.operator.datasets.decision`)
makes what is to be done, without clock, network or memory of its own.
"""
