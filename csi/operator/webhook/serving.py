"""The webhook's server, ``efc webhook``: answers the API server's reviews of new pods until it gets a signal.

It is stateless: for each pod it reads the Datasets that the pod's claims are named after from the API server, so that a
Dataset created a moment before the pod is seen. A review that cannot be answered is refused; the API server, too,
refuses pods when the webhook does not answer (``failurePolicy: Fail``).

The certificate is read again every few seconds, and used for connections made from then on.
"""

import asyncio
import base64
import json
import logging
import os
import signal
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import web

from csi.api.common import API_VERSION
from csi.base.errors import DriverError
from csi.operator import pki
from csi.operator.cluster import Cluster, Json
from csi.operator.names import Names
from csi.operator.webhook.affinity import CLAIMS_MAX, Admitted, Refused, claims, is_concerned, mutate

_LOGGER = logging.getLogger(__name__)
PATH, READY_PATH = "/mutate", "/healthz"
#: Between two looks at the files of the certificate.
LOOK_SECONDS = 2.0
#: The API server takes no larger object; the rest is what the question has around it.
_QUESTION_BYTES_MAX = 4 << 20
#: For questions under way when the process is to end.
_GRACE_SECONDS = 5.0
_FORBIDDEN = 403
_OUR_RUNTIME = "efc"


class Objects(Protocol):
    """The part of :class:`csi.operator.cluster.Cluster` that answers need."""

    async def get(self, path: str) -> Json | None:
        """The object at ``path``, or None."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where to listen, and the folder of ``tls.crt`` and ``tls.key``."""

    host: str
    port: int
    certificate: Path


class Certificate:
    """A server's TLS settings, with the latest pair of files that belong together."""

    def __init__(self, folder: Path) -> None:
        self.settings = _tls()
        self._folder = folder
        self._loaded = b""

    def look(self) -> bool:
        """Takes the files if they are others than before; whether there is a certificate by now."""
        try:
            pem = b"\n".join((self._folder / name).read_bytes() for name in (pki.CERTIFICATE, pki.PRIVATE_KEY))
        except OSError as error:
            _LOGGER.warning("the certificate cannot be read: %s", error)
            return bool(self._loaded)
        if pem == self._loaded:
            return True
        try:
            # Read between two writes, they may not belong together: tried on other settings than those in force.
            _load(_tls(), pem)
        except ssl.SSLError as error:
            _LOGGER.warning("certificate and key in %s do not go together: %s", self._folder, error)
            return bool(self._loaded)
        _load(self.settings, pem)
        self._loaded = pem
        _LOGGER.info("has a new certificate")
        return True


def _tls() -> ssl.SSLContext:
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.minimum_version = ssl.TLSVersion.TLSv1_2
    return settings


def _load(settings: ssl.SSLContext, pem: bytes) -> None:
    """Certificate and key from memory: the library takes them from files alone, and no disk is to have them."""
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, pem)
        settings.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


async def answer(question: Json, objects: Objects) -> Json:
    """The AdmissionReview that answers another one. Raises DriverError if the API server does not say what is asked."""
    request = question["request"]
    pod: Json = request["object"]
    found = await _datasets(pod, request["namespace"], objects) if is_concerned(pod) else {}
    decision = mutate(pod, found)
    response: dict[str, object] = {"uid": request["uid"], "allowed": isinstance(decision, Admitted)}
    if isinstance(decision, Refused):
        response["status"] = {"code": _FORBIDDEN, "reason": "Forbidden", "message": decision.reason}
    elif decision.patch:
        patch = base64.b64encode(json.dumps(decision.patch).encode()).decode()
        response |= {"patchType": "JSONPatch", "patch": patch}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


async def _datasets(pod: Json, namespace: str, objects: Objects) -> Mapping[str, Names | None]:
    """The Datasets that the pod uses; None for those of which another kind of runtime is there.

    None at all for a pod that has too many claims: it is refused.
    """
    named = claims(pod)
    if len(named) > CLAIMS_MAX:
        return {}
    paths = (f"/apis/{API_VERSION}/namespaces/{namespace}/datasets/{name}" for name in named)
    read = await asyncio.gather(*(objects.get(path) for path in paths))
    return {
        name: Names(namespace=namespace, name=name, uid=dataset["metadata"]["uid"]) if _is_ours(dataset) else None
        for name, dataset in zip(named, read, strict=True)
        if dataset is not None
    }


def _is_ours(dataset: Json) -> bool:
    runtimes = (dataset.get("status") or {}).get("runtimes") or ()
    return all(runtime.get("type", _OUR_RUNTIME) == _OUR_RUNTIME for runtime in runtimes)


def application(objects: Objects) -> web.Application:
    """What is served: the questions, and whether it is there."""

    async def reviewed(request: web.Request) -> web.Response:
        try:
            return web.json_response(await answer(await request.json(), objects))
        except DriverError as error:
            _LOGGER.warning("a pod is refused: %s", error.message)
            return web.Response(status=503, text=error.message)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return web.Response(status=400, text=f"no AdmissionReview of a pod: {error!r}")

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    served = web.Application(client_max_size=_QUESTION_BYTES_MAX)
    served.add_routes([web.post(PATH, reviewed), web.get(READY_PATH, ready)])
    return served


async def serve(listening: Listening, cluster: Cluster) -> None:
    """Serves until SIGTERM or SIGINT; questions under way are answered first."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    certificate = Certificate(listening.certificate)
    runner = web.AppRunner(application(cluster), access_log=None, shutdown_timeout=_GRACE_SECONDS)
    await runner.setup()
    is_listening = False
    try:
        while not ended.is_set():
            if certificate.look() and not is_listening:
                site = web.TCPSite(
                    runner,
                    listening.host,
                    listening.port,
                    ssl_context=certificate.settings,
                )
                await site.start()
                is_listening = True
                _LOGGER.info("listens at %s port %d", listening.host, listening.port)
            try:
                await asyncio.wait_for(ended.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue
    finally:
        await runner.cleanup()
        await cluster.close()
