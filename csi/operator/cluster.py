"""The Kubernetes API beside kopf's watches: reading and patching an object other than the one that an event is about.

kopf patches only the object whose event it handles, and keeps its notes in others' annotations and finalizers, which
nodes are not ours to have. Requests here are rare, so each has a connection of its own, and the credentials are those
of kopf's latest login: a service account's token is replaced every hour.
"""

import asyncio
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import kopf

from csi.base.errors import Code, DriverError

REQUEST_SECONDS_MAX = 30.0
#: One object of the API, or one operation of a JSON patch.
Json = Mapping[str, Any]


class Cluster:
    """One API server; DriverError when it does not answer, or refuses."""

    def __init__(self) -> None:
        self._login: kopf.ConnectionInfo | None = None

    def login(self, **arguments: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401  # as kopf calls its handlers
        """A login handler of kopf's: the pod's service account, else a kubeconfig."""
        found = kopf.login_with_service_account(**arguments)
        if found is not None:
            # kopf goes by the name, kubernetes.default.svc. Nodes that wait for us may be those that serve names.
            found = dataclasses.replace(found, server=service_address(os.environ) or found.server)
        self._login = found or kopf.login_with_kubeconfig(**arguments)
        return self._login

    async def get(self, path: str) -> Json | None:
        """The object at ``path`` of the API, or None."""
        status, answer = await self._request("GET", path)
        if status == 404:  # noqa: PLR2004
            return None
        return _successful(status, answer, what=f"GET {path}")

    async def patch(self, path: str, operations: Sequence[Json]) -> bool:
        """Applies a JSON patch (RFC 6902); False if the object is gone, or is not what its ``test`` says."""
        status, answer = await self._request("PATCH", path, operations)
        if status in (404, 409, 422):
            return False
        _successful(status, answer, what=f"PATCH {path}")
        return True

    async def _request(self, method: str, path: str, body: object = None) -> tuple[int, Json]:
        if self._login is None:
            raise DriverError(Code.FAILED_PRECONDITION, "not logged in at the API server yet")
        headers = self._login.as_http_headers()
        if body is not None:
            headers["Content-Type"] = "application/json-patch+json"
        connector = aiohttp.TCPConnector(ssl=self._login.as_ssl_context())
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS_MAX),
                aiohttp.ClientSession(connector=connector, headers=headers) as session,
                session.request(method, self._login.server.rstrip("/") + path, json=body) as response,
            ):
                answer = await response.json()
                return response.status, answer if isinstance(answer, Mapping) else {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DriverError(Code.UNAVAILABLE, f"{method} {path} at the API server: {error!r}") from None


def service_address(environment: Mapping[str, str]) -> str | None:
    """The API server as kubelet tells every container, without a name to look up."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _successful(status: int, answer: Json, *, what: str) -> Json:
    if status >= 300:  # noqa: PLR2004
        code = Code.PERMISSION_DENIED if status in (401, 403) else Code.UNAVAILABLE
        raise DriverError(code, f"{what} ended with status {status}: {answer.get('message', 'no message')}")
    return answer
