"""A NAS for tests: efc-fs's commands on a local folder, with its errors; it can be made to fail at any operation."""

import errno
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.config.sources import Source
from csi.controller.nas import Nas

_CODES = {
    errno.ENOENT: Code.NOT_FOUND, errno.EEXIST: Code.ALREADY_EXISTS, errno.ENOSPC: Code.RESOURCE_EXHAUSTED,
    errno.EACCES: Code.PERMISSION_DENIED,
}  # fmt: skip


class CrashError(Exception):
    """The controller was killed here."""


class LocalNas(Nas):
    """``crash`` is raised before (or, if ``crash_after``, after) operation number ``crash_at``, which counts from 0."""

    def __init__(self, folder: Path, url: str = "nfs://nas/data") -> None:
        super().__init__(Source.parse(url), children=Children())
        self.folder = folder
        self.commands: list[str] = []
        self.crash_at: int | None = None
        self.crash_after = False
        #: Whether all later operations fail as well.
        self.is_away_then = False
        #: What its caller meets; efc-fs alone may be killed too, and the controller goes on.
        self.crash: Exception = CrashError()

    async def _run(
        self,
        command: str,
        *paths: str,
        flags: list[str] | None = None,
        stdin: bytes = b"",
        limit_seconds: float = 0,  # a folder answers at once
    ) -> bytes:
        number = len(self.commands)
        self.commands.append(f"{command} {' '.join(paths)}")
        is_away = self.is_away_then and self.crash_at is not None and number > self.crash_at
        if is_away or (number == self.crash_at and not self.crash_after):
            raise self.crash
        operation: Callable[..., object] = getattr(self, f"_{command}")
        try:
            result = operation(*[self.folder / path for path in paths], flags=flags or [], stdin=stdin)
        except OSError as error:
            if number == self.crash_at:
                raise self.crash from None
            raise DriverError(_CODES.get(error.errno or 0, Code.INTERNAL), str(error)) from error
        if number == self.crash_at:
            raise self.crash
        return result if isinstance(result, bytes) else json.dumps(result).encode()

    @staticmethod
    def _stat(path: Path, **_: object) -> dict[str, object]:
        status = path.lstat()
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
        return {"name": path.name, "kind": kind, "fileid": status.st_ino}

    def _ls(self, path: Path, **_: object) -> list[dict[str, object]]:
        return [self._stat(child) for child in path.iterdir()]

    @staticmethod
    def _mkdir(path: Path, *, flags: list[str], **_: object) -> None:
        if "--parents" in flags:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.mkdir()
        path.chmod(int(flags[flags.index("--mode") + 1], 8))

    @staticmethod
    def _mv(old: Path, new: Path, **_: object) -> None:
        old.lstat()
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, "exists")
        old.rename(new)

    @staticmethod
    def _rm(path: Path, *, flags: list[str], **_: object) -> None:
        if "--recursive" in flags:
            shutil.rmtree(path)
        elif path.is_dir():
            path.rmdir()
        else:
            path.unlink()

    @staticmethod
    def _cat(path: Path, **_: object) -> bytes:
        return path.read_bytes()

    @staticmethod
    def _put(path: Path, *, stdin: bytes, **_: object) -> None:
        with path.open("xb") as file:
            file.write(stdin)

    @staticmethod
    def _df(*_: object, **__: object) -> dict[str, int]:
        names = ("bytes_total", "bytes_free", "bytes_available", "files_total", "files_free")
        return dict(zip(names, itertools.repeat(1000), strict=False))
