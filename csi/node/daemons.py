"""The datasets mounted on this node: one daemon per identity, shared by all volumes that use it.

A daemon's mount is ``<run-dir>/mnt/<identity key>``; volumes are bind mounts of directories in it. It is launched by
its first user, kept while there is one, and for a grace period after the last, since pods are often replaced by others
of the same volume. Concurrent publishes of one dataset share one request to the keeper, and its outcome.

A daemon is never released while its file system is mounted anywhere but at its own place, even if no user is recorded:
a record may be lost or damaged, and a running pod whose daemon was released would get ENOTCONN.

The keeper is asked at every publish, even if the daemon is known to run. It answers at once, and so a mount that was
unmounted by force, or a keeper that lost its state, is noticed before a dead directory is bind-mounted.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass, field

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.node.keeper import Keeper, options_unknown_to
from csi.node.mounts import Mounts, top
from csi.node.program import DaemonProgram
from csi.node.rollout import Rollout
from csi.node.roots import Roots
from csi.node.sessions import Sessions

_LOGGER = logging.getLogger(__name__)
LAUNCH_SECONDS_MAX = 30.0


@dataclass(kw_only=True)
class _Daemon:
    """One daemon and its users, which are target paths. At most one of `launch` and `release` runs at a time."""

    users: set[str] = field(default_factory=set)
    launch: asyncio.Task[None] | None = None
    release: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    unknown_options: list[str] = field(default_factory=list)


class Daemons:
    """Launches, shares and releases daemons through the keeper."""

    def __init__(
        self,
        *,
        run_dir: str,
        keeper: Keeper,
        mounts: Mounts,
        idle_grace_seconds: float,
        program: DaemonProgram | None = None,
    ) -> None:
        """Daemons run ``program``, or the keeper's own if none is given."""
        self._folder = f"{run_dir}/mnt"
        self._keeper = keeper
        self._mounts = mounts
        self._idle_grace_seconds = idle_grace_seconds
        self._program = program
        self._sessions = Sessions(keeper=keeper, folder=self._folder)
        self._daemons: dict[str, _Daemon] = {}
        self._roots = Roots(keeper=keeper, mount_of=self.mount_of)

    def mount_of(self, key: str) -> str:
        """Where the dataset with this identity key is mounted, when it is."""
        return f"{self._folder}/{key}"

    def known(self) -> set[str]:
        """Keys that have a directory to be mounted at, from this process or an earlier one."""
        try:
            return set(os.listdir(self._folder))
        except FileNotFoundError:
            return set()

    async def key_now(self, key: str) -> str:
        """The key that a new user of the dataset ``key`` acquires: another one if its directory was replaced.

        Raises NOT_FOUND if the directory is there no more.
        """

        def alike() -> dict[str, _Daemon]:
            return {other: one for other, one in self._daemons.items() if other == key or other.startswith(f"{key}-")}

        if releases := [daemon.release for daemon in alike().values() if daemon.release is not None]:
            await asyncio.wait(releases)
        running = {other for other, daemon in alike().items() if daemon.launch is None}
        return await self._roots.key_now(key, running=running)

    def moved(self, key: str) -> str:
        """What has become of the directory that this daemon serves; "" if it is where it was, as far as is known."""
        return self._roots.moved(key)

    def unknown_options(self, key: str) -> list[str]:
        """Options of this dataset that are not in force, since the keeper that mounted it is of an earlier release."""
        daemon = self._daemons.get(key)
        return daemon.unknown_options if daemon is not None else []

    async def acquire(self, key: str, *, config: efc_pb2.DaemonConfig, user: str) -> str:
        """Makes sure that the daemon serves, and that it is kept for ``user``; returns where it is mounted.

        Raises the keeper's error; then ``user`` is a user only if it was one before.
        """
        daemon = self._daemons.setdefault(key, _Daemon())
        is_new = user not in daemon.users
        daemon.users.add(user)
        if daemon.timer is not None:
            daemon.timer.cancel()
            daemon.timer = None
        try:
            if daemon.release is not None:
                await asyncio.wait({daemon.release})
            if daemon.launch is None:
                daemon.launch = asyncio.create_task(self._launch(key, config))
                daemon.launch.add_done_callback(lambda _: setattr(daemon, "launch", None))
            await asyncio.shield(daemon.launch)
        except BaseException:
            if is_new:
                self.give_up(key, user=user)
            raise
        return self.mount_of(key)

    def adopt(self, key: str, *, user: str | None) -> None:
        """Takes over, at start, a daemon that is there already; without a user it is released after the grace."""
        daemon = self._daemons.setdefault(key, _Daemon())
        if user is not None:
            daemon.users.add(user)
        self._release_later(key)

    def keep(self, key: str, *, user: str) -> None:
        """Keeps the daemon for ``user`` too, who has no target, for as long as it is there."""
        daemon = self._daemons.get(key)
        if daemon is None or user in daemon.users:
            return
        daemon.users.add(user)
        if daemon.timer is not None:
            daemon.timer.cancel()
            daemon.timer = None

    def give_up(self, key: str, *, user: str) -> None:
        """``user`` needs the daemon no more; that it was no user is success."""
        daemon = self._daemons.get(key)
        if daemon is not None:
            daemon.users.discard(user)
            self._release_later(key)

    def release(self, key: str) -> None:
        """Releases the daemon now if it has no user, not after the grace; that there is none is success."""
        daemon = self._daemons.get(key)
        if daemon is not None and daemon.timer is not None:
            daemon.timer.cancel()
            self._start_release(key)

    async def settle(self) -> None:
        """Gives a new keeper the sessions held here: then it knows all that live. Raises KeeperUnreachableError."""
        await self._sessions.ensure()

    async def watch(self) -> None:
        """Gives each new keeper the sessions that the one before had, and the daemons' program; never returns."""
        watches = [self._sessions.watch()]
        if self._program is not None:
            rollout = Rollout(keeper=self._keeper, program=self._program, folder=self._folder)
            watches += [self._program.watch(), rollout.watch()]
        async with asyncio.TaskGroup() as group:
            for watch in watches:
                group.create_task(watch)

    async def close(self) -> None:
        """Releases daemons without users, at the end: this process is there no more when their grace is over.

        So a node that shuts down has nothing mounted when its pods are gone, and the keeper can end.
        """
        for key, daemon in list(self._daemons.items()):
            if daemon.timer is not None:
                daemon.timer.cancel()
                self._start_release(key)
        if releases := [daemon.release for daemon in self._daemons.values() if daemon.release is not None]:
            await asyncio.wait(releases)
        self._sessions.close()

    def _release_later(self, key: str) -> None:
        daemon = self._daemons[key]
        if daemon.users or daemon.timer is not None:
            return
        loop = asyncio.get_running_loop()
        daemon.timer = loop.call_later(self._idle_grace_seconds, self._start_release, key)

    def _start_release(self, key: str) -> None:
        daemon = self._daemons[key]
        daemon.timer = None
        if daemon.launch is not None:
            self._release_later(key)  # its user may give up before it is there
            return
        if daemon.users or daemon.release is not None:
            return
        daemon.release = asyncio.create_task(self._release(key, daemon))

    async def _launch(self, key: str, config: efc_pb2.DaemonConfig) -> None:
        target = self.mount_of(key)
        _make_directory(target)
        if self._program is not None:
            await self._program.ensure()
        try:
            # First the keeper gets the sessions held here, or a new one would take the mount for a dead one.
            await self._sessions.ensure()
            status = await self._mount(target, config)
        except DriverError:
            _remove_directory(target)
            raise
        await self._sessions.hold(status)
        self._daemons[key].unknown_options = options_unknown_to(status, asked=config)
        _LOGGER.debug("daemon %s serves, process %d", key, status.pid)

    async def _mount(self, target: str, config: efc_pb2.DaemonConfig) -> efc_pb2.MountStatus:
        try:
            return await self._keeper.mount(target=target, config=config, limit_seconds=LAUNCH_SECONDS_MAX)
        except DriverError as error:
            if (serving := await self._serving_otherwise(target, config, error)) is not None:
                return serving
            if not await self._is_left_over(target, error):
                raise
        _LOGGER.warning("%s is a mount that nobody restarts any more", target)
        await self._keeper.unmount(target=target)
        return await self._keeper.mount(target=target, config=config, limit_seconds=LAUNCH_SECONDS_MAX)

    async def _serving_otherwise(
        self, target: str, config: efc_pb2.DaemonConfig, error: DriverError
    ) -> efc_pb2.MountStatus | None:
        """The dataset's daemon if it serves, but with what were the defaults when it was mounted.

        What was given is equal, or it would have another key: pods share it until it is released.
        """
        if error.code is not Code.ALREADY_EXISTS:
            return None
        for mount in (await self._keeper.status(target)).mounts:
            if mount.config.source == config.source and mount.state != efc_pb2.MountStatus.ABORTED:
                _LOGGER.info("%s is served with the defaults of another release, until its last volume is gone", target)
                return mount
        return None

    async def _is_left_over(self, target: str, error: DriverError) -> bool:
        """Made by a keeper that died since, or aborted: bind mounts of it live their own life, the target is free."""
        if error.code is not Code.FAILED_PRECONDITION:
            return error.code is Code.ALREADY_EXISTS
        mounts = (await self._keeper.status(target=target)).mounts
        return any(mount.state == efc_pb2.MountStatus.ABORTED for mount in mounts)

    async def _release(self, key: str, daemon: _Daemon) -> None:
        target = self.mount_of(key)
        try:
            self._refuse_use(target)
            await self._keeper.unmount(target=target)
            self._sessions.drop(target)
            self._roots.forget(key)
            _remove_directory(target)
            _LOGGER.info("daemon %s released", key)
        except DriverError as error:
            # The mount is in use by something unknown, or there is no keeper: it is tried again after another grace.
            level = logging.INFO if error.code is Code.FAILED_PRECONDITION else logging.WARNING
            _LOGGER.log(level, "daemon %s not released yet: %s", key, error.message)
        finally:
            daemon.release = None
            if not daemon.users and not _exists(target):
                self._daemons.pop(key, None)
            else:
                self._release_later(key)

    def _refuse_use(self, target: str) -> None:
        """Raises FAILED_PRECONDITION if what is mounted at ``target`` is mounted elsewhere too, as a volume is."""
        mounts = self._mounts.all()
        own = top(mounts, target)
        if own is None:
            return
        bound = [mount.target for mount in mounts if mount.device == own.device and mount.target != target]
        if bound:
            others = f" and {len(bound) - 1} other places" if len(bound) > 1 else ""
            raise DriverError(Code.FAILED_PRECONDITION, f"its file system is mounted at {bound[0]!r}{others}")


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _make_directory(path: str) -> None:
    """Makes a directory to be mounted at, unless there is something; raises INTERNAL if it cannot be made."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), mode=0o700)
        # It may be a dead mount, no directory to those who ask: the keeper knows what to do with it.
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode=0o700)
    except OSError as error:
        raise DriverError(Code.INTERNAL, f"cannot make {path}: {error.strerror}") from None


def _remove_directory(path: str) -> None:
    """Removes a directory if it is empty; a mount point is EBUSY, and stays."""
    with contextlib.suppress(OSError):
        os.rmdir(path)
