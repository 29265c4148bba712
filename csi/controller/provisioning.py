"""Provisioning: creates and deletes volumes. A volume is a directory on the NAS, with a record of it beside the data.

:mod:`csi.controller.catalogue` has the layout of the driver's own directories and records. Creating a volume makes its
directory under ``new``, writes the record with its inode number, and renames the directory into place. Deleting renames
it into ``trash`` (or ``archived``), removes the record, then the data. Each step is atomic and idempotent, and names
are derived from the volume, so a crash between any two is repaired by the CO's next try. The inode number in the record
identifies the directory: one at a volume's path with another number is somebody else's, and is never published, moved
or deleted. The only state in this process is a cache of records, which never change once they are written.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from csi.base.errors import Code, DriverError, invalid
from csi.base.locks import KeyedLocks
from csi.config.parameters import OnDelete, VolumeParameters
from csi.config.sources import Source
from csi.config.volumes import VolumeRecord, is_own_id, volume_id_of
from csi.controller.catalogue import (
    ARCHIVED,
    NEW,
    OF_THE_NAS,
    OWN,
    OWN_MODE,
    RETAINED,
    TRASH,
    VOLUMES,
    Catalogue,
    aside_path,
    joined,
    kept_name,
    record_path,
)
from csi.controller.nas import Entry, Nas
from csi.controller.trash import Trash

_LOGGER = logging.getLogger(__name__)
#: Where what is left of a deleted volume is moved.
_LEAVING = {OnDelete.DELETE: TRASH, OnDelete.ARCHIVE: ARCHIVED, OnDelete.RETAIN: RETAINED}
_PARENT_MODE = 0o755
#: How long a volume that is made waits for sources where it is not to be.
_ELSEWHERE_SECONDS_MAX = 3.0
#: Codes of a record that the NAS does not want, as opposed to one of which nobody knows whether it has it.
_REFUSED = (Code.RESOURCE_EXHAUSTED, Code.PERMISSION_DENIED)


class Provisioner:
    """Makes, finds and deletes the volumes of all configured sources."""

    def __init__(self, sources: Sequence[Nas]) -> None:
        for inner, outer in itertools.permutations([nas.source for nas in sources], 2):
            if inner.relative_to(outer) is not None:
                # Each source would know only its own volumes, and could make one within the other's.
                raise invalid(f"source {inner.canonical()!r} lies beneath {outer.canonical()!r}: configure one of them")
        self._catalogues = [Catalogue(nas) for nas in sources]
        self._locks = KeyedLocks("volume")
        self._trash = Trash(sources)

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
                await self._refuse_elsewhere(catalogue, wanted)
                await self._refuse_overlap(catalogue, wanted)
                if await catalogue.nas.stat(catalogue.path_of(wanted)) is not None:
                    raise _foreign(wanted)
                record = await self._write_record(catalogue, wanted)
            if not parameters.path:
                # The default may have been another one when the volume was made.
                wanted = replace(wanted, path=record.path)
            _refuse_difference(record, wanted, required_bytes=required_bytes, limit_bytes=limit_bytes)
            with _nothing_final():
                await self._put_in_place(catalogue, record)
        return record

    async def _refuse_elsewhere(self, catalogue: Catalogue, wanted: VolumeRecord) -> None:
        """Refuses a name that a volume at another source has: both would have one id, and be deleted by it.

        A source that does not answer soon is passed over: it keeps no volume from being made at another one.
        """

        async def find(other: Catalogue) -> VolumeRecord | None:
            try:
                async with asyncio.timeout(_ELSEWHERE_SECONDS_MAX):
                    return await other.get(wanted.id)
            except (DriverError, TimeoutError) as error:
                _LOGGER.warning("whether volume %r is on %s: %r", wanted.name, other.nas.source, error)
                return None

        others = [other for other in self._catalogues if other is not catalogue]
        for record in await asyncio.gather(*map(find, others)):
            if record is not None:
                _refuse_difference(record, wanted, required_bytes=0, limit_bytes=0)

    async def _refuse_overlap(self, catalogue: Catalogue, wanted: VolumeRecord) -> None:
        """Refuses a volume that lies within another, or around one: they would be deleted together."""
        path = catalogue.path_of(wanted) + "/"
        for other in await catalogue.all():
            taken = catalogue.path_of(other) + "/"
            if other.id != wanted.id and (path.startswith(taken) or taken.startswith(path)):
                raise DriverError(
                    Code.ALREADY_EXISTS,
                    f"directory {wanted.path!r} lies within volume {other.name!r} ({other.path!r}) or around it: "
                    "change 'pathPattern'",
                )

    async def _write_record(self, catalogue: Catalogue, wanted: VolumeRecord) -> VolumeRecord:
        """Makes the directory aside, and the record that names it."""
        nas, aside = catalogue.nas, aside_path(wanted)
        # First of all, so that a path that cannot be (through a file or a link) leaves no record behind.
        parent = catalogue.path_of(wanted).rpartition("/")[0]
        if parent:
            await nas.make_directories(parent, mode=_PARENT_MODE)
        # Where it goes when it is deleted, too: deleting must work on a NAS that is full.
        for directory in (VOLUMES, NEW, _LEAVING[OnDelete(wanted.on_delete)]):
            await nas.make_directories(directory, mode=OWN_MODE)
        await nas.make_directory(aside, mode=wanted.mode, uid=wanted.uid, gid=wanted.gid)
        made = await nas.stat(aside)
        if made is None:
            raise DriverError(Code.INTERNAL, f"the new directory {aside!r} at {wanted.source} is gone again")
        record = replace(wanted, fileid=made.fileid)
        with _nothing_final():
            try:
                await catalogue.put(record)
            except DriverError as error:
                if error.code is Code.ALREADY_EXISTS:
                    await nas.remove(aside)
                    message = f"another controller made volume {wanted.name!r}: try again"
                    raise DriverError(Code.ABORTED, message) from None
                if error.code in _REFUSED and await catalogue.get(wanted.id) is None:
                    await nas.remove(aside)
                # Else the record may be there, or yet come, and then the next try finds the directory that it names.
                raise
        return record

    async def _put_in_place(self, catalogue: Catalogue, record: VolumeRecord) -> None:
        nas, path = catalogue.nas, catalogue.path_of(record)
        present = await nas.stat(path)
        if _is_of(record, present):
            return
        aside = await nas.stat(aside_path(record))
        if present is None and _is_of(record, aside):
            await self._yield_to_others(catalogue, record)
            if await self._move_into_place(catalogue, record):
                return
        # Once more: the server may have executed only now what an earlier try had asked for.
        present = await nas.stat(path)
        if _is_of(record, present):
            return
        if present is None and aside is None:
            raise DriverError(
                Code.FAILED_PRECONDITION,
                f"directory {record.path!r} of volume {record.name!r} is gone from {record.source}: delete the volume",
            )
        if _is_of(record, aside):
            # Somebody made a directory there in the meantime.
            await self._withdraw(nas, record)
        raise _foreign(record)

    async def _yield_to_others(self, catalogue: Catalogue, record: VolumeRecord) -> None:
        """Refuses a volume beside whose making another was made, by this controller or by another.

        Each looks for the other's record when its own is there, so one of them at least sees it.
        """
        try:
            await self._refuse_overlap(catalogue, record)
        except DriverError as error:
            if error.code is Code.ALREADY_EXISTS:
                await self._withdraw(catalogue.nas, record)
            raise

    async def _withdraw(self, nas: Nas, record: VolumeRecord) -> None:
        """Takes back a volume that was not put in its place, and so never handed out."""
        await nas.remove(record_path(record.id))
        await nas.remove(aside_path(record))

    async def _move_into_place(self, catalogue: Catalogue, record: VolumeRecord) -> bool:
        """Gives the directory its name; False if there is something of that name."""
        nas, path = catalogue.nas, catalogue.path_of(record)
        parent = path.rpartition("/")[0]
        if parent:
            await nas.make_directories(parent, mode=_PARENT_MODE)
        try:
            await nas.move(aside_path(record), path)
        except DriverError as error:
            if error.code is not Code.ALREADY_EXISTS:
                raise
            return False
        return True

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
            kept = kept_name(record)
            record_file = record_path(record.id)
            on_delete = OnDelete(record.on_delete)
            if on_delete is OnDelete.RETAIN:
                await self._move_own(catalogue.nas, record_file, f"{RETAINED}/{kept}.json")
                return
            if on_delete is OnDelete.ARCHIVE:
                await self._move_away(catalogue, record, f"{ARCHIVED}/{kept}")
                await self._move_own(catalogue.nas, record_file, f"{ARCHIVED}/{kept}.json")
                return
            await self._move_away(catalogue, record, f"{TRASH}/{kept}")
            await catalogue.nas.remove(record_file)
        await self._remove_left_over(catalogue)

    async def _find(self, volume_id: str) -> tuple[Catalogue, VolumeRecord] | None:
        """The record of a volume, from any source; a NAS that does not answer is an error unless another has it."""
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
        """Moves the volume's directory, wherever creation had got to; that it is gone already is success.

        Looks first where creation moves it from: a move that the server executes late is not missed between two looks.
        """
        for path in (aside_path(record), catalogue.path_of(record)):
            present = await catalogue.nas.stat(path)
            if present is None:
                continue
            if present.fileid != record.fileid:
                raise DriverError(
                    Code.FAILED_PRECONDITION,
                    f"{path!r} at {record.source} is not the directory that was made for volume {record.name!r} "
                    f"(it was replaced or restored): look at it, then remove it or {VOLUMES}/{record.id}.json",
                )
            await self._move_own(catalogue.nas, path, to)
            return

    async def _move_own(self, nas: Nas, old: str, new: str) -> None:
        await nas.make_directories(new.rpartition("/")[0], mode=OWN_MODE)
        await nas.move(old, new)

    async def _remove_left_over(self, catalogue: Catalogue) -> None:
        """Removes what no volume needs: of killed programs, of calls that were given up, and of deleted volumes."""
        await catalogue.remove_drafts()
        await catalogue.remove_unfinished()
        await self._trash.remove(catalogue.nas, await catalogue.rubbish())

    def trash(self) -> Mapping[str, int]:
        """Source -> directories in its trash, as of the last look and what was removed since."""
        return self._trash.counts()

    async def collect(self) -> None:
        """Removes, at start, what deletions before a crash or a restart have left."""
        for catalogue in self._catalogues:
            try:
                await self._remove_left_over(catalogue)
            except DriverError as error:
                _LOGGER.warning("what is left over on %s stays: %s", catalogue.nas.source, error.message)

    async def close(self) -> None:
        """Stops removals; what is left is removed at the next start."""
        await self._trash.close()

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
        by_parent: dict[str, list[VolumeRecord]] = {}
        for record in records:
            by_parent.setdefault(catalogue.path_of(record).rpartition("/")[0], []).append(record)
        conditions: dict[str, str] = {}
        for parent, children in sorted(by_parent.items()):
            try:
                entries = await catalogue.nas.entries(parent or ".")
            except DriverError as error:
                if error.code in OF_THE_NAS:
                    return {record.id: error.message for record in records}
                conditions |= {record.id: error.message for record in children}
                continue
            fileids = {joined(parent, entry.name): entry.fileid for entry in entries}
            conditions |= {record.id: _condition(record, fileids.get(catalogue.path_of(record))) for record in children}
        return conditions

    async def capacity(self, source: Source | None) -> int:
        """Bytes that new volumes can take at ``source``; without one, at the roomiest source.

        Not the sum of all: several exports may share one disk.
        """
        if source is not None:
            catalogue, source = self.catalogue_for(source)
            return (await catalogue.nas.sizes(catalogue.prefix_of(source))).bytes_available
        return max([(await catalogue.nas.sizes()).bytes_available for catalogue in self._catalogues])


@contextmanager
def _nothing_final() -> Iterator[None]:
    """Makes UNAVAILABLE of what a NAS may say for a moment, where there may be a record already.

    Other codes say that there is no volume: a CO that gives up then never asks for it to be deleted.
    """
    try:
        yield
    except DriverError as error:
        if error.code in (Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.INTERNAL):
            raise DriverError(Code.UNAVAILABLE, error.message) from None
        raise


def _is_of(record: VolumeRecord, entry: Entry | None) -> bool:
    return entry is not None and entry.fileid == record.fileid


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
