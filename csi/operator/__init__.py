"""What needs the Kubernetes API: one process per cluster, ``efc operator``.

Duties are modules here, each with a class that is attached to a registry of kopf's handlers
(:mod:`csi.operator.running`). Nothing on a node imports this: node plugins have no way to the API, and kopf would cost
each of them 20 MB.
"""
