"""``efc in-use``: fails, and says why, while a pod of the cluster uses a volume, or it has a Dataset of ours."""

import argparse


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc in-use``: returns 0 when nothing does; raises FAILED_PRECONDITION otherwise."""
    from csi.operator import running

    running.refuse_if_used(again_after_seconds=parsed.again_after)
    return 0
