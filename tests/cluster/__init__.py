"""The driver on a real Kubernetes cluster, whose nodes are namespaces of this machine."""
