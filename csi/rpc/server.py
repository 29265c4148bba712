"""The gRPC server: a unix socket, one log line per call, errors converted to statuses, and a graceful shutdown.

The socket has mode 0600. It is made under a temporary name, then renamed into place: there is no moment without a
socket, a stale one is replaced, and when this process ends it removes only its own inode, never its successor's. (gRPC
itself unlinks by name, and knows only the temporary one.) The modes of socket and directory decide who may connect:
gRPC for Python gives no access to a connection's SO_PEERCRED.
"""

import asyncio
import contextvars
import itertools
import logging
import os
import secrets
import signal
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from csi._proto import csi_pb2
from csi.base.errors import Code, DriverError, invalid
from csi.observe.exposition import Recorder
from csi.rpc.limits import REQUEST_BYTES_MAX, check
from csi.rpc.redaction import redact, redact_text

_LOGGER = logging.getLogger(__name__)
#: Longest path of a socket in bytes: sizeof(sockaddr_un.sun_path) less its NUL.
SOCKET_PATH_LENGTH_MAX = 107
#: Most calls at once; more are refused with RESOURCE_EXHAUSTED instead of queueing.
CALLS_MAX = 512
#: Longest wait for calls under way when the server stops; kubelet waits longer for each of its calls.
STOP_SECONDS_MAX = 30.0
#: Methods that are called every few seconds, and are of no interest when they succeed.
_CHATTY = (
    "Probe",
    "GetPluginInfo",
    "GetPluginCapabilities",
    "ControllerGetCapabilities",
    "NodeGetCapabilities",
    "NodeGetVolumeStats",
    "GetInfo",
)

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")
Context = grpc.aio.ServicerContext[Message, Message]
#: A method of a service: a request in, a reply out, a DriverError if it fails.
Behaviour = Callable[[Message], Awaitable[Message]]


def parse_endpoint(endpoint: str) -> str:
    """The path of ``unix:///path`` or ``unix:/path``; raises INVALID_ARGUMENT."""
    path = endpoint.removeprefix("unix:").removeprefix("//")
    if not endpoint.startswith("unix:") or not path.startswith("/"):
        raise invalid(f"endpoint {endpoint!r}: expected unix:///absolute/path.sock")
    if len(path.encode()) > SOCKET_PATH_LENGTH_MAX:
        raise invalid(f"endpoint {endpoint!r}: the path is longer than the {SOCKET_PATH_LENGTH_MAX} bytes of a socket")
    return path


class RequestIdFilter(logging.Filter):
    """Puts the id of the call being served on every log record, and takes secrets in URLs off it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record, and keeps it."""
        record.request_id = _request_id.get()
        record.msg, record.args = redact_text(record.getMessage()), ()
        return True


class PrintableFormatter(logging.Formatter):
    """Formats log lines without what cannot be printed, also in stack traces, which quote what came from outside."""

    def formatException(self, exc_info: Any) -> str:  # noqa: ANN401, N802 - as in logging
        """The trace, redacted line by line."""
        return "\n".join(redact_text(line) for line in super().formatException(exc_info).split("\n"))


def configure_logging(level: str) -> None:
    """One line per event on stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Edge:
    """Around every call: an id, a redacted log line, the status of whatever was raised, and the metrics of it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._recorder.count("efc_csi_calls_in_flight", 0)
        self._prefix = secrets.token_hex(3)
        self._numbers = itertools.count(1)

    def around(self, method: str, behaviour: Behaviour) -> "Callable[[Message, Context], Awaitable[Message]]":
        """What gRPC calls for ``method``; ``behaviour`` sees the request only."""
        level = logging.DEBUG if method in _CHATTY else logging.INFO

        async def call(request: Message, context: Context) -> Message:
            _request_id.set(f"{self._prefix}-{next(self._numbers)}")
            began = time.monotonic()
            shown = redact(request)
            try:
                reply = await self._recorded(method, _checked(behaviour, request))
            except asyncio.CancelledError:
                _LOGGER.info("%s given up by its caller after %.1f ms: %s", method, _since_ms(began), shown)
                raise
            except DriverError as error:
                arguments = (method, error.code.name, _since_ms(began), error.message, shown)
                _LOGGER.warning("%s %s in %.1f ms: %s: %s", *arguments)
                await context.abort(grpc.StatusCode[error.code.name], redact_text(error.message))
            except Exception:
                _LOGGER.exception("%s failed unexpectedly: %s", method, shown)
                message = f"{method} failed unexpectedly; the reason is in the driver's log at {_request_id.get()}"
                await context.abort(grpc.StatusCode.INTERNAL, message)
            _LOGGER.log(level, "%s OK in %.1f ms: %s", method, _since_ms(began), shown)
            return reply

        return call

    async def _recorded(self, method: str, reply: Awaitable[Message]) -> Message:
        self._recorder.count("efc_csi_calls_in_flight")
        try:
            with self._recorder.outcome("efc_csi_calls_total", "efc_csi_call_duration_seconds", method=method):
                return await reply
        finally:
            self._recorder.count("efc_csi_calls_in_flight", -1)


async def _checked(behaviour: Behaviour, request: Message) -> Message:
    check(request)
    return await behaviour(request)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _since_ms(began: float) -> float:
    return (time.monotonic() - began) * 1000


class Server:
    """A gRPC server on one unix socket."""

    def __init__(self, endpoint: str, *, recorder: Recorder | None = None) -> None:
        self._path = parse_endpoint(endpoint)
        self._edge = Edge(recorder or Recorder())
        self._inode: tuple[int, int] | None = None
        self._grpc = grpc.aio.server(
            maximum_concurrent_rpcs=CALLS_MAX,
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", REQUEST_BYTES_MAX)],
        )

    @property
    def path(self) -> str:
        """The socket's path."""
        return self._path

    def add(self, service_name: str, service: object, *, contract: FileDescriptor = csi_pb2.DESCRIPTOR) -> None:
        """Serves the methods of ``contract``'s ``service_name`` that ``service`` has; others are UNIMPLEMENTED."""
        descriptor = contract.services_by_name[service_name]
        handlers = {}
        for method in descriptor.methods:
            behaviour = getattr(service, method.name, None)
            if behaviour is not None:
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                    self._edge.around(method.name, behaviour),
                    request_deserializer=GetMessageClass(method.input_type).FromString,
                    response_serializer=_serialized,
                )
        self._grpc.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(descriptor.full_name, handlers)])

    async def start(self) -> None:
        """Listens; raises FAILED_PRECONDITION if another process serves the socket or it cannot be made."""
        refuse_live_socket(self._path)
        # The temporary name is short, since it counts against the same limit as the path itself.
        temporary = f"{os.path.dirname(self._path)}/.{secrets.token_hex(3)}"
        umask = os.umask(0o177)
        try:
            self._grpc.add_insecure_port(f"unix:{temporary}")
            await self._grpc.start()
            status = os.stat(temporary)
            os.rename(temporary, self._path)
        except (OSError, RuntimeError) as error:
            raise DriverError(Code.FAILED_PRECONDITION, f"cannot listen at {self._path!r}: {error}") from None
        finally:
            os.umask(umask)
        self._inode = (status.st_dev, status.st_ino)
        _LOGGER.info("serving at %s", self._path)

    async def stop(self) -> None:
        """Takes no more calls; returns when those under way have ended or their time is up."""
        self._unlink_own()
        await self._grpc.stop(grace=STOP_SECONDS_MAX)

    def _unlink_own(self) -> None:
        try:
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self._path)
        except FileNotFoundError:
            pass


class StopSignal:
    """SIGTERM and SIGINT, caught from now on: to be made before there is anything that must be cleaned up."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)

    async def wait(self) -> None:
        """Returns when one of the signals has come."""
        await self._stopping.wait()
        _LOGGER.info("stopping")


def refuse_live_socket(path: str) -> None:
    """Raises FAILED_PRECONDITION if somebody listens at ``path`` or it is no socket; a stale socket is fine."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        if not Path(path).parent.is_dir():
            raise DriverError(Code.FAILED_PRECONDITION, f"{path!r}: its directory does not exist, make it") from None
        return
    if not stat.S_ISSOCK(mode):
        raise DriverError(Code.FAILED_PRECONDITION, f"{path!r} exists and is no socket: it is not replaced")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return
    raise DriverError(Code.FAILED_PRECONDITION, f"another process serves {path!r}: stop it first")
