"""The master of one Dataset: the channel between the operator and its nodes (proto/dataset.proto)."""
