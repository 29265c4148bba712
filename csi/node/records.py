"""Write-ahead records of what is published where on this node: one JSON file per target.

They are in ``<run-dir>/csi/published``. A record is written before the mount is made and removed after it is gone, so
after any crash each mount of ours has a record, and :mod:`csi.node.publishing` finds out from mountinfo which records
have a mount. A record contains the boot_id: after a reboot no mount is left, and records of another boot are void.

Earlier and later releases read the same files (:mod:`csi.base.saved`). Release 0.1.0 discards a record with an unknown
key, so a key is added only if its feature is used, and there is no ``version`` as long as the first format holds. A
damaged record is set aside, not discarded, and its mount stays (see :meth:`csi.node.daemons.Daemons.adopt`).

The pod of each target, which only people read, is therefore in a file of its own, in ``<run-dir>/csi/pods``. If that is
missing or damaged, the pod's name is not known.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from csi.base.errors import Code, DriverError
from csi.base.saved import DamagedError, Folder, checked, unknown_keys
from csi.config.pods import Pod

_LOGGER = logging.getLogger(__name__)
#: The name of a daemon's directory.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A volume at a target path: ``key`` names the dataset's daemon, ``options`` are those that are not default.

    An access mode of 0 is one that nobody has recorded.
    """

    volume_id: str
    target: str
    source: str
    path: str
    key: str
    options: dict[str, bool | int | str] = field(default_factory=dict)
    read_only: bool
    access_mode: int = 0

    def is_same(self, other: "Publication") -> bool:
        """Whether publishing ``other`` would change nothing; keys may differ between releases of the driver."""
        mine, theirs = asdict(self), asdict(other)
        if 0 in (self.access_mode, other.access_mode):
            mine["access_mode"] = theirs["access_mode"]
        return {**mine, "key": ""} == {**theirs, "key": ""}


@dataclass(frozen=True, kw_only=True)
class _SavedPod:
    """What a pod's file says; ``target`` keeps a file that was renamed from naming another's pod."""

    target: str
    namespace: str
    name: str


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """What a file says: ``boot_id`` and ``publication``, and keys of a later release."""

    boot_id: str
    publication: Publication
    unknown: dict[str, object]


class Publications:
    """The records, in memory and on disk. A name in the file system is a hash: ids and targets never become paths."""

    def __init__(self, run_dir: str, *, boot_id: str | None = None) -> None:
        self._folder = Folder(Path(run_dir) / "csi" / "published")
        self._pods = Folder(Path(run_dir) / "csi" / "pods")
        self._boot_id = boot_id or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._by_target: dict[str, Publication] = {}
        #: Target -> keys of a later release, which are written again with the record.
        self._unknown: dict[str, dict[str, object]] = {}

    def load(self) -> list[Path]:
        """Reads all of this boot; returns files that are there no more: void ones, and damaged ones set aside."""
        self._folder.make()
        self._pods.make()
        self._by_target.clear()
        self._unknown.clear()
        gone = self._folder.drafts()
        for path in gone:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        for path in self._folder.files():
            try:
                saved = self._read(path)
            except FileNotFoundError:
                continue
            except DamagedError as error:
                self._set_aside(path, reason=str(error))
                gone.append(path)
                continue
            if saved.boot_id != self._boot_id:
                path.unlink(missing_ok=True)
                _LOGGER.info("removed a void record: %s", path.name)
                gone.append(path)
                continue
            self._by_target[saved.publication.target] = saved.publication
            if saved.unknown:
                self._unknown[saved.publication.target] = saved.unknown
        # Release 0.1.0 removes records without them.
        self._pods.forget_others(self._by_target)
        return gone

    def _set_aside(self, path: Path, *, reason: str) -> None:
        kept = self._folder.set_aside(path)
        where = f"kept as {kept}" if kept else "and cannot be set aside"
        _LOGGER.error("the record %s is damaged (%s), %s; its volume goes on being served", path.name, reason, where)

    def readable(self) -> Iterator[Publication]:
        """The publications that the files of this boot name now; for readers only, as nothing is changed."""
        for path in self._folder.files():
            try:
                saved = self._read(path)
            except (DamagedError, FileNotFoundError):  # removed since
                continue
            if saved.boot_id == self._boot_id:
                yield saved.publication

    def _read(self, path: Path) -> _Saved:
        """Reads one file; raises DamagedError, FileNotFoundError."""
        found = self._folder.read(path)
        publication = checked(Publication, found)
        boot_id = found.get("boot_id")
        if not isinstance(boot_id, str):
            raise DamagedError("field 'boot_id' is missing")
        if not publication.target.startswith("/") or "\0" in publication.target:
            raise DamagedError("its target is no absolute path")
        if not _KEY.fullmatch(publication.key):
            raise DamagedError("its key names no daemon")
        if self._folder.file_of(publication.target) != path:
            raise DamagedError("its name is not that of its target")
        unknown = unknown_keys(Publication, found)
        del unknown["boot_id"]
        return _Saved(boot_id=boot_id, publication=publication, unknown=unknown)

    def __iter__(self) -> Iterator[Publication]:
        return iter(list(self._by_target.values()))

    def get(self, target: str) -> Publication | None:
        """The publication that is, or is about to be, at ``target``."""
        return self._by_target.get(target)

    def of_volume(self, volume_id: str) -> list[Publication]:
        """The publications of one volume."""
        return [publication for publication in self._by_target.values() if publication.volume_id == volume_id]

    def put(self, publication: Publication) -> None:
        """Writes the record; raises INTERNAL if the run directory cannot be written."""
        target = publication.target
        record = {**self._unknown.get(target, {}), **asdict(publication), "boot_id": self._boot_id}
        try:
            self._folder.write(target, record)
        except OSError as error:
            path = self._folder.file_of(target)
            raise DriverError(Code.INTERNAL, f"cannot write the record {path}: {error.strerror}") from error
        self._by_target[target] = publication

    def note_pod(self, target: str, pod: Pod | None) -> None:
        """Notes whose ``target`` is. A failure is logged: a volume is served whether or not its pod has a name."""
        if pod is None:
            return
        try:
            self._pods.write(target, {"target": target, **asdict(pod)})
        except OSError as error:
            _LOGGER.warning("cannot note that %r is of pod %s: %s", target, pod, error.strerror)

    def pod_of(self, target: str) -> Pod | None:
        """Whose ``target`` is, as the file says now; None where nobody has noted it, or it cannot be read."""
        try:
            saved = checked(_SavedPod, self._pods.read(self._pods.file_of(target)))
        except (DamagedError, FileNotFoundError):
            return None
        return Pod(namespace=saved.namespace, name=saved.name) if saved.target == target else None

    def remove(self, target: str) -> None:
        """Forgets ``target``; that there is nothing is success. Raises INTERNAL if the record cannot be removed."""
        try:
            self._folder.remove(target)
        except OSError as error:
            path = self._folder.file_of(target)
            raise DriverError(Code.INTERNAL, f"cannot remove the record {path}: {error.strerror}") from error
        self._by_target.pop(target, None)
        self._unknown.pop(target, None)
        with contextlib.suppress(OSError):
            self._pods.remove(target)
