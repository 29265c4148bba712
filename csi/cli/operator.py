"""``efc operator``: what the driver does in a cluster as a whole, by the Kubernetes API (:mod:`csi.operator`)."""

import argparse

from csi.base.addresses import parse_address


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc operator`` until a signal."""
    from csi.operator import running
    from csi.operator.objects.settings import Settings

    address = parsed.liveness_address
    liveness = None if address is None else parse_address(address, noun="liveness address")
    datasets = None
    if parsed.image:
        settings = Settings(
            image=parsed.image,
            image_pull_policy=parsed.image_pull_policy,
            image_pull_secrets=tuple(parsed.image_pull_secret),
            has_pod_network=parsed.network_pod,
        )
        datasets = running.Datasets(
            settings=settings,
            namespace=parsed.namespace,
            has_webhook=parsed.webhook,
            allowed_sources=parsed.allowed_sources,
        )
    running.run(
        log_level=parsed.log_level, liveness=liveness, metrics_address=parsed.metrics_address, datasets=datasets
    )
    return 0
