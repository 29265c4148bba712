"""The desired objects of a Dataset and its EFCRuntime in a cluster: pure functions, without clock and network.

:func:`csi.operator.objects.wanted.wanted_objects` returns all of them.
"""
