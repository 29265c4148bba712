"""The driver's own directory at a configured source: records of volumes, and directories that are none yet or no more.

::

    .efc/volumes/<id>.json      one record per volume; the truth about what an id means
    .efc/new/<id>-<created>     a directory being made; it becomes the volume's by one rename
    .efc/trash/<path>-<id>-<created>   directories of deleted volumes, until they are removed
    .efc/archived/, .efc/retained/     what ``onDelete`` keeps, under the same names
"""

import asyncio
import logging
import re
import time
from collections.abc import Iterable

from csi.base.errors import Code, DriverError
from csi.base.saved import RECORD_BYTES_MAX
from csi.config.sources import Source
from csi.config.volumes import VolumeRecord, is_own_id
from csi.controller.nas import Nas

_LOGGER = logging.getLogger(__name__)
OWN = ".efc"
VOLUMES = f"{OWN}/volumes"
NEW = f"{OWN}/new"
TRASH = f"{OWN}/trash"
ARCHIVED = f"{OWN}/archived"
RETAINED = f"{OWN}/retained"
#: The mode of the driver's own directories: nobody but root looks in there, and pods never get them.
OWN_MODE = 0o700
_RECORD_MODE = 0o600
#: What efc-fs calls a file that it has not finished (efc/fs/src/publish.rs).
_DRAFT = re.compile(r"\.efc-[0-9a-f]{16}\.tmp")
#: The end of a name that :func:`kept_name` makes: an id, and when it was made.
_UNIQUE = re.compile(r"(efc-[0-9a-f]{32})-[0-9]+\Z")
#: Longest part of a volume's path in the name of what is left of it: the whole is one name in a directory.
_SHOWN_PATH_BYTES_MAX = 150
#: Age of an unfinished directory after which its controller has certainly given up making the volume.
_UNFINISHED_SECONDS_MAX = 3600
#: Codes of errors that are not of one record alone: to go on without the record would be to go on without all.
OF_THE_NAS = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.NOT_FOUND)
_READS_AT_ONCE = 8


class Catalogue:
    """The records at one configured source."""

    def __init__(self, nas: Nas) -> None:
        self.nas = nas
        # Records by id and the inode of the file: a record never changes, but an id can come back with another one.
        self._cache: dict[tuple[str, int], VolumeRecord] = {}
        self._reading = asyncio.Lock()
        self._writes = 0
        # The process that wrote before this one may have been killed.
        self._may_have_drafts = True

    async def get(self, volume_id: str) -> VolumeRecord | None:
        """The record of a volume, read from the NAS; None if there is none."""
        text = await self.nas.read(record_path(volume_id), bytes_max=RECORD_BYTES_MAX)
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
            await self.nas.create(record_path(record.id), record.to_json(), mode=_RECORD_MODE)
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
        try:
            for entry in await self.nas.entries(VOLUMES):
                if _DRAFT.fullmatch(entry.name):
                    await self._remove_left_over(f"{VOLUMES}/{entry.name}")
        except BaseException:
            self._may_have_drafts = True
            raise

    async def _remove_left_over(self, path: str) -> None:
        """Removes what no volume depends on; what cannot be removed, since somebody put files there, stays."""
        try:
            await self.nas.remove(path)
        except DriverError as error:
            if error.code in OF_THE_NAS:
                raise
            _LOGGER.warning("%s on %s stays: %s", path, self.nas.source, error.message)

    async def all(self) -> list[VolumeRecord]:
        """All records; one that is damaged or cannot be read is left out and logged."""
        entries = await self.nas.entries(VOLUMES)
        names = [(entry.name.removesuffix(".json"), entry.fileid) for entry in entries if entry.name.endswith(".json")]
        wanted = [key for key in names if is_own_id(key[0])]
        # What one call reads those that come meanwhile find: after a start all records have to be.
        async with self._reading:
            self._cache = {key: self._cache[key] for key in wanted if key in self._cache}
            await self._read(key for key in wanted if key not in self._cache)
            return list(self._cache.values())

    async def _read(self, wanted: Iterable[tuple[str, int]]) -> None:
        gate = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(key: tuple[str, int]) -> None:
            async with gate:
                try:
                    record = await self.get(key[0])
                except DriverError as error:
                    if error.code in OF_THE_NAS:
                        raise
                    _LOGGER.error("%s", error.message)
                    return
            if record is not None:
                self._cache[key] = record

        try:
            async with asyncio.TaskGroup() as group:
                for key in wanted:
                    group.create_task(read(key))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def remove_unfinished(self) -> None:
        """Removes directories that were made aside, but for which no record was written in time."""
        entries = await self.nas.entries(NEW)
        if not entries:
            return
        kept = {unique_name(record) for record in await self.all()}
        for entry in entries:
            volume_id, _, created = entry.name.rpartition("-")
            is_old = created.isdecimal() and time.time_ns() - int(created) > _UNFINISHED_SECONDS_MAX * 10**9
            if is_own_id(volume_id) and is_old and entry.name not in kept:
                # The directory is empty: nobody was ever given it.
                await self._remove_left_over(f"{NEW}/{entry.name}")

    async def rubbish(self) -> list[str]:
        """Paths in the trash that may be removed: of directories that no record names.

        A move to the trash may be executed late, by the server or by a controller that stood still. Then it has caught
        the directory of a later volume that has the same path, and that is given back.
        """
        entries = await self.nas.entries(TRASH)
        if not entries:
            return []
        # By the inode, and by the path that the name tells: an inode alone may have been another volume's before.
        living = {(record.fileid, _shown_path(kept_name(record))): record for record in await self.all()}
        paths: list[str] = []
        for entry in entries:
            path, record = f"{TRASH}/{entry.name}", living.get((entry.fileid, _shown_path(entry.name)))
            if record is None:
                paths.append(path)
            elif entry.name != kept_name(record):  # else it is being deleted
                await self._give_back(path, record)
        return paths

    async def _give_back(self, path: str, record: VolumeRecord) -> None:
        _LOGGER.error("%s on %s is the directory of volume %r, which lives", path, self.nas.source, record.name)
        try:
            await self.nas.move(path, self.path_of(record))
        except DriverError as error:
            if error.code in OF_THE_NAS:
                raise
            _LOGGER.error("%s on %s stays: %s", path, self.nas.source, error.message)

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


def joined(parent: str, path: str) -> str:
    """``parent/path`` for relative paths, either of which may be ""."""
    return "/".join(part for part in (parent, path) if part)


def record_path(volume_id: str) -> str:
    """Where the record of a volume is, relative to its source."""
    return f"{VOLUMES}/{volume_id}.json"


def aside_path(record: VolumeRecord) -> str:
    """Where a volume's directory is made, relative to its source."""
    return f"{NEW}/{unique_name(record)}"


def unique_name(record: VolumeRecord) -> str:
    """The volume's id with its creation time: a later volume may have the same id."""
    return f"{record.id}-{record.created_unix_ns}"


def kept_name(record: VolumeRecord) -> str:
    """The name of what is left of a deleted volume: its path, which people know it by, made unique."""
    unique = unique_name(record)
    if record.path == record.id:
        return unique
    shown = record.path.replace("/", "-").encode()[:_SHOWN_PATH_BYTES_MAX].decode(errors="ignore")
    return f"{shown}-{unique}"


def _shown_path(name: str) -> str:
    """The path in a name that :func:`kept_name` has made; the id where that is the path."""
    unique = _UNIQUE.search(name)
    return name.removesuffix(unique[0]) or unique[1] if unique else name
