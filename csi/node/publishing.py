"""Publishing volumes to target paths on this node, and undoing it.

A publish makes record, daemon, target directory and bind mount, in this order; an unpublish undoes them in reverse.
Each step is idempotent, so a crash between any two is repaired by the CO's next call, or by :meth:`Publisher.recover`
at the next start. Mountinfo and records together say what exists. Nothing here ever looks *into* a target, except to
check that it is empty when nothing is mounted there, and nothing is ever deleted but an empty directory (rmdir) that no
mount covers. Only efc-mount-helper makes, mounts on and removes targets, by a descriptor of their parent, because a
path that was checked here may lead elsewhere a moment later.

An operation runs to its end even if its caller has gone away: half a publish would have to be undone anyway, and the
caller's retry finds it finished. Operations on one target never overlap; those on different targets may.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from csi._proto import csi_pb2, efc_pb2
from csi.base.errors import Code, DriverError
from csi.base.locks import KeyedLocks
from csi.config.pods import Pod
from csi.config.several import described_place, origin_of
from csi.config.sources import Source
from csi.config.volumes import NodeVolume
from csi.node import conditions
from csi.node.conditions import Conditions, VolumeStatus
from csi.node.daemon_keys import daemon_key, session_config
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper
from csi.node.mounts import FILE_SYSTEM_TYPE, Mount, Mounts
from csi.node.records import Publication, Publications
from csi.node.reports import Reports
from csi.node.targets import KubeletRoots, check_target_parent, root_of

_LOGGER = logging.getLogger(__name__)
_SINGLE_WRITER = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER


class Publisher:
    """Publishes and unpublishes the volumes of one node."""

    def __init__(
        self,
        *,
        publications: Publications,
        mounts: Mounts,
        daemons: Daemons,
        keeper: Keeper,
        kubelet_roots: KubeletRoots,
        reports: Reports,
    ) -> None:
        self._publications = publications
        self._mounts = mounts
        self._daemons = daemons
        self._kubelet_roots = kubelet_roots.resolved
        self._translated = kubelet_roots.translated
        self._reports = reports
        self._conditions = Conditions(
            publications=publications,
            mounts=mounts,
            daemons=daemons,
            keeper=keeper,
            reports=reports,
            kubelet_roots=kubelet_roots.resolved,
        )
        self._locks = KeyedLocks("target")
        self._operations: set[asyncio.Task[None]] = set()

    async def publish(
        self, preparing: AbstractAsyncContextManager[NodeVolume], *, target: str, read_only: bool, access_mode: int
    ) -> None:
        """Makes the volume that ``preparing`` gives visible at ``target``, and leaves that; a repetition is success.

        Raises ALREADY_EXISTS if the target has another volume or the same in another way, FAILED_PRECONDITION for a
        second target of a single-writer volume, NOT_FOUND if the volume's directory does not exist, ABORTED while
        another call for the target is under way, and the errors of the keeper. On an error nothing is left behind.
        """

        async def prepare_and_publish() -> None:
            async with preparing as volume:
                wanted = Publication(
                    volume_id=volume.id,
                    target=target,
                    source=volume.source.canonical(),
                    path=volume.path,
                    key=daemon_key(volume.source, volume.options),
                    options=volume.options.given(),
                    read_only=read_only,
                    access_mode=access_mode,
                )
                config = session_config(volume.serving or volume.source, volume.options)
                await self._publish(wanted, config, volume.pod)

        await self._to_the_end(prepare_and_publish())

    def as_published(self, volume: NodeVolume, *, target: str) -> NodeVolume | None:
        """The volume, divided into source and path as when it was published at ``target``; None if it was not."""
        present = self._publications.get(target)
        if present is None or present.volume_id != volume.id:
            return None
        source = origin_of(present.source)
        if not isinstance(source, Source) or not isinstance(volume.source, Source):
            return None
        if source.beneath(present.path) != volume.source.beneath(volume.path):
            return None
        return replace(volume, source=source, path=present.path)

    async def unpublish(self, volume_id: str, *, target: str) -> None:
        """Removes ``target``; that it is not there is success. NOT_FOUND if it is another volume's."""
        await self._to_the_end(self._unpublish(volume_id, target))

    async def _to_the_end(self, operation: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(operation)
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_unseen)
            raise

    @property
    def operations_in_flight(self) -> int:
        """The number of publishes and unpublishes under way."""
        return len(self._operations)

    def published(self) -> Iterator[Publication]:
        """The publications that are made, or are about to be."""
        return iter(self._publications)

    async def finish(self) -> None:
        """Waits for all operations under way; each has a deadline of its own."""
        if self._operations:
            await asyncio.wait(self._operations)

    async def close(self) -> None:
        """Waits for all operations under way, and releases daemons that nobody uses."""
        await self.finish()
        await self._daemons.close()

    async def _publish(self, wanted: Publication, config: efc_pb2.DaemonConfig, pod: Pod | None) -> None:
        with self._locks.hold(wanted.target):
            self._refuse_conflicts(wanted)
            check_target_parent(wanted.target, roots=self._kubelet_roots)
            mount = self._mounts.at(wanted.target)
            if mount is not None and mount.file_system_type != FILE_SYSTEM_TYPE:
                raise DriverError(
                    Code.ALREADY_EXISTS, f"{wanted.target!r} is a mount point of {mount.source!r} already, not of EFC"
                )
            if mount is None:
                _require_empty(wanted.target)
            present = self._publications.get(wanted.target)
            if present is None:
                wanted = replace(wanted, key=await self._daemons.key_now(wanted.key))
                self._refuse_conflicts(wanted)  # of calls that have come in between
                self._publications.put(wanted)
            else:
                # By a pod that may run: what it has been given stays, whatever another release would call it.
                wanted = replace(wanted, key=present.key)
            self._publications.note_pod(wanted.target, pod)
            try:
                await self._mount(wanted, config)
            except BaseException:
                if present is None and mount is None:
                    await self._undo(wanted)
                elif present is None:
                    # A pod may use what was mounted before, whose record was lost.
                    self._forget(wanted)
                raise

    def _refuse_conflicts(self, wanted: Publication) -> None:
        present = self._publications.get(wanted.target)
        if present is not None and not present.is_same(wanted):
            raise DriverError(
                Code.ALREADY_EXISTS,
                f"{wanted.target!r} is published already, for volume {present.volume_id!r} or in another way: "
                "unpublish it first",
            )
        for other in self._publications.of_volume(wanted.volume_id):
            is_single = _SINGLE_WRITER in (other.access_mode, wanted.access_mode)
            if is_single and other.target != wanted.target and self._is_there(other.target):
                raise DriverError(
                    Code.FAILED_PRECONDITION,
                    f"volume {wanted.volume_id!r} is for a single writer (ReadWriteOncePod), and is published at "
                    f"{other.target!r} already",
                )

    def _is_there(self, target: str) -> bool:
        """Whether ``target`` is mounted or may be in a moment: a record alone outlives what somebody has unmounted."""
        may_be = self._locks.is_held(target) or self._mounts.is_working(target)
        return may_be or self._mounts.at(target) is not None

    async def _mount(self, wanted: Publication, config: efc_pb2.DaemonConfig) -> None:
        dataset = await self._daemons.acquire(wanted.key, config=config, user=wanted.target)
        root = self._root_of(wanted.target)
        present = self._mounts.at(wanted.target)
        if present is not None:
            if _serves(present, wanted, dataset=self._mounts.at(dataset)):
                return
            # The mount there belongs to a daemon or a directory that is gone.
            await self._mounts.unmount(wanted.target, beneath=root)
        await self._bind(wanted, dataset=dataset, beneath=root)

    async def _bind(self, wanted: Publication, *, dataset: str, beneath: str) -> None:
        bound = asyncio.create_task(
            self._mounts.bind(
                root=dataset, path=wanted.path, beneath=beneath, target=wanted.target, read_only=wanted.read_only
            )
        )
        condition = ""
        if not (await asyncio.wait({bound}, timeout=conditions.UNRESPONSIVE_SECONDS))[0]:
            # While the bind waits still, the daemon knows what for; when it was stopped, nobody waits any more.
            condition = await self._conditions.of_daemon(wanted.key)
        try:
            await bound
        except DriverError as error:
            # An earlier helper for this target may wait still: then the daemon knows as well.
            condition = condition or await self._conditions.of_daemon(wanted.key)
            raise bind_failure(error, wanted, dataset=dataset, condition=condition) from error

    def _root_of(self, target: str) -> str:
        return root_of(target, roots=self._kubelet_roots)

    async def _undo(self, wanted: Publication) -> None:
        """Leaves nothing of a failed publish. A step that fails is logged: its record stays for the next try."""
        try:
            await self._remove(wanted.target)
            self._forget(wanted)
        except DriverError as error:
            _LOGGER.warning("what a failed publish left at %r is not removed: %s", wanted.target, error.message)

    def _forget(self, publication: Publication) -> None:
        self._publications.remove(publication.target)
        self._daemons.give_up(publication.key, user=publication.target)

    async def _unpublish(self, volume_id: str, target: str) -> None:
        with self._locks.hold(target):
            present = self._publications.get(target)
            if present is not None and present.volume_id != volume_id:
                raise DriverError(
                    Code.NOT_FOUND, f"{target!r} belongs to volume {present.volume_id!r}, not to {volume_id!r}"
                )
            await self._remove(target)
            self._publications.remove(target)
            if present is not None:
                self._daemons.give_up(present.key, user=target)

    async def _remove(self, target: str) -> None:
        mount = self._mounts.at(target)
        if mount is not None and mount.file_system_type != FILE_SYSTEM_TYPE:
            raise DriverError(
                Code.FAILED_PRECONDITION, f"{target!r} is a mount of {mount.source!r}, not of EFC: unmount it"
            )
        await self._mounts.remove(target, beneath=self._root_of(target))

    async def status(self, volume_id: str, *, target: str) -> VolumeStatus:
        """Sizes and condition; NOT_FOUND unless ``volume_id`` is published at ``target``."""
        publication = self._publications.get(target.rstrip("/"))
        if publication is None or publication.volume_id != volume_id:
            raise DriverError(Code.NOT_FOUND, f"volume {volume_id!r} is not published at {target!r} on this node")
        return await self._conditions.of_volume(publication)

    async def recover(self) -> None:
        """Settles, at start, records against mountinfo, takes daemons over, and releases those that nobody uses."""
        self._publications.load()
        self._translate_targets()
        mounted = {mount.target: mount for mount in self._mounts.all()}
        for publication in self._publications:
            if publication.target in mounted:
                self._daemons.adopt(publication.key, user=publication.target)
                continue
            # A publish that was cut off, or a mount that somebody else removed: the CO publishes again.
            _LOGGER.info("removed the record of %r, which is not mounted", publication.target)
            try:
                self._publications.remove(publication.target)
                await self._mounts.remove(publication.target, beneath=self._root_of(publication.target))
            except DriverError as error:
                _LOGGER.warning("%s", error.message)
        used = {publication.key for publication in self._publications}
        for name in sorted(self._daemons.known() - used):
            self._daemons.adopt(name, user=None)
        self._reports.forget_others(self._daemons.mount_of(key) for key in used)

    def _translate_targets(self) -> None:
        """Renames records of release 0.1.0, which has targets as kubelet names them, to where the targets are."""
        for publication in self._publications:
            target = self._translated(publication.target)
            if target == publication.target:
                continue
            if self._publications.get(target) is None:
                self._publications.put(replace(publication, target=target))
            self._publications.remove(publication.target)


def bind_failure(error: DriverError, wanted: Publication, *, dataset: str, condition: str) -> DriverError:
    """The error of a bind that failed, in words of who asked for it: NAS and directory, but no path of this node.

    ``condition`` is that of the daemon. One that waits for the NAS makes whoever binds wait, so it is the reason then.
    """
    source = origin_of(wanted.source)
    place, servers = described_place(source, wanted.path)
    if error.code is Code.DEADLINE_EXCEEDED or (error.code is Code.ABORTED and condition):
        reason = condition or "its daemon serves others, but did not open this directory in time"
        return DriverError(
            Code.UNAVAILABLE,
            f"cannot mount {place}: {reason}. Check that {servers} is up and serves NFSv3 to this node",
        )
    own_path = f"{dataset}/{wanted.path}".rstrip("/")
    if error.code is Code.NOT_FOUND and own_path in error.message:
        return DriverError(
            Code.NOT_FOUND,
            f"there is no directory {wanted.path!r} at {source}: make it, or correct the volume's path",
        )
    message = error.message.replace(own_path, place).replace(dataset, str(source))
    return DriverError(error.code, message)


def _serves(mount: Mount, wanted: Publication, *, dataset: Mount | None) -> bool:
    """Whether the mount at the target is what the publication asks for, of the dataset's mount of today."""
    if dataset is None or mount.device != dataset.device or mount.read_only != wanted.read_only:
        return False
    return mount.root == (dataset.root.rstrip("/") + "/" + wanted.path if wanted.path else dataset.root)


def _require_empty(target: str) -> None:
    """Raises FAILED_PRECONDITION if a directory on which nothing is mounted has content, which a mount would hide.

    It could not be removed when the volume is unpublished.
    """
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # not there yet, or no directory: whoever mounts on it says so
        return
    try:
        with os.scandir(descriptor) as entries:
            is_empty = next(entries, None) is None
    finally:
        os.close(descriptor)
    if not is_empty:
        raise DriverError(
            Code.FAILED_PRECONDITION,
            f"target {target!r} holds files that are not the volume's: look at them, then remove them",
        )


def _log_unseen(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _LOGGER.warning("an operation whose caller had gone away failed: %s", task.exception())
