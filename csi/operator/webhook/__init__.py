"""The opt-in admission webhook: schedules pods that ask for it to the workers of the Datasets that they use.

``affinity`` decides, ``serving`` answers the API server in a process of its own, and ``certificates`` renews the
webhook's certificate in the leading operator.
"""
