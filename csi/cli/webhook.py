"""``efc webhook``: answers the API server about new pods (:mod:`csi.operator.webhook`)."""

import argparse

from csi.base.addresses import parse_address


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc webhook`` until a signal."""
    from csi.operator import running
    from csi.operator.webhook.serving import Listening

    host, port = parse_address(parsed.listen, noun="address to listen at")
    listening = Listening(host=host, port=port, certificate=parsed.certificate)
    running.serve_webhook(listening, log_level=parsed.log_level)
    return 0
