"""The controller's access to the NAS: the program ``efc-fs``, one short-lived process per operation, without a mount.

A :class:`Nas` is one configured source; all paths are relative to it. The program refuses absolute paths and ``..``
itself, and never follows symbolic links.
"""

import json
from dataclasses import dataclass

from csi.base import programs
from csi.base.children import Children
from csi.base.errors import Code, DriverError, from_child
from csi.base.statvfs import Statvfs
from csi.config.sources import Source
from csi.observe.exposition import Recorder

#: Longest operation. The program keeps to that by itself; the deadline of the child is for when it cannot.
OPERATION_SECONDS_MAX = 15.0
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name on the NAS. ``kind`` is "directory", "file", "symlink" or another of efc-fs's words."""

    name: str
    kind: str
    fileid: int


class Nas:
    """Operations on one source. Errors are those that efc-fs reports, by its codes."""

    def __init__(self, source: Source, *, children: Children, recorder: Recorder | None = None) -> None:
        self.source = source
        self._url = source.canonical()
        self._children = children
        self._recorder = recorder or Recorder()

    async def stat(self, path: str) -> Entry | None:
        """The entry at ``path``, or None."""
        try:
            printed = await self._run("stat", path)
        except DriverError as error:
            await self._require_missing(error)
            return None
        return _entry(_decoded(printed), name=path)

    async def entries(self, path: str) -> list[Entry]:
        """The names in a directory; none if it does not exist."""
        try:
            printed = await self._run("ls", path)
        except DriverError as error:
            await self._require_missing(error)
            return []
        entries = _decoded(printed)
        if not isinstance(entries, list):
            raise DriverError(Code.INTERNAL, f"{programs.NAS_CLIENT} ls printed something other than a list")
        return [_entry(entry) for entry in entries]

    async def make_directories(self, path: str, *, mode: int) -> None:
        """Makes ``path`` and its parents; that they are there already is success."""
        await self._run("mkdir", path, flags=["--parents", "--mode", f"{mode:o}"])

    async def make_directory(self, path: str, *, mode: int, uid: int, gid: int) -> None:
        """Makes one new directory; ALREADY_EXISTS if there is anything."""
        await self._run("mkdir", path, flags=["--mode", f"{mode:o}", "--uid", str(uid), "--gid", str(gid)])

    async def move(self, old: str, new: str) -> None:
        """Renames ``old`` to ``new``; ALREADY_EXISTS if ``new`` is there, NOT_FOUND if ``old`` is not."""
        await self._run("mv", old, new)

    async def remove(self, path: str) -> None:
        """Removes a file or an empty directory; that it is not there is success."""
        await self._missing_is_success("rm", path)

    async def remove_tree(self, path: str, *, limit_seconds: float) -> None:
        """Removes a directory with all that is in it on this file system; that it is not there is success."""
        await self._missing_is_success("rm", path, flags=["--recursive"], limit_seconds=limit_seconds)

    async def read(self, path: str, *, bytes_max: int) -> bytes | None:
        """The content of a small file, or None without one; FAILED_PRECONDITION if it is longer or no regular file."""
        try:
            return await self._run("cat", path, flags=["--bytes-max", str(bytes_max)])
        except DriverError as error:
            await self._require_missing(error)
            return None

    async def create(self, path: str, content: bytes, *, mode: int) -> None:
        """Makes a new file, complete and on stable storage or not there at all; ALREADY_EXISTS if there is anything."""
        await self._run("put", path, flags=["--exclusive", "--mode", f"{mode:o}"], stdin=content)

    async def sizes(self, path: str = "") -> Statvfs:
        """Sizes of the file system that ``path`` lies on."""
        printed = await self._run("df", *([path] if path else []))
        return Statvfs.from_json(printed, origin=f"{programs.NAS_CLIENT} df")

    async def _missing_is_success(
        self, command: str, path: str, *, flags: list[str] | None = None, limit_seconds: float = OPERATION_SECONDS_MAX
    ) -> None:
        try:
            await self._run(command, path, flags=flags, limit_seconds=limit_seconds)
        except DriverError as error:
            await self._require_missing(error)

    async def _require_missing(self, error: DriverError) -> None:
        """Returns if the path is not there; raises if that is not so, or not known.

        NOT_FOUND is also said of a host or an export that does not exist (now, for this resolver). A volume on it would
        then be taken for one that was never made, so that deleting it would "succeed".
        """
        if error.code is not Code.NOT_FOUND:
            raise error
        await self._run("stat", ".")

    async def _run(
        self,
        command: str,
        *paths: str,
        flags: list[str] | None = None,
        stdin: bytes = b"",
        limit_seconds: float = OPERATION_SECONDS_MAX,
    ) -> bytes:
        arguments = [programs.find(programs.NAS_CLIENT), command, "--timeout-ms", str(int(limit_seconds * 1000))]
        # "--": a path may begin with a dash.
        arguments += [*(flags or []), "--", self._url, *paths]
        deadline_seconds = limit_seconds + _GRACE_SECONDS
        metrics = ("efc_nas_operations_total", "efc_nas_operation_duration_seconds")
        with self._recorder.outcome(*metrics, operation=command):
            finished = await self._children.run(arguments, deadline_seconds=deadline_seconds, stdin=stdin)
            if finished.exit_status != 0:
                failed = from_child(
                    program=programs.NAS_CLIENT, exit_status=finished.exit_status, stderr=finished.stderr
                )
                raise self._named(failed)
        return finished.stdout

    def _named(self, error: DriverError) -> DriverError:
        """Says which NAS it is about, unless the error does: a controller may have several."""
        if self.source.host in error.message:
            return error
        return DriverError(error.code, f"on {self._url}: {error.message}")


def _decoded(printed: bytes) -> object:
    try:
        decoded: object = json.loads(printed)
    except (ValueError, RecursionError):
        raise DriverError(Code.INTERNAL, f"{programs.NAS_CLIENT} printed something other than JSON") from None
    return decoded


def _entry(fields: object, *, name: str | None = None) -> Entry:
    try:
        if not isinstance(fields, dict):
            raise TypeError
        return Entry(
            name=str(fields["name"]) if name is None else name, kind=str(fields["kind"]), fileid=int(fields["fileid"])
        )
    except (KeyError, TypeError, ValueError):
        raise DriverError(
            Code.INTERNAL, f"{programs.NAS_CLIENT} printed something other than a directory entry"
        ) from None
