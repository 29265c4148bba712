"""What becomes of a Dataset and its EFCRuntime: decided by pure functions, done by :mod:`csi.operator.datasets.reconciler`.

Everything that is known of one key is a :class:`csi.operator.datasets.seen.Seen`;
:func:`csi.operator.datasets.decision.decide` makes of it what is to be done, without clock, network or memory of its own.
"""
