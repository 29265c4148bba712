"""``efc operator``: what the driver does in a cluster as a whole, by the Kubernetes API (:mod:`csi.operator`)."""

import argparse

from csi.base.addresses import parse_address


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc operator`` until a signal."""
    from csi.operator import running

    address = parsed.liveness_address
    liveness = None if address is None else parse_address(address, noun="liveness address")
    running.run(log_level=parsed.log_level, liveness=liveness)
    return 0
