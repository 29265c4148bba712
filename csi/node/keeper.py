"""Client of the keeper, which mounts datasets and keeps their daemons running (proto/efc.proto).

One connection per request: requests on one connection are answered in order, so a mount that waits for a slow NAS
would delay all others. The socket is non-blocking, so this needs no thread.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.config.mount_options import settings_of
from csi.config.options import OPTIONS
from csi.config.several import origin_of_wire
from csi.node.statistics import sort_by_subsystem

_LOGGER = logging.getLogger(__name__)
SOCKET_NAME = "keeper.sock"
#: Largest message, as in efc/proto/src/transport.rs.
MESSAGE_BYTES_MAX = 1 << 20
MOUNT_SECONDS_MAX = 30.0
UNMOUNT_SECONDS_MAX = 30.0
STATUS_SECONDS_MAX = 5.0
INSTALL_SECONDS_MAX = 15.0
SESSION_SECONDS_MAX = 5.0
#: More than the daemon takes that looks.
ROOT_SECONDS_MAX = 2.0
#: More than the keeper takes for an upgrade and the way back.
UPGRADE_SECONDS_MAX = 20.0
#: Most descriptors beside one message, as there.
_DESCRIPTORS_MAX = 8


class KeeperUnreachableError(DriverError):
    """UNAVAILABLE because no keeper answers, as opposed to one that says so of a NAS."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


class KeeperForbiddenError(KeeperUnreachableError):
    """There may be a keeper, but not for us."""


class KeeperMissingError(KeeperUnreachableError):
    """No keeper runs here, as opposed to one that hangs."""


@dataclass(frozen=True, kw_only=True)
class KeeperStatus:
    """What the keeper serves."""

    pid: int
    version: str
    mounts: list[efc_pb2.MountStatus]
    #: That the next daemons run; "" if it is the keeper's own program.
    program_version: str = ""


def source_of(mount: efc_pb2.MountStatus) -> str:
    """The dataset's URL; of several sources, where each of them shows."""
    return str(origin_of_wire(options_of(mount)))


def options_of(mount: efc_pb2.MountStatus) -> efc_pb2.DaemonConfig:
    """How it is served now, which may have changed since it was mounted."""
    return mount.options if mount.HasField("options") else mount.config


def options_unknown_to(mount: efc_pb2.MountStatus, *, asked: efc_pb2.DaemonConfig) -> list[str]:
    """Options of ``asked`` that the keeper of ``mount`` has left out, since it is of an earlier release."""
    unknown = settings_of(asked).keys() - settings_of(mount.config).keys()
    return [name for name, option in OPTIONS.items() if option.field in unknown]


class Keeper:
    """Asks the keeper at ``<run_dir>/keeper.sock``; raises what it reports, or KeeperUnreachableError."""

    def __init__(self, run_dir: str) -> None:
        self._path = f"{run_dir}/{SOCKET_NAME}"

    async def mount(
        self, *, target: str, config: efc_pb2.DaemonConfig, limit_seconds: float = MOUNT_SECONDS_MAX
    ) -> efc_pb2.MountStatus:
        """Mounts a dataset, or finds it mounted with the same configuration; returns when it can be used.

        A keeper of an earlier release mounts without the options that it does not know: a warning names them.
        """
        request = efc_pb2.MountRequest(target=target, config=config, time_limit_ms=int(limit_seconds * 1000))
        # The keeper cleans up at its limit; it needs a moment for that before we give up on it.
        reply, _ = await self._ask(efc_pb2.KeeperRequest(mount=request), limit_seconds=limit_seconds + 5)
        status = _by_subsystem(reply.mount.status)
        if unknown := options_unknown_to(status, asked=config):
            _LOGGER.warning("%s: the keeper is of an earlier release and knows no %s", target, ", ".join(unknown))
        return status

    async def unmount(self, *, target: str, force: bool = False) -> None:
        """Unmounts and ends the daemon; FAILED_PRECONDITION if it is in use and not ``force``."""
        request = efc_pb2.UnmountRequest(target=target, force=force)
        await self._ask(efc_pb2.KeeperRequest(unmount=request), limit_seconds=UNMOUNT_SECONDS_MAX)

    async def status(self, target: str = "", *, limit_seconds: float = STATUS_SECONDS_MAX) -> KeeperStatus:
        """All mounts, or the one at ``target``."""
        mounts: list[efc_pb2.MountStatus] = []
        request = efc_pb2.StatusRequest(target=target, by_subsystem=True)
        while True:
            reply, _ = await self._ask(efc_pb2.KeeperRequest(status=request), limit_seconds=limit_seconds)
            status = reply.status
            mounts += [_by_subsystem(mount) for mount in status.mounts]
            if not status.last:
                break
            request.after = status.last
        return KeeperStatus(
            pid=status.keeper_pid,
            version=status.keeper_version,
            program_version=status.program_version,
            mounts=mounts,
        )

    async def install(self, *, version: str, memory: int) -> None:
        """The daemons that are started from now on run the program in ``memory``, a sealed memfd."""
        request = efc_pb2.KeeperRequest(install=efc_pb2.InstallRequest(version=version))
        await self._ask(request, limit_seconds=INSTALL_SECONDS_MAX, descriptors=[memory])

    async def upgrade(
        self,
        *,
        target: str,
        options: efc_pb2.DaemonConfig | None = None,
        base: efc_pb2.DaemonConfig | None = None,
        in_place: bool = False,
    ) -> efc_pb2.MountStatus:
        """Replaces the daemon at ``target`` by one of the installed program, which serves with ``options`` if given.

        With the ``base`` that they were made from, only what differs is changed: others may change options meanwhile.
        ``in_place``: a daemon of that program's release that can take them while it serves stays.
        FAILED_PRECONDITION if it cannot; then the former serves as before.
        """
        request = efc_pb2.UpgradeRequest(target=target, options=options, base=base, in_place=in_place)
        reply, _ = await self._ask(efc_pb2.KeeperRequest(upgrade=request), limit_seconds=UPGRADE_SECONDS_MAX)
        return _by_subsystem(reply.upgrade.status)

    async def find_root(self, *, target: str) -> efc_pb2.FoundRoot:
        """Where the path of the dataset at ``target`` leads now, beside the root that is served there."""
        request = efc_pb2.FindRootRequest(target=target, time_limit_ms=int(ROOT_SECONDS_MAX * 1000))
        reply, _ = await self._ask(efc_pb2.KeeperRequest(find_root=request), limit_seconds=ROOT_SECONDS_MAX + 1)
        return reply.find_root.root

    async def hold(self, *, target: str) -> tuple[efc_pb2.MountStatus, list[int]]:
        """The session of the mount at ``target``: what it is, and copies of its descriptors, which the caller owns."""
        request = efc_pb2.HoldRequest(target=target)
        reply, descriptors = await self._ask(
            efc_pb2.KeeperRequest(hold=request), limit_seconds=SESSION_SECONDS_MAX
        )  # fmt: skip
        return reply.hold.status, descriptors

    async def adopt(self, *, status: efc_pb2.MountStatus, descriptors: Sequence[int]) -> efc_pb2.MountStatus:
        """Gives back what :meth:`hold` returned; NOT_FOUND if the mount is gone. The descriptors stay the caller's."""
        request = efc_pb2.KeeperRequest(adopt=efc_pb2.AdoptRequest(status=status))
        reply, _ = await self._ask(request, limit_seconds=SESSION_SECONDS_MAX, descriptors=descriptors)
        return reply.adopt.status

    def identity(self) -> tuple[int, ...] | None:
        """Differs from one keeper to the next at this place; None while there is none. Never waits."""
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino, status.st_ctime_ns)

    async def _ask(
        self, request: efc_pb2.KeeperRequest, *, limit_seconds: float, descriptors: Sequence[int] = ()
    ) -> tuple[efc_pb2.KeeperReply, list[int]]:
        try:
            async with asyncio.timeout(limit_seconds):
                received, beside = await self._exchange(request.SerializeToString(), descriptors)
        except TimeoutError:
            raise KeeperUnreachableError(
                f"the keeper at {self._path} did not answer within {limit_seconds:g} s"
            ) from None
        except PermissionError:
            raise KeeperForbiddenError(
                f"the keeper's socket {self._path} is not open to you: run this as root"
            ) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            is_missing = isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError)
            kind = KeeperMissingError if is_missing else KeeperUnreachableError
            raise kind(f"no keeper answers at {self._path} ({reason}): is efc-keeper running?") from None
        try:
            return _decoded(received, expected=request.WhichOneof("request")), beside
        except DriverError:
            for descriptor in beside:
                os.close(descriptor)
            raise

    async def _exchange(self, request: bytes, descriptors: Sequence[int]) -> tuple[bytes, list[int]]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(0)
            await loop.sock_connect(connection, self._path)
            # One datagram, on an empty socket: it is taken whole and at once.
            socket.send_fds(connection, [request], descriptors)
            await _readable(connection)
            received, beside, _, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
            # recv_fds ignores MSG_CMSG_CLOEXEC. No child is started in between, and none may have a session.
            for descriptor in beside:
                os.set_inheritable(descriptor, False)  # noqa: FBT003
        if not received:
            raise ConnectionResetError(0, "it closed the connection without an answer")
        return received, beside


def _by_subsystem(mount: efc_pb2.MountStatus) -> efc_pb2.MountStatus:
    if mount.HasField("stats"):
        sort_by_subsystem(mount.stats)
    return mount


async def _readable(connection: socket.socket) -> None:
    """Returns when there is something to receive, which asyncio's own calls would do without descriptors."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)


def _decoded(received: bytes, *, expected: str | None) -> efc_pb2.KeeperReply:
    try:
        reply = efc_pb2.KeeperReply.FromString(received)
    except DecodeError:
        raise DriverError(Code.INTERNAL, "the keeper's answer does not decode") from None
    kind = reply.WhichOneof("reply")
    if kind == "error":
        raise DriverError.from_wire(efc_pb2.Error.Code.Name(reply.error.code), reply.error.message)
    if kind != expected:
        raise DriverError(Code.INTERNAL, f"the keeper answered {kind!r} to {expected!r}: are both of one release?")
    return reply
