"""The master of one Dataset: relays between the operator and the Dataset's nodes, and keeps its figures."""
