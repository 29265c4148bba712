"""The opt-in admission webhook: pods that ask for it are placed at the workers of the Datasets that they use.

``affinity`` decides, ``serving`` answers the API server in a process of its own, and ``certificates`` keeps, in the
operator that leads, what the two know each other by.
"""
