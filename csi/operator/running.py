"""Puts the operator's duties together, and runs them by kopf until SIGTERM.

kopf watches, connects again when the API server went away, and logs in anew when a token has expired. It is kept from
all else that it would do: no peering, no Kubernetes events, no watching of CRDs and namespaces, which would need rights
that no duty does. What it cannot get over ends the process; the pod's restart begins anew, with nothing lost.
"""

import asyncio
import logging

import kopf

from csi.base.errors import Code, DriverError
from csi.operator import volume_users
from csi.operator.cluster import Cluster
from csi.operator.startup_taint import StartupTaint

#: How often a request is tried while the API server is away; after that, the process ends.
_BACKOFF_SECONDS = (1, 1, 2, 3, *[5] * 120)


def run(*, log_level: str, liveness: tuple[str, int] | None) -> None:
    """Runs until a signal; ``liveness`` is where to answer GET /healthz. FAILED_PRECONDITION without credentials."""
    _configure_logging(log_level)
    registry, settings, cluster = kopf.OperatorRegistry(), _settings(), _logged_in(Cluster())
    kopf.on.login(id="login", registry=registry)(cluster.login)
    StartupTaint(cluster).attach(registry)
    endpoint = None
    if liveness is not None:
        host, port = liveness
        endpoint = f"http://[{host}]:{port}/healthz" if ":" in host else f"http://{host}:{port}/healthz"
    kopf.run(registry=registry, settings=settings, clusterwide=True, standalone=True, liveness_endpoint=endpoint)


def refuse_if_used(*, again_after_seconds: float) -> None:
    """What :func:`csi.operator.volume_users.refuse_if_used` says of the cluster that the credentials are for."""

    async def refuse() -> None:
        cluster = _logged_in(Cluster())
        try:
            await volume_users.refuse_if_used(cluster, again_after_seconds=again_after_seconds)
        finally:
            await cluster.close()

    asyncio.run(refuse())


def _logged_in(cluster: Cluster) -> Cluster:
    if cluster.login(settings=_settings()) is None:
        raise DriverError(
            Code.FAILED_PRECONDITION,
            "no credentials for the Kubernetes API: run it in a pod with a service account, or set KUBECONFIG",
        )
    return cluster


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _BACKOFF_SECONDS
    settings.networking.request_timeout = 30
    # The server ends a watch after this long; a connection that died unseen is noticed then.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    return settings


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A line for every event and every probe is of no use here.
    for name in ("kopf.objects", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
