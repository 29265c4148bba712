"""Write-ahead records of what is published where on this node: one JSON file per target.

They lie in ``<run-dir>/csi/published``. A record is written before the mount is made and removed after it is gone, so
after any crash each mount of ours has a record, and :mod:`csi.publishing` settles by mountinfo which records have their
mount. A record carries the boot_id: after a reboot no mount is left, and records of another boot are void. That is also
why writing is a rename without an fsync, which only a power failure would need: readers see an old or a new file, never
half of one.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from csi.errors import Code, DriverError


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A volume at a target path: ``key`` names the dataset's daemon, ``options`` are those that are not default."""

    volume_id: str
    target: str
    source: str
    path: str
    key: str
    options: dict[str, bool | int | str]
    read_only: bool
    access_mode: int

    def is_same(self, other: "Publication") -> bool:
        """Whether publishing ``other`` would change nothing; keys may differ between releases of the driver."""
        mine, theirs = asdict(self), asdict(other)
        return {**mine, "key": ""} == {**theirs, "key": ""}


class Publications:
    """The records, in memory and on disk. A name in the file system is a hash: ids and targets never become paths."""

    def __init__(self, run_dir: str, *, boot_id: str | None = None) -> None:
        self._folder = Path(run_dir) / "csi" / "published"
        self._boot_id = boot_id or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._by_target: dict[str, Publication] = {}

    def load(self) -> list[Path]:
        """Reads all of this boot; returns files that were void or damaged, which it has removed."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._by_target.clear()
        dropped = []
        for path in sorted(self._folder.iterdir()):
            publication = self._read(path)
            if publication is None:
                path.unlink(missing_ok=True)
                dropped.append(path)
            else:
                self._by_target[publication.target] = publication
        return dropped

    def readable(self) -> Iterator[Publication]:
        """What the files of this boot say now; nothing is changed, so this is for who only looks."""
        try:
            paths = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # removed since
                if (publication := self._read(path)) is not None:
                    yield publication

    def _read(self, path: Path) -> Publication | None:
        try:
            fields = json.loads(path.read_bytes())
            if fields.pop("boot_id") != self._boot_id:
                return None
            publication = Publication(**fields)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return publication if self._path(publication.target) == path else None

    def __iter__(self) -> Iterator[Publication]:
        return iter(list(self._by_target.values()))

    def get(self, target: str) -> Publication | None:
        """What is, or is about to be, at ``target``."""
        return self._by_target.get(target)

    def of_volume(self, volume_id: str) -> list[Publication]:
        """All targets of one volume."""
        return [publication for publication in self._by_target.values() if publication.volume_id == volume_id]

    def put(self, publication: Publication) -> None:
        """Writes the record; raises INTERNAL if the run directory cannot be written."""
        path = self._path(publication.target)
        temporary = path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps({**asdict(publication), "boot_id": self._boot_id}))
            os.replace(temporary, path)
        except OSError as error:
            raise DriverError(Code.INTERNAL, f"cannot write the record {path}: {error.strerror}") from error
        self._by_target[publication.target] = publication

    def remove(self, target: str) -> None:
        """Forgets ``target``; that there is nothing is success."""
        self._by_target.pop(target, None)
        self._path(target).unlink(missing_ok=True)

    def _path(self, target: str) -> Path:
        return self._folder / f"{hashlib.sha256(target.encode(errors='surrogateescape')).hexdigest()[:32]}.json"
