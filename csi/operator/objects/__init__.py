"""What a Dataset and its EFCRuntime are made of in a cluster: pure functions, without clock and network.

:func:`csi.operator.objects.wanted.wanted_objects` has all of them.
"""
