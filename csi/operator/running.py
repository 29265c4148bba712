"""Assembles the operator's duties, and runs them with kopf until SIGTERM.

kopf watches, reconnects when the API server was away, and logs in again when a token has expired. Its other functions
are turned off: no peering, no Kubernetes events, no watching of CRDs and namespaces, which would need rights that no
duty needs. A failure that it cannot handle ends the process; the pod's restart starts over, and nothing is lost.

Datasets have watches of their own (:mod:`csi.operator.watching`), and one process of several serves them, elected by a
Lease. Their CRDs need not exist yet, and no failure with them keeps taints on nodes.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import secrets
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import kopf

from csi.base.addresses import joined_address
from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.observe.exposition import Page, Recorder
from csi.observe.process import put_process
from csi.observe.scraping import MetricsServer
from csi.operator import volume_users
from csi.operator.cluster import Cluster
from csi.operator.datasets.reconciler import Reconciler
from csi.operator.lease import Leadership
from csi.operator.objects.settings import Settings
from csi.operator.startup_taint import StartupTaint
from csi.operator.webhook import serving
from csi.operator.webhook.certificates import Certificates
from csi.operator.webhook.serving import Listening

#: How often a request is tried while the API server is away; after that, the process ends.
_BACKOFF_SECONDS = (1, 1, 2, 3, *[5] * 120)


#: Where kubelet tells a container in which namespace it is.
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NAMESPACE = "efc-system"
_LEASE = "efc-operator"
#: Of mallopt(3).
_M_ARENA_MAX = -8


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """How Datasets are served; ``namespace`` is the Lease's, the operator's own unless given.

    With ``has_webhook``, the webhook's certificate is kept in that namespace, too. ``allowed_sources`` is a file that
    says which namespaces may name which sources; without it all may name all.
    """

    settings: Settings
    namespace: str = ""
    has_webhook: bool = False
    allowed_sources: Path | None = None


def run(
    *,
    log_level: str,
    liveness: tuple[str, int] | None,
    metrics_address: str | None = None,
    datasets: Datasets | None = None,
) -> None:
    """Runs until a signal; ``liveness`` is where to answer GET /healthz. FAILED_PRECONDITION without credentials.

    Without ``datasets`` none are served, and without ``metrics_address`` (ADDRESS:PORT) no metrics.
    """
    _configure_logging(log_level)
    _use_one_heap()
    registry, settings, cluster = kopf.OperatorRegistry(), _settings(), logged_in(Cluster())
    kopf.on.login(id="login", registry=registry)(cluster.login)
    StartupTaint(cluster).attach(registry)
    endpoint = None
    if liveness is not None:
        host, port = liveness
        endpoint = f"http://{joined_address(host, port)}/healthz"

    async def serve() -> None:
        ended, ready = asyncio.Event(), asyncio.Event()
        serving = _Serving(cluster)
        beside = asyncio.create_task(_serve_datasets(serving, datasets, ended)) if datasets is not None else None
        metrics = MetricsServer(metrics_address, serving.page_text) if metrics_address else contextlib.nullcontext()
        watching = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=settings,
                clusterwide=True,
                standalone=True,
                liveness_endpoint=endpoint,
                ready_flag=ready,
                stop_flag=ended,
            )
        )
        try:
            async with metrics:
                await _first(watching, ready, ended)
                # kopf takes seconds to end at a signal; whoever leads gives its Lease up at once.
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, ended.set)
                await _first(watching, ended)
        finally:
            ended.set()
            await _ended(beside)
            await serving.of_datasets.close()
            await cluster.close()
            await watching

    asyncio.run(serve())


def _use_one_heap() -> None:
    """Has all threads allocate from one heap: what one of gRPC's gives back of its own, no other would get."""
    with contextlib.suppress(OSError, AttributeError):  # a C library that has only one
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


async def _first(task: "asyncio.Task[None]", *events: asyncio.Event) -> None:
    """Returns when the task has ended, or one of the events is there."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait([task, *waits], return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _ended(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Serving:
    """What serves Datasets in this process, while it leads; and its metrics.

    ``cluster`` is for the Lease, and for taints: neither waits for requests about Datasets, which have turns of their
    own and may take half a minute each where an admission webhook hangs.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.children = cluster, Children()
        self.of_datasets = Cluster(may_write=lambda: self.leadership is not None and self.leadership.leads())
        self.leadership: Leadership | None = None
        self._recorder = Recorder()
        self._leading: Reconciler | None = None

    async def lead(self, datasets: Datasets) -> None:
        """Serves until cancelled."""
        self._leading = Reconciler(
            self.of_datasets, datasets.settings, children=self.children, allowed_sources=datasets.allowed_sources
        )
        try:
            await self._leading.run()
        finally:
            self._leading = None

    async def page_text(self) -> str:
        """The answer to a scrape; of Datasets only the leader knows anything."""
        page = Page()
        if self.leadership is not None:  # else Datasets are not served at all, and nobody is missing who leads
            page.put("efc_operator_leads", self._leading is not None)
        page.put("efc_operator_api_requests_total", self.cluster.requests + self.of_datasets.requests)
        if self._leading is not None:
            self._leading.collect(page)
        put_process(page, recorder=self._recorder, children=self.children)
        return page.text()


async def _serve_datasets(serving: _Serving, datasets: Datasets, ended: asyncio.Event) -> None:
    """Until cancelled; what it cannot get over sets ``ended``."""
    namespace = datasets.namespace or _namespace()
    logged_in(serving.of_datasets)
    leadership = Leadership(serving.cluster, namespace=namespace, name=_LEASE, identity=_identity())
    serving.leadership = leadership

    async def duties() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(serving.lead(datasets))
            if datasets.has_webhook:
                group.create_task(Certificates(serving.of_datasets, namespace=namespace).run())

    try:
        await leadership.run(duties)
    finally:
        ended.set()


def serve_webhook(listening: Listening, *, log_level: str) -> None:
    """Runs :func:`csi.operator.webhook.serving.serve`; FAILED_PRECONDITION without credentials."""
    _configure_logging(log_level)

    async def serve() -> None:
        await serving.serve(listening, logged_in(Cluster()))

    asyncio.run(serve())


def _namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip() or _NAMESPACE
    except OSError:
        return _NAMESPACE


def _identity() -> str:
    """A name that no other process has, nor one of the same pod before."""
    return f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{secrets.token_hex(4)}"


def refuse_if_used(*, again_after_seconds: float) -> None:
    """What :func:`csi.operator.volume_users.refuse_if_used` says of the cluster that the credentials are for."""

    async def refuse() -> None:
        cluster = logged_in(Cluster())
        try:
            await volume_users.refuse_if_used(cluster, again_after_seconds=again_after_seconds)
        finally:
            await cluster.close()

    asyncio.run(refuse())


def logged_in(cluster: Cluster) -> Cluster:
    """``cluster`` with credentials; FAILED_PRECONDITION if there are none."""
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
