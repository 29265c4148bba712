"""The master of one Dataset: the channel between the operator and the nodes that have it mounted (proto/dataset.proto)."""
