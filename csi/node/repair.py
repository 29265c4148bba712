"""Replaces dead mounts after all processes that held a dataset's session have died at once.

A session that nobody holds is lost: its mounts return ENOTCONN for ever. The dataset is mounted again, and the new
mount takes the place of the dead one: in running containers, at the published targets, and wherever kubelet has
bind-mounted it for a subPath. No pod needs HostToContainer for that; ``efc-mount-helper repair`` enters each mount
namespace, one process each. From then on new opens work. Descriptors, mappings and working directories of the dead
mount cannot be saved; processes that had some are counted, logged and reported in the volume's condition (except for
mappings: reading their list can hang).

A mount is lost if it is at a published target and is none of the keeper's sessions, once the keeper has been given what
this process holds, unless a daemon still has it open. No dead mount is ever accessed.

Publishes and unpublishes of the same targets may run at the same time: whichever comes second finds nothing to do.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.config.mount_options import MountOptions
from csi.config.several import Sources, origin_of
from csi.node.daemon_keys import session_config
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper
from csi.node.mounts import FILE_SYSTEM_TYPE, Mounts
from csi.node.records import Publication, Publications
from csi.node.replacing import Outcome, replace_everywhere
from csi.node.reports import Reports, report_of
from csi.observe.exposition import Recorder

_LOGGER = logging.getLogger(__name__)
#: How soon a new keeper is noticed, after which all that may be lost is looked at.
_LOOK_SECONDS = 0.1
#: How often mounts are looked at while the keeper is the same.
_INTERVAL_SECONDS = 10.0
#: When a file system that has been replaced is looked for again: in containers that were being made, where it failed.
_AGAIN_SECONDS = (1.0, 4.0, 15.0, 40.0)
#: After a dataset could not be mounted anew: the first delay, which doubles, and the longest.
_RETRY_SECONDS, _RETRY_SECONDS_MAX, _DOUBLINGS_MAX = 0.5, 30.0, 10
#: How long one dataset may keep others waiting.
_LAUNCH_WAIT_SECONDS = 2.0


@dataclass(kw_only=True)
class _Lost:
    """A lost file system; ``failures`` to mount its dataset anew, ``looks`` since it was."""

    key: str
    due: float
    failures: int = 0
    looks: int = 0


class Repairer:
    """Finds lost mounts of published volumes, and has them replaced."""

    def __init__(
        self,
        *,
        publications: Publications,
        mounts: Mounts,
        daemons: Daemons,
        keeper: Keeper,
        reports: Reports,
        recorder: Recorder,
        serving: Callable[[str], Sources | None] = lambda _volume_id: None,
    ) -> None:
        """``serving``: the sources that the daemon of a volume of several is to serve by now."""
        self._publications = publications
        self._serving = serving
        self._mounts = mounts
        self._daemons = daemons
        self._keeper = keeper
        self._reports = reports
        self._recorder = recorder
        #: Lost file systems by device.
        self._lost: dict[str, _Lost] = {}
        self._launches: dict[str, asyncio.Task[str]] = {}
        self._owner: tuple[int, ...] | None = None
        self._next_look = 0.0
        for result in ("replaced", "failed"):
            recorder.count("efc_dead_mounts_total", 0, result=result)

    async def watch(self) -> None:
        """Looks for lost mounts at once, at each new keeper, and every few seconds; never returns."""
        while True:
            try:
                await self._look()
            except (DriverError, OSError) as error:
                _LOGGER.debug("lost mounts are looked for later: %s", error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        owner, now = self._keeper.identity(), asyncio.get_running_loop().time()
        is_due = now >= self._next_look or any(lost.due <= now for lost in self._lost.values())
        if owner is None or (owner == self._owner and not is_due):
            return
        await self._daemons.settle()
        await self._find(now)
        self._owner, self._next_look = owner, now + _INTERVAL_SECONDS
        if due := {device: lost for device, lost in self._lost.items() if lost.due <= now}:
            await self._repair(due)

    async def _find(self, now: float) -> None:
        """Mounts first, then sessions: a mount that is made in between would look lost the other way round."""
        mounted = self._mounted()
        if not mounted and not self._lost:
            return
        aborted = efc_pb2.MountStatus.ABORTED
        living = {f"0:{mount.connection}" for mount in (await self._keeper.status()).mounts if mount.state != aborted}
        still_mounted = self._mounted()
        for device, key in mounted.items():
            if device not in living and device in still_mounted and device not in self._lost:
                _LOGGER.warning("file system %s of %s is lost: nobody holds its session", device, key)
                self._lost[device] = _Lost(key=key, due=now)
                self._reports.lost[device] = ""
        # The device number of a lost file system is used again.
        for device in self._lost.keys() & living:
            self._forget(device)

    def _mounted(self) -> dict[str, str]:
        """Devices of what is mounted at published targets, with the dataset's key."""
        top = {mount.target: mount for mount in self._mounts.all()}
        mounts = ((top.get(publication.target), publication.key) for publication in self._publications)
        return {mount.device: key for mount, key in mounts if mount and mount.file_system_type == FILE_SYSTEM_TYPE}

    def _forget(self, device: str) -> None:
        self._lost.pop(device, None)
        self._reports.lost.pop(device, None)

    async def _repair(self, due: Mapping[str, _Lost]) -> None:
        datasets = await self._launch({lost.key for lost in due.values()})
        roots: dict[str, str] = {}
        for device, lost in due.items():
            if device not in self._lost:  # unpublished meanwhile
                continue
            match datasets.get(lost.key):
                case DriverError() as error:
                    self._postpone(device, error.message)
                case str() as dataset:
                    roots[device] = dataset
        if not roots:
            return
        outcome = await replace_everywhere(self._mounts, roots=roots)
        self._recorder.count("efc_dead_mounts_total", outcome.replaced, result="replaced")
        self._recorder.count("efc_dead_mounts_total", len(outcome.failed), result="failed")
        for device in roots:
            self._settle(device, outcome)
        self._report(outcome, roots)

    async def _launch(self, keys: Iterable[str]) -> dict[str, str | DriverError]:
        """Where datasets are mounted now, or why not; those that take long are missing, and ready at a later look."""
        for key in keys:
            publication = next((one for one in self._publications if one.key == key), None)
            if key not in self._launches and publication is not None:
                self._launches[key] = asyncio.create_task(self._mount_anew(publication))
            elif publication is None:  # unpublished meanwhile
                for device in [device for device, lost in self._lost.items() if lost.key == key]:
                    self._forget(device)
        if not self._launches:
            return {}
        ended, _ = await asyncio.wait(self._launches.values(), timeout=_LAUNCH_WAIT_SECONDS)
        results: dict[str, str | DriverError] = {}
        for key, task in list(self._launches.items()):
            if task in ended:
                del self._launches[key]
                error = task.exception()
                if error is not None and not isinstance(error, DriverError):
                    raise error
                results[key] = task.result() if error is None else error
        return results

    async def _mount_anew(self, publication: Publication) -> str:
        try:
            options = MountOptions(**publication.options)  # type: ignore[arg-type]
            config = session_config(self._serving(publication.volume_id) or origin_of(publication.source), options)
        except (TypeError, ValueError) as error:
            raise DriverError(Code.FAILED_PRECONDITION, f"its record is of another release: {error}") from None
        dataset = await self._daemons.acquire(publication.key, config=config, user=publication.target)
        if self._publications.get(publication.target) is None:
            self._daemons.give_up(publication.key, user=publication.target)
        return dataset

    def _postpone(self, device: str, reason: str) -> None:
        lost = self._lost[device]
        delay = min(_RETRY_SECONDS * 2 ** min(lost.failures, _DOUBLINGS_MAX), _RETRY_SECONDS_MAX)
        lost.failures += 1
        lost.due = asyncio.get_running_loop().time() + delay
        self._reports.lost[device] = reason
        _LOGGER.warning("file system %s is not replaced yet, next try in %g s: %s", device, delay, reason)

    def _settle(self, device: str, outcome: Outcome) -> None:
        if (process := outcome.held.get(device)) is not None:
            self._postpone(device, f"the daemon {process}, which no keeper reaches, still has it open")
            return
        lost = self._lost[device]
        self._reports.lost.pop(device, None)
        if lost.looks == len(_AGAIN_SECONDS):
            self._forget(device)
            return
        lost.due = asyncio.get_running_loop().time() + _AGAIN_SECONDS[lost.looks]
        lost.looks += 1

    def _report(self, outcome: Outcome, roots: Mapping[str, str]) -> None:
        for target in sorted(set(roots.values())):
            old = [device for device, root in roots.items() if root == target and device not in outcome.held]
            mount = self._mounts.at(target)
            if mount is None or not old:
                continue
            before = self._reports.get(target, device=mount.device)
            report = report_of(outcome, target=target, old=old, new=mount.device, before=before)
            self._reports.put(report)
            if before is None:
                _LOGGER.warning("%s: %s; %d mounts replaced", target, report.note(), report.replaced)
            if report.failed and (before is None or before.failed != report.failed):
                _LOGGER.error("%s: %s", target, report.failure())
