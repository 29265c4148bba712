"""New mounts in place of dead ones, after all who held a dataset's session have died at once.

A session that nobody holds is lost: its mounts answer ENOTCONN for ever. The dataset is mounted anew, and the new mount
is put where the dead one was: in containers that run, at the published targets, wherever kubelet has bound it for a
subPath. No pod needs HostToContainer for that; ``efc-mount-helper repair`` enters each mount namespace, one process
each. New opens work from then on. Descriptors, mappings and working directories of the dead mount cannot be saved; who
had some is counted, logged and told in the volume's condition (mappings are not looked for: their list can hang).

Lost is what is mounted at a published target and is none of the sessions that the keeper knows, once it has been given
what this process holds, unless a daemon has it open still. Dead mounts themselves are never asked.

Containers come first, the node and this process's own mounts last: as long as a published target is dead, a node plugin
that starts anew knows what is to be done. Containers that were being made in the meantime are found by later looks.
Publishes and unpublishes of the same targets may go on meanwhile: whoever comes second finds nothing to do.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.base.saved import DamagedError, Folder, checked
from csi.config.options import MountOptions
from csi.config.sources import Source
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper
from csi.node.mounts import FILE_SYSTEM_TYPE, Loss, Mounts, Namespace, Unreplaced
from csi.node.records import Publication, Publications
from csi.observe.exposition import Recorder

_LOGGER = logging.getLogger(__name__)
#: How soon a new keeper is noticed, after which all that may be lost is looked at.
_LOOK_SECONDS = 0.1
#: How often else.
_INTERVAL_SECONDS = 10.0
#: When a file system that has been replaced is looked for again: in containers that were being made, where it failed.
_AGAIN_SECONDS = (1.0, 4.0, 15.0, 40.0)
#: After a dataset could not be mounted anew: the first delay, which doubles, and the longest.
_RETRY_SECONDS, _RETRY_SECONDS_MAX, _DOUBLINGS_MAX = 0.5, 30.0, 10
#: How long one dataset may keep others waiting.
_LAUNCH_WAIT_SECONDS = 2.0
#: Mount namespaces at once.
_NAMESPACES_MAX = 8
#: Most passes over all namespaces: mounts are copied into new ones meanwhile.
_PASSES_MAX = 3
#: Latest time that a report can have (the year 9999).
_UNIX_S_MAX = 253_402_300_799.0
#: Most that one report names.
_NAMED_MAX = 20


@dataclass(kw_only=True)
class Outcome:
    """What has been replaced, what not, and what nobody can save."""

    replaced: int = 0
    failed: list[Unreplaced] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    #: Whether all processes were looked at for these.
    is_complete: bool = True
    #: device -> process id of a daemon that has the session open: nothing of it was touched.
    held: dict[str, int] = field(default_factory=dict)


async def replace_everywhere(mounts: Mounts, *, roots: Mapping[str, str]) -> Outcome:
    """Replaces the mounts of lost file systems in all mount namespaces; ``roots``: device -> its dataset's new mount.

    Repeatable. Raises the error of a survey; what fails in one namespace is in the outcome.
    """
    outcome = Outcome()
    tried: set[tuple[int, tuple[str, str]]] = set()
    for number in range(_PASSES_MAX):
        survey = await mounts.survey(roots)
        outcome.held = survey.holders
        lost = {device: root for device, root in roots.items() if device not in survey.holders}
        if number == 0:
            outcome.losses = [loss for loss in survey.losses if loss.device in lost]
            outcome.is_complete = survey.is_complete
        found = [
            namespace for namespace in survey.namespaces
            if any(mount[0] in lost and (namespace.inode, mount) not in tried for mount in namespace.mounts)
        ]  # fmt: skip
        if not found:
            break
        tried |= {(namespace.inode, mount) for namespace in found for mount in namespace.mounts}
        await _replace_in(mounts, found, roots=lost, outcome=outcome)
    return outcome


async def _replace_in(
    mounts: Mounts, namespaces: Iterable[Namespace], *, roots: Mapping[str, str], outcome: Outcome
) -> None:
    limit = asyncio.Semaphore(_NAMESPACES_MAX)

    async def replace(namespace: Namespace) -> None:
        async with limit:
            try:
                replaced, failed = await mounts.replace(namespace, roots=roots)
            except DriverError as error:
                replaced, failed = 0, [
                    Unreplaced(
                        device=device, process=namespace.process, mount_point=point, root="", message=error.message
                    )
                    for device, point in sorted(namespace.mounts) if device in roots
                ]  # fmt: skip
            outcome.replaced += replaced
            outcome.failed += failed

    own = os.stat("/proc/self/ns/mnt").st_ino
    # Process 1 is the node's, where this process sees it.
    late = [namespace for namespace in namespaces if namespace.inode == own or namespace.process == 1]
    await asyncio.gather(*(replace(namespace) for namespace in namespaces if namespace not in late))
    for namespace in sorted(late, key=lambda namespace: namespace.inode == own):
        await replace(namespace)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the last repair of a dataset's mounts has come to. ``target`` and ``device`` are those of its new mount."""

    target: str
    device: str
    at_unix_s: float
    replaced: int
    failed: list[Unreplaced]
    losses: list[Loss]
    #: No process was passed over in counting those, and none is left out here.
    is_complete: bool

    def failure(self, path: str | None = None) -> str:
        """What stays dead, of the directory ``path`` of the dataset or of all; "" if nothing."""
        failed = [one for one in self.failed if path is None or not one.root or _overlap(one.root, f"/{path}")]
        named = "; ".join(f"process {one.process} at {one.mount_point}: {one.message}" for one in failed[:_NAMED_MAX])
        return f"a dead mount could not be replaced ({named}); restart the pod" if failed else ""

    def note(self) -> str:
        """When it was, and what was lost."""
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(self.at_unix_s, 0.0), _UNIX_S_MAX)))
        named = ", ".join(
            f"{loss.command} ({loss.process}): {loss.descriptors or 'its working directory'}"
            for loss in self.losses[:_NAMED_MAX]
        )
        named += "" if self.is_complete else " and perhaps others"
        lost = f"; open files that get errors until they are opened again: {named}" if named else ""
        return f"mounted anew at {at}, after all that held its session had died{lost}"


def _overlap(one: str, other: str) -> bool:
    one, other = f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"
    return one.startswith(other) or other.startswith(one)


class Reports:
    """The last report of each dataset, also on disk (``<run-dir>/csi/repaired``), where `efc status` reads it."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Folder(Path(run_dir) / "csi" / "repaired")
        #: device -> what keeps a lost file system from being replaced just now, or "".
        self.lost: dict[str, str] = {}

    def put(self, report: Report) -> None:
        """Keeps it; that it cannot be written is logged."""
        try:
            self._folder.make()
            self._folder.write(report.target, asdict(report))
        except OSError as error:
            path = self._folder.file_of(report.target)
            _LOGGER.warning("cannot write the report %s: %s", path, error.strerror)

    def get(self, target: str, *, device: str) -> Report | None:
        """That of the mount which is at ``target`` now."""
        try:
            report = checked(Report, self._folder.read(self._folder.file_of(target)))
        except (DamagedError, FileNotFoundError):
            return None
        return report if (report.target, report.device) == (target, device) else None

    def forget_others(self, targets: Iterable[str]) -> None:
        """Removes reports of mounts that there are no more."""
        self._folder.forget_others(targets)


def report_of(outcome: Outcome, *, target: str, old: Iterable[str], new: str, before: Report | None = None) -> Report:
    """The part of an outcome that the file systems ``old`` have, for the mount ``new`` at ``target``.

    A later look adds to the report before: what failed then, and does no more, is mended.
    """
    devices = set(old)
    failed = [one for one in outcome.failed if one.device in devices]
    losses = [loss for loss in outcome.losses if loss.device in devices]
    is_complete = outcome.is_complete and len(losses) <= _NAMED_MAX
    replaced, at_unix_s = outcome.replaced, time.time()
    if before is not None:
        replaced, at_unix_s = replaced + before.replaced, before.at_unix_s
        losses, is_complete = before.losses, before.is_complete
        failed += [one for one in before.failed if one.device not in devices]
    return Report(
        target=target, device=new, at_unix_s=at_unix_s, replaced=replaced, failed=failed[:_NAMED_MAX],
        losses=losses[:_NAMED_MAX], is_complete=is_complete,
    )  # fmt: skip


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
    ) -> None:
        self._publications = publications
        self._mounts = mounts
        self._daemons = daemons
        self._keeper = keeper
        self._reports = reports
        self._recorder = recorder
        #: By device.
        self._lost: dict[str, _Lost] = {}
        self._launches: dict[str, asyncio.Task[str]] = {}
        self._owner: tuple[int, ...] | None = None
        self._next_look = 0.0
        for result in ("replaced", "failed"):
            recorder.count("efc_dead_mounts_total", 0, result=result)

    async def watch(self) -> None:
        """Never returns: looks at once, at each new keeper, and every few seconds."""
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
        # A number that is used again.
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
            config = options.daemon_config(Source.parse(publication.source))
        except (TypeError, ValueError) as error:
            raise DriverError(Code.FAILED_PRECONDITION, f"its record is of another release: {error}") from None
        config.read_only = False
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
            self._postpone(device, f"the daemon {process}, which no keeper reaches, has it open still")
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
