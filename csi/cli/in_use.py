"""``efc in-use``: fails, and says why, while a pod of the cluster uses a volume; before an uninstallation."""

import argparse


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc in-use``: returns 0 when no pod uses a volume; raises FAILED_PRECONDITION otherwise."""
    from csi.operator import running

    running.refuse_if_used(again_after_seconds=parsed.again_after)
    return 0
