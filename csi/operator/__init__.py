"""Everything that needs the Kubernetes API: ``efc operator``.

One or more processes of it run, of which a Lease elects one to serve Datasets. :mod:`csi.operator.running` puts its
duties together: the startup taint of nodes, served by kopf, and Datasets, which have watches of their own. The webhook
is a separate process. Nothing on a node imports this package: node plugins have no access to the API, and kopf would
cost each of them 20 MB.
"""
