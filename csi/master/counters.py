"""Counters of others, as they come from JSON or the network, limited to what a message can hold."""

#: Of a message's field: nodes and workers may claim more between them, and a NAS of its files.
UINT64_MAX = (1 << 64) - 1


def told(count: int) -> int:
    """A sum of counts as it can be told."""
    return min(max(count, 0), UINT64_MAX)


def checked(value: object) -> int:
    """A count that was saved; raises ValueError for what is none."""
    if type(value) is not int or not 0 <= value <= UINT64_MAX:
        raise ValueError("no count")
    return value
