"""The Kubernetes API beside kopf's watches: reading, writing and watching objects by their paths.

kopf patches only the object whose event it handles, and keeps its state in annotations and finalizers of others'
objects. Its watches support no selectors, do not tell when the initial list is complete, and miss objects that were
deleted while the connection was down. So the duties that write objects of their own use this class: one HTTP session
with kept connections for all of them, the credentials of the latest login, and a new login when the API server rejects
them (a service account's token is replaced every hour).

Objects are written in two ways that never touch somebody else's: :meth:`Cluster.create`, which fails when the name is
taken, and :meth:`Cluster.apply` (server-side apply) with the UID of the intended object.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
import kopf

from csi.base.errors import Code, DriverError

REQUEST_SECONDS_MAX = 30.0
#: The field manager of all that is applied.
FIELD_MANAGER = "efc-operator"
#: Most requests at once, watches not counted.
REQUESTS_MAX = 16
_KEEPALIVE_SECONDS = 120.0
#: Most objects in a page of a list.
PAGE_OBJECTS_MAX = 200
#: The server ends a watch after this long; a connection that died unseen is noticed then.
WATCH_SECONDS_MAX = 300
_WATCH_GRACE_SECONDS = 10.0
_CONNECT_SECONDS_MAX = 10.0
#: Of an answer that is none.
_SHOWN_BYTES_MAX = 500
_NOT_FOUND = 404
_UNAUTHORIZED = 401
#: One object of the API, or one operation of a JSON patch.
Json = Mapping[str, Any]

_CODE_OF_STATUS = {
    401: Code.PERMISSION_DENIED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    410: Code.OUT_OF_RANGE,
    400: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Objects of a collection at ``resource_version``, from which a watch goes on."""

    items: Sequence[Json]
    resource_version: str


class Cluster:
    """One API server; DriverError when it does not answer, or refuses, with the server's words.

    Codes: NOT_FOUND, ALREADY_EXISTS, ABORTED (changed in the meantime, or not the object that was meant),
    INVALID_ARGUMENT, PERMISSION_DENIED (rights, quotas, admission), OUT_OF_RANGE (a watch from too long ago),
    UNAVAILABLE (all else: try again).
    """

    def __init__(self, *, may_write: Callable[[], bool] = lambda: True) -> None:
        """``may_write`` is asked in the moment in which a request that changes something goes: UNAVAILABLE if not."""
        self._may_write = may_write
        self._login: kopf.ConnectionInfo | None = None
        self._arguments: Mapping[str, Any] = {}
        self._tls: ssl.SSLContext | bool = True
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(REQUESTS_MAX)
        #: Requests made so far, watches included.
        self.requests = 0

    def login(self, **arguments: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401  # as kopf calls its handlers
        """A login handler of kopf's: the pod's service account, else a kubeconfig."""
        found = kopf.login_with_service_account(**arguments)
        if found is not None:
            # kopf goes by the name, kubernetes.default.svc. Nodes that wait for us may be those that serve names.
            found = dataclasses.replace(found, server=service_address(os.environ) or found.server)
        self._login = found or kopf.login_with_kubeconfig(**arguments)
        self._arguments = arguments
        if self._login is not None:
            self._tls = self._login.as_ssl_context()
        return self._login

    # ------------------------------------------------------------ reading

    async def get(self, path: str, *, not_older_than: str = "") -> Json | None:
        """The object at ``path`` of the API, or None.

        As it is now; with the version of what is known of it, as the API server has it in memory by that version or a
        later one, which costs no read of etcd.
        """
        query = f"?{urlencode({'resourceVersion': not_older_than})}" if not_older_than else ""
        status, answer = await self._request("GET", f"{path}{query}")
        if status == _NOT_FOUND:
            return None
        return _successful(status, answer, what=f"GET {path}")

    async def list(self, path: str, *, labels: str = "") -> Listed:
        """All objects at ``path`` that have the labels; NOT_FOUND if there is no such resource."""
        items: list[Json] = []
        version = ""
        async for page in self.pages(path, labels=labels):
            items += page.items
            version = page.resource_version
        return Listed(items=items, resource_version=version)

    async def pages(self, path: str, *, labels: str = "") -> AsyncIterator[Listed]:
        """The same, a part after the other: whoever keeps little of each object never has all of them."""
        query = {"limit": str(PAGE_OBJECTS_MAX)} | ({"labelSelector": labels} if labels else {})
        while True:
            status, answer = await self._request("GET", f"{path}?{urlencode(query)}")
            page = _successful(status, answer, what=f"GET {path}")
            metadata = page.get("metadata") or {}
            if not metadata.get("resourceVersion"):
                raise DriverError(Code.UNAVAILABLE, f"GET {path} was answered with something else than a list")
            yield Listed(items=page.get("items") or (), resource_version=str(metadata["resourceVersion"]))
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def watch(self, path: str, *, since: str, labels: str = "") -> AsyncIterator[tuple[str, Json]]:
        """Events (their type, and the object) until the server ends the watch; OUT_OF_RANGE when it must list anew."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS_MAX),
            "resourceVersion": since,
        } | ({"labelSelector": labels} if labels else {})
        timeout = aiohttp.ClientTimeout(
            total=WATCH_SECONDS_MAX + _WATCH_GRACE_SECONDS, sock_connect=_CONNECT_SECONDS_MAX
        )
        what = f"WATCH {path}"
        self.requests += 1
        try:
            async with self._opened().get(
                self._url(f"{path}?{urlencode(query)}"), headers=self._headers(), timeout=timeout
            ) as response:
                if response.status >= 300:  # noqa: PLR2004
                    if response.status == _UNAUTHORIZED:
                        self._login_again()
                    _successful(response.status, await _decoded(response), what=what)
                async for line in _lines(response.content):
                    event = json.loads(line)
                    found = event.get("object") or {}
                    if event.get("type") == "ERROR":
                        _successful(int(found.get("code", 500)), found, what=what)
                    yield str(event.get("type")), found
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DriverError(Code.UNAVAILABLE, f"{what} at the API server: {error!r}") from None

    # ------------------------------------------------------------ writing

    async def patch(self, path: str, operations: Sequence[Json]) -> bool:
        """Applies a JSON patch (RFC 6902); False if the object is gone, or is not what its ``test`` says."""
        status, answer = await self._request("PATCH", path, operations, content="application/json-patch+json")
        if status in (404, 409, 422):
            return False
        _successful(status, answer, what=f"PATCH {path}")
        return True

    async def create(self, path: str, new: Json) -> Json:
        """Makes an object in the collection ``path``; ALREADY_EXISTS if its name is taken."""
        status, answer = await self._request("POST", f"{path}?fieldManager={FIELD_MANAGER}", new)
        return _successful(status, answer, what=f"POST {path}")

    async def apply(self, path: str, wanted: Json) -> Json:
        """Server-side apply: fields that were applied before and are not in ``wanted`` go; others' fields stay.

        With ``metadata.uid`` in ``wanted`` it is ABORTED when there is no such object, or another one.
        """
        query = f"fieldManager={FIELD_MANAGER}&force=true"
        status, answer = await self._request("PATCH", f"{path}?{query}", wanted, content="application/apply-patch+yaml")
        return _successful(status, answer, what=f"APPLY {path}")

    async def merge(self, path: str, changes: Json) -> Json:
        """Applies a JSON merge patch (RFC 7386)."""
        status, answer = await self._request("PATCH", path, changes, content="application/merge-patch+json")
        return _successful(status, answer, what=f"PATCH {path}")

    async def delete(self, path: str, *, uid: str) -> None:
        """Has the object of this UID deleted, what it owns in the background; that it is gone is success."""
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        status, answer = await self._request("DELETE", path, options)
        if status not in (404, 409):
            _successful(status, answer, what=f"DELETE {path}")

    async def close(self) -> None:
        """Gives the connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ------------------------------------------------------------ inside

    async def _request(
        self, method: str, path: str, body: object = None, *, content: str = "application/json"
    ) -> tuple[int, Json]:
        status, answer = await self._once(method, path, body, content=content)
        if status == _UNAUTHORIZED and self._login_again():
            status, answer = await self._once(method, path, body, content=content)
        return status, answer

    async def _once(self, method: str, path: str, body: object, *, content: str) -> tuple[int, Json]:
        headers = self._headers()
        data = None
        if body is not None:
            headers["Content-Type"] = content
            data = json.dumps(body, separators=(",", ":")).encode()
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX, sock_connect=_CONNECT_SECONDS_MAX)
        self.requests += 1
        session = self._opened()
        try:
            async with self._turns:
                if method != "GET" and not self._may_write():
                    raise DriverError(Code.UNAVAILABLE, f"{method} {path}: another operator may lead by now")
                async with session.request(
                    method, self._url(path), data=data, headers=headers, timeout=timeout
                ) as response:
                    return response.status, await _decoded(response)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DriverError(Code.UNAVAILABLE, f"{method} {path} at the API server: {error!r}") from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # A handshake costs more than ten requests. Watches keep theirs, and do not count.
            connector = aiohttp.TCPConnector(ssl=self._tls, limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
            self._session = aiohttp.ClientSession(connector=connector)
            self._turns = asyncio.Semaphore(REQUESTS_MAX)
        return self._session

    def _headers(self) -> dict[str, str]:
        if self._login is None:
            raise DriverError(Code.FAILED_PRECONDITION, "not logged in at the API server yet")
        return dict(self._login.as_http_headers())

    def _url(self, path: str) -> str:
        if self._login is None:
            raise DriverError(Code.FAILED_PRECONDITION, "not logged in at the API server yet")
        return self._login.server.rstrip("/") + path

    def _login_again(self) -> bool:
        """Reads the credentials anew; whether they are others than before."""
        before = self._login
        try:
            return self.login(**self._arguments) is not None and self._login != before
        except (kopf.LoginError, OSError):
            self._login = before
            return False


def service_address(environment: Mapping[str, str]) -> str | None:
    """The API server as kubelet tells every container, without a name to look up."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def _decoded(response: aiohttp.ClientResponse) -> Json:
    """The answer; of an error what a proxy says in its own words is a message as well. Raises ValueError."""
    body = await response.read()
    with contextlib.suppress(ValueError):
        answer = json.loads(body)
        if isinstance(answer, Mapping):
            return answer
    shown = body[:_SHOWN_BYTES_MAX].decode(errors="replace")
    if response.status < 300:  # noqa: PLR2004
        raise ValueError(f"no object of JSON: {shown}")  # and no empty list, by which all would be gone
    return {"message": shown}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length, which the reader's own have not."""
    begun = b""
    async for chunk in content.iter_any():
        *lines, begun = (begun + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line


def _successful(status: int, answer: Json, *, what: str) -> Json:
    if status < 300:  # noqa: PLR2004
        return answer
    code = _CODE_OF_STATUS.get(status, Code.UNAVAILABLE)
    if status == 409:  # noqa: PLR2004
        code = Code.ALREADY_EXISTS if answer.get("reason") == "AlreadyExists" else Code.ABORTED
    raise DriverError(code, f"{what} ended with status {status}: {answer.get('message', 'no message')}")
