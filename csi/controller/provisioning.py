"""Provisioning: a directory per volume, and a record of it beside the data, all on the NAS.

The driver's own directory at a configured source::

    .efc/volumes/<id>.json      one record per volume; the truth about what an id means
    .efc/new/<id>-<created>     a directory being made; it becomes the volume's by one rename
    .efc/trash/<path>-<id>-<created>   directories of deleted volumes, until they are removed
    .efc/archived/, .efc/retained/     what onDelete says is kept, by the same names

Creating makes the directory under ``new``, writes the record with its inode number, and renames it into place;
deleting renames into ``trash`` (or ``archived``), removes the record, then the data. Each step is atomic and can be
repeated, and names are derived from the volume, so a crash between any two is mended by the CO's next try. The inode
number in the record is the marker: a directory at a volume's path with another number is somebody else's, and is never
handed out, moved or deleted. Nothing is kept in this process but a cache of records, which never change once they are
written.
"""

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from csi.base.errors import Code, DriverError, invalid
from csi.base.locks import KeyedLocks
from csi.base.saved import RECORD_BYTES_MAX
from csi.config.parameters import OnDelete, VolumeParameters
from csi.config.sources import Source
from csi.config.volumes import VolumeRecord, is_own_id, volume_id_of
from csi.controller.nas import Nas

_LOGGER = logging.getLogger(__name__)
OWN = ".efc"
_VOLUMES = f"{OWN}/volumes"
_NEW = f"{OWN}/new"
_TRASH = f"{OWN}/trash"
_ARCHIVED = f"{OWN}/archived"
_RETAINED = f"{OWN}/retained"
#: Where what is left of a deleted volume is moved.
_LEAVING = {OnDelete.DELETE: _TRASH, OnDelete.ARCHIVE: _ARCHIVED, OnDelete.RETAIN: _RETAINED}
#: Nobody but root looks in there, and pods never get it.
_OWN_MODE = 0o700
_PARENT_MODE = 0o755
_RECORD_MODE = 0o600
#: What efc-fs calls a file that it has not finished (efc/fs/src/publish.rs).
_DRAFT = re.compile(r"\.efc-[0-9a-f]{16}\.tmp")
#: Of a volume's path in the name of what is left of it, so that the whole is a name in a directory.
_SHOWN_PATH_BYTES_MAX = 150
#: How long DeleteVolume waits for the data to be gone; a large tree goes on being removed after it has answered.
REMOVE_WAIT_SECONDS = 20.0
REMOVE_SECONDS_MAX = 6 * 3600.0
#: After this long another controller has certainly given up making a volume.
_UNFINISHED_SECONDS_MAX = 3600
#: Errors that are not of one record alone: who goes on without the record would go on without all.
_OF_THE_NAS = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.NOT_FOUND)
_REMOVALS_AT_ONCE = 2
_READS_AT_ONCE = 8


class Catalogue:
    """The records at one configured source."""

    def __init__(self, nas: Nas) -> None:
        self.nas = nas
        # By id and the inode of the file: a record never changes, but an id can come back with another one.
        self._cache: dict[tuple[str, int], VolumeRecord] = {}
        self._writes = 0
        # What wrote before us may have been killed.
        self._may_have_drafts = True

    async def get(self, volume_id: str) -> VolumeRecord | None:
        """One record, read from the NAS."""
        text = await self.nas.read(f"{_VOLUMES}/{volume_id}.json", bytes_max=RECORD_BYTES_MAX)
        if text is None:
            return None
        record = VolumeRecord.from_json(text, volume_id=volume_id)
        if self.path_of(record).split("/")[0] == OWN:
            raise DriverError(Code.INTERNAL, f"the record of volume {volume_id!r} leads into {OWN!r}: it is damaged")
        return record

    async def put(self, record: VolumeRecord) -> None:
        """Writes a record, whole or not at all; ALREADY_EXISTS if there is one."""
        self._writes += 1
        try:
            await self.nas.create(f"{_VOLUMES}/{record.id}.json", record.to_json(), mode=_RECORD_MODE)
        except BaseException:
            self._may_have_drafts = True
            raise
        finally:
            self._writes -= 1

    async def remove_drafts(self) -> None:
        """Removes what a killed efc-fs was writing.

        Another controller's draft may go too: its call fails then, and is tried again.
        """
        if self._writes or not self._may_have_drafts:
            return
        self._may_have_drafts = False
        for entry in await self.nas.entries(_VOLUMES):
            if _DRAFT.fullmatch(entry.name):
                try:
                    await self.nas.remove(f"{_VOLUMES}/{entry.name}")
                except DriverError as error:
                    # Somebody made a directory of that name, for example: nobody's volume depends on it.
                    _LOGGER.warning("%s/%s stays: %s", _VOLUMES, entry.name, error.message)

    async def all(self) -> list[VolumeRecord]:
        """All records; one that is damaged or cannot be read is left out and logged."""
        found: dict[tuple[str, int], VolumeRecord] = {}
        gate = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(volume_id: str, fileid: int) -> None:
            record = self._cache.get((volume_id, fileid))
            async with gate:
                try:
                    record = record or await self.get(volume_id)
                except DriverError as error:
                    if error.code in _OF_THE_NAS:
                        raise
                    _LOGGER.error("%s", error.message)
            if record is not None:
                found[volume_id, fileid] = record

        entries = await self.nas.entries(_VOLUMES)
        names = [(entry.name.removesuffix(".json"), entry.fileid) for entry in entries if entry.name.endswith(".json")]
        async with asyncio.TaskGroup() as group:
            for volume_id, fileid in names:
                if is_own_id(volume_id):
                    group.create_task(read(volume_id, fileid))
        self._cache = found
        return list(found.values())

    def path_of(self, record: VolumeRecord) -> str:
        """The volume's directory, relative to this source."""
        return joined(self.prefix_of(Source.parse(record.source)), record.path)

    def prefix_of(self, source: Source) -> str:
        """Where ``source`` lies beneath this one."""
        prefix = source.relative_to(self.nas.source)
        if prefix is None:
            raise DriverError(
                Code.INTERNAL, f"{source.canonical()!r} does not lie beneath {self.nas.source.canonical()!r}"
            )
        return prefix


class Provisioner:
    """Volumes of all configured sources."""

    def __init__(self, sources: Sequence[Nas]) -> None:
        for inner, outer in itertools.permutations([nas.source for nas in sources], 2):
            if inner.relative_to(outer) is not None:
                # Each would know only its own volumes, and could make one within the other's.
                raise invalid(f"source {inner.canonical()!r} lies beneath {outer.canonical()!r}: configure one of them")
        self._catalogues = [Catalogue(nas) for nas in sources]
        self._locks = KeyedLocks("volume")
        self._removals: set[asyncio.Task[None]] = set()
        self._removal_gate = asyncio.Semaphore(_REMOVALS_AT_ONCE)
        self._removing: set[str] = set()
        self._trash: dict[str, set[str]] = {catalogue.nas.source.canonical(): set() for catalogue in self._catalogues}

    def catalogue_for(self, source: Source | None) -> tuple[Catalogue, Source]:
        """The configured source at or above ``source``; raises INVALID_ARGUMENT. None means the only one."""
        if source is None:
            if len(self._catalogues) != 1:
                raise invalid("the StorageClass has no parameter 'source', and this driver has several")
            return self._catalogues[0], self._catalogues[0].nas.source
        for catalogue in self._catalogues:
            if source.relative_to(catalogue.nas.source) is not None:
                return catalogue, source
        allowed = ", ".join(catalogue.nas.source.canonical() for catalogue in self._catalogues)
        raise invalid(f"parameter 'source' has value {source.canonical()!r}; allowed is what lies beneath {allowed}")

    async def create(
        self, name: str, *, parameters: VolumeParameters, required_bytes: int, limit_bytes: int
    ) -> VolumeRecord:
        """Makes the volume called ``name``, or finds it made.

        Raises ALREADY_EXISTS if the name or the directory is taken by something else, and the NAS's errors. Capacities
        are 0 for none.
        """
        volume_id = volume_id_of(name)
        catalogue, source = self.catalogue_for(parameters.source)
        wanted = VolumeRecord(
            id=volume_id,
            name=name,
            source=source.canonical(),
            path=parameters.path or parameters.default_path or volume_id,
            capacity_bytes=required_bytes or limit_bytes,
            on_delete=parameters.on_delete.value,
            uid=parameters.uid,
            gid=parameters.gid,
            mode=parameters.mode,
            options=parameters.options,
            fileid=0,
            created_unix_ns=time.time_ns(),
        )
        if catalogue.path_of(wanted).split("/")[0] == OWN:
            raise invalid(f"the volume's path {wanted.path!r} leads into {OWN!r}, the driver's own directory")
        with self._locks.hold(volume_id):
            record = await catalogue.get(volume_id)
            if record is None:
                await self._refuse_overlap(catalogue, wanted)
                record = await self._write_record(catalogue, wanted)
            if not parameters.path:
                # The default may have been another one when the volume was made.
                wanted = replace(wanted, path=record.path)
            _refuse_difference(record, wanted, required_bytes=required_bytes, limit_bytes=limit_bytes)
            await self._put_in_place(catalogue, record)
        return record

    async def _refuse_overlap(self, catalogue: Catalogue, wanted: VolumeRecord) -> None:
        """A volume within another would be deleted with it."""
        path = catalogue.path_of(wanted) + "/"
        for other in await catalogue.all():
            taken = catalogue.path_of(other) + "/"
            if path.startswith(taken) or taken.startswith(path):
                raise DriverError(
                    Code.ALREADY_EXISTS,
                    f"directory {wanted.path!r} lies within volume {other.name!r} ({other.path!r}) or around it: "
                    "change 'pathPattern'",
                )
        if await catalogue.nas.stat(path.rstrip("/")) is not None:
            raise _foreign(wanted)

    async def _write_record(self, catalogue: Catalogue, wanted: VolumeRecord) -> VolumeRecord:
        """Makes the directory aside, and the record that names it."""
        nas, aside = catalogue.nas, _aside(wanted)
        # First of all, so that a path that cannot be (through a file or a link) leaves no record behind.
        parent = catalogue.path_of(wanted).rpartition("/")[0]
        if parent:
            await nas.make_directories(parent, mode=_PARENT_MODE)
        # Where it goes when it is deleted, too: deleting must work on a NAS that is full.
        for directory in (_VOLUMES, _NEW, _LEAVING[OnDelete(wanted.on_delete)]):
            await nas.make_directories(directory, mode=_OWN_MODE)
        await nas.make_directory(aside, mode=wanted.mode, uid=wanted.uid, gid=wanted.gid)
        made = await nas.stat(aside)
        if made is None:
            raise DriverError(Code.INTERNAL, f"the new directory {aside!r} at {wanted.source} is gone again")
        record = replace(wanted, fileid=made.fileid)
        try:
            await catalogue.put(record)
        except DriverError as error:
            await nas.remove(aside)
            if error.code is not Code.ALREADY_EXISTS:
                raise
            raise DriverError(Code.ABORTED, f"another controller made volume {wanted.name!r}: try again") from None
        return record

    async def _put_in_place(self, catalogue: Catalogue, record: VolumeRecord) -> None:
        nas, path = catalogue.nas, catalogue.path_of(record)
        present = await nas.stat(path)
        if present is not None and present.fileid == record.fileid:
            return
        aside = await nas.stat(_aside(record))
        if present is None and aside is not None and aside.fileid == record.fileid:
            parent = path.rpartition("/")[0]
            if parent:
                await nas.make_directories(parent, mode=_PARENT_MODE)
            try:
                await nas.move(_aside(record), path)
                return
            except DriverError as error:
                if error.code is not Code.ALREADY_EXISTS:
                    raise
        if present is None and aside is None:
            raise DriverError(
                Code.FAILED_PRECONDITION,
                f"directory {record.path!r} of volume {record.name!r} is gone from {record.source}: delete the volume",
            )
        if aside is not None and aside.fileid == record.fileid:
            # Somebody made a directory there in the meantime; ours was never handed out.
            await nas.remove(f"{_VOLUMES}/{record.id}.json")
            await nas.remove(_aside(record))
        raise _foreign(record)

    async def delete(self, volume_id: str) -> None:
        """Deletes a volume as its onDelete says; an unknown one is success.

        Raises FAILED_PRECONDITION if the directory is not the one that was made, and the NAS's errors.
        """
        if not is_own_id(volume_id):
            return
        with self._locks.hold(volume_id):
            found = await self._find(volume_id)
            if found is None:
                return
            catalogue, record = found
            kept = _kept_name(record)
            record_path = f"{_VOLUMES}/{record.id}.json"
            on_delete = OnDelete(record.on_delete)
            if on_delete is OnDelete.RETAIN:
                await self._move_own(catalogue.nas, record_path, f"{_RETAINED}/{kept}.json")
                return
            if on_delete is OnDelete.ARCHIVE:
                await self._move_away(catalogue, record, f"{_ARCHIVED}/{kept}")
                await self._move_own(catalogue.nas, record_path, f"{_ARCHIVED}/{kept}.json")
                return
            await self._move_away(catalogue, record, f"{_TRASH}/{kept}")
            await catalogue.nas.remove(record_path)
        await self._empty_trash(catalogue)

    async def _find(self, volume_id: str) -> tuple[Catalogue, VolumeRecord] | None:
        """Asks every source; a NAS that does not answer is an error unless another has the record."""
        failure: DriverError | None = None
        for catalogue in self._catalogues:
            try:
                record = await catalogue.get(volume_id)
            except DriverError as error:
                failure = error
                continue
            if record is not None:
                return catalogue, record
        if failure is not None:
            raise failure
        return None

    async def _move_away(self, catalogue: Catalogue, record: VolumeRecord, to: str) -> None:
        """Moves the volume's directory, wherever creation had got to; that it is gone already is success."""
        for path in (catalogue.path_of(record), _aside(record)):
            present = await catalogue.nas.stat(path)
            if present is None:
                continue
            if present.fileid != record.fileid:
                raise DriverError(
                    Code.FAILED_PRECONDITION,
                    f"{path!r} at {record.source} is not the directory that was made for volume {record.name!r} "
                    f"(it was replaced or restored): look at it, then remove it or {_VOLUMES}/{record.id}.json",
                )
            await self._move_own(catalogue.nas, path, to)
            return

    async def _move_own(self, nas: Nas, old: str, new: str) -> None:
        await nas.make_directories(new.rpartition("/")[0], mode=_OWN_MODE)
        await nas.move(old, new)

    async def _empty_trash(self, catalogue: Catalogue) -> None:
        """Removes all that is in the trash; waits a while for it, and goes on after that."""
        await catalogue.remove_drafts()
        entries = await catalogue.nas.entries(_TRASH)
        paths = {f"{_TRASH}/{entry.name}" for entry in entries}
        self._trash[catalogue.nas.source.canonical()] = paths
        started = {self._start_removal(catalogue.nas, path) for path in sorted(paths)} - {None}
        if started:
            await asyncio.wait([task for task in started if task is not None], timeout=REMOVE_WAIT_SECONDS)

    def _start_removal(self, nas: Nas, path: str) -> "asyncio.Task[None] | None":
        key = f"{nas.source.canonical()} {path}"
        if key in self._removing:
            return None
        self._removing.add(key)

        async def remove() -> None:
            try:
                async with self._removal_gate:
                    await nas.remove_tree(path, limit_seconds=REMOVE_SECONDS_MAX)
                self._trash[nas.source.canonical()].discard(path)
            except DriverError as error:
                _LOGGER.warning("%s stays until the next deletion: %s", key, error.message)
            finally:
                self._removing.discard(key)

        task = asyncio.create_task(remove())
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)
        return task

    def trash(self) -> Mapping[str, int]:
        """Source -> directories in its trash, as of the last look and what was removed since."""
        return {source: len(paths) for source, paths in self._trash.items()}

    async def collect(self) -> None:
        """At start: removes what deletions before a crash or a restart have left."""
        for catalogue in self._catalogues:
            try:
                await self._remove_unfinished(catalogue)
                await self._empty_trash(catalogue)
            except DriverError as error:
                _LOGGER.warning("the trash of %s is not emptied: %s", catalogue.nas.source, error.message)

    async def _remove_unfinished(self, catalogue: Catalogue) -> None:
        """Directories that were made aside, but for which no record was written in time."""
        entries = await catalogue.nas.entries(_NEW)
        if not entries:
            return
        kept = {_unique_name(record) for record in await catalogue.all()}
        for entry in entries:
            volume_id, _, created = entry.name.rpartition("-")
            is_old = created.isdecimal() and time.time_ns() - int(created) > _UNFINISHED_SECONDS_MAX * 10**9
            if is_own_id(volume_id) and is_old and entry.name not in kept:
                # Not its content: nobody was ever given this directory, so it has none.
                await catalogue.nas.remove(f"{_NEW}/{entry.name}")

    async def close(self) -> None:
        """Stops removals; what is left is removed at the next start."""
        tasks = list(self._removals)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def get(self, volume_id: str) -> tuple[VolumeRecord, str]:
        """A volume and why it is abnormal ("" if it is not); raises NOT_FOUND."""
        found = await self._find(volume_id) if is_own_id(volume_id) else None
        if found is None:
            raise DriverError(Code.NOT_FOUND, f"there is no volume {volume_id[:128]!r} on the configured sources")
        catalogue, record = found
        return record, (await self._conditions(catalogue, [record]))[record.id]

    async def list(self, *, after: str, count_max: int) -> tuple[list[tuple[VolumeRecord, str]], str]:
        """A page of volumes with their conditions, by id, and the id it ends with ("" if it is the last page)."""
        found: list[tuple[VolumeRecord, Catalogue]] = []
        for catalogue in self._catalogues:
            found += [(record, catalogue) for record in await catalogue.all() if record.id > after]
        found.sort(key=lambda pair: pair[0].id)
        page = found[:count_max] if count_max else found
        conditions: dict[str, str] = {}
        for catalogue in self._catalogues:
            conditions |= await self._conditions(catalogue, [record for record, owner in page if owner is catalogue])
        listed = [(record, conditions[record.id]) for record, _ in page]
        return listed, page[-1][0].id if page and len(page) < len(found) else ""

    async def _conditions(self, catalogue: Catalogue, records: Sequence[VolumeRecord]) -> dict[str, str]:
        """Volume id -> why it is abnormal. Asks once per directory that holds volumes, not once per volume."""
        parents = {catalogue.path_of(record).rpartition("/")[0] for record in records}
        fileids: dict[str, int] = {}
        for parent in sorted(parents):
            try:
                entries = await catalogue.nas.entries(parent or ".")
            except DriverError as error:
                return {record.id: error.message for record in records}
            fileids |= {joined(parent, entry.name): entry.fileid for entry in entries}
        return {record.id: _condition(record, fileids.get(catalogue.path_of(record))) for record in records}

    async def capacity(self, source: Source | None) -> int:
        """Bytes that new volumes can take at ``source``; without one, at the roomiest source.

        Not the sum of all: several exports may share one disk.
        """
        if source is not None:
            catalogue, source = self.catalogue_for(source)
            return (await catalogue.nas.sizes(catalogue.prefix_of(source))).bytes_available
        return max([(await catalogue.nas.sizes()).bytes_available for catalogue in self._catalogues])


def joined(parent: str, path: str) -> str:
    """``parent/path`` for relative paths, either of which may be ""."""
    return "/".join(part for part in (parent, path) if part)


def _unique_name(record: VolumeRecord) -> str:
    """With the creation time: a later volume may have the same id."""
    return f"{record.id}-{record.created_unix_ns}"


def _kept_name(record: VolumeRecord) -> str:
    """What is left of a volume goes by its path, which people know it by, and is unique."""
    unique = _unique_name(record)
    if record.path == record.id:
        return unique
    shown = record.path.replace("/", "-").encode()[:_SHOWN_PATH_BYTES_MAX].decode(errors="ignore")
    return f"{shown}-{unique}"


def _aside(record: VolumeRecord) -> str:
    return f"{_NEW}/{_unique_name(record)}"


def _condition(record: VolumeRecord, fileid: int | None) -> str:
    if fileid is None:
        return f"its directory {record.path!r} is gone from {record.source}"
    return "" if fileid == record.fileid else f"its directory {record.path!r} was replaced by another"


def _foreign(record: VolumeRecord) -> DriverError:
    return DriverError(
        Code.ALREADY_EXISTS,
        f"directory {record.path!r} at {record.source} exists and was not made for volume {record.name!r}: "
        "a directory of somebody else is never taken over; use a static PV for it, or change 'pathPattern'",
    )


def _differences(record: VolumeRecord, wanted: VolumeRecord) -> Iterator[str]:
    for name in ("name", "source", "path", "on_delete", "uid", "gid", "mode", "options"):
        if getattr(record, name) != getattr(wanted, name):
            yield name


def _refuse_difference(record: VolumeRecord, wanted: VolumeRecord, *, required_bytes: int, limit_bytes: int) -> None:
    different = list(_differences(record, wanted))
    has_room = required_bytes <= record.capacity_bytes and (not limit_bytes or record.capacity_bytes <= limit_bytes)
    if not has_room:
        different.append("capacity")
    if different:
        raise DriverError(
            Code.ALREADY_EXISTS, f"volume {record.name!r} exists with another {', '.join(different)}: delete it first"
        )
