"""The totals of a Dataset: when and in which order its mounts are counted, and what is known meanwhile.

Pure: time is an argument, in seconds. Counting itself is ``efc-fs walk`` (:mod:`csi.master.walking`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from csi._proto import dataset_pb2
from csi.master.counters import checked, told

WALK_EVERY_SECONDS = 600.0
#: After nodes have changed files: at the earliest so long after the last count, and so many times what it took.
_AFTER_CHANGES_SECONDS, _AFTER_CHANGES_FACTOR = 2.0, 20.0
#: After a count that failed: the first delay, which doubles, and the longest.
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 2.0, 60.0
_CHECKPOINT_BYTES_MAX = 64 << 10
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a walk has counted so far; ``checkpoint`` says where it goes on."""

    bytes: int = 0
    files: int = 0
    directories: int = 0
    #: Directories and files that the owner may not see.
    skipped: int = 0
    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A walk to be made: of the mount with this number, from ``checkpoint`` on ("": from the beginning)."""

    mount: int
    source: str
    checkpoint: str


@dataclass(kw_only=True)
class Totals:
    """The count of a Dataset's mounts: what was known last, and the count under way.

    ``finished`` are mounts that the count under way is done with, ``current`` is the one after these.
    """

    sources: list[str] = field(default_factory=list)
    known: Counted | None = None
    finished: list[Counted] = field(default_factory=list)
    current: Counted = field(default_factory=Counted)
    reason: str = ""
    _is_counting: bool = False
    #: When the count under way began; None if a master before this one began it.
    _began: float | None = None
    _ended: float | None = None
    _took: float = 0.0
    _failures: int = 0
    _retry_at: float = 0.0
    _changes: dict[str, tuple[str, int]] = field(default_factory=dict)
    _is_changed: bool = False

    def configure(self, sources: Sequence[str], checkpoint: bytes) -> None:
        """The mounts' sources; others than before are counted anew, or from ``checkpoint`` on if that is of these."""
        if list(sources) == self.sources:
            return
        self.__dict__.update(Totals(sources=list(sources)).__dict__)
        self.restore(checkpoint)

    def restore(self, checkpoint: bytes) -> None:
        """Goes on where a master before this one was; what makes no sense, or is of other mounts, is nothing."""
        try:
            saved = json.loads(checkpoint)
            known, finished, current = saved["known"], saved["finished"], saved["current"]
            if saved["version"] != _VERSION or saved["sources"] != self.sources:
                return
            restored = (
                None if known is None else _counted(known), [_counted(one) for one in finished], _counted(current)
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, RecursionError):
            return
        if len(restored[1]) < len(self.sources):
            self.known, self.finished, self.current = restored
            # A count that was under way goes on.
            self._is_counting = bool(self.finished) or self.current != Counted()

    def saved(self) -> bytes:
        """What :meth:`restore` takes."""
        known = None if self.known is None else asdict(self.known)
        finished = [asdict(one) for one in self.finished]
        saved = {
            "version": _VERSION, "sources": self.sources, "known": known, "finished": finished,
            "current": asdict(self.current),
        }  # fmt: skip
        return json.dumps(saved).encode()

    def note_changes(self, node: str, session: str, changes: int) -> None:
        """A node's count of changes."""
        former = self._changes.get(node)
        self._changes[node] = (session, changes)
        if former is not None and former != (session, changes) and changes:
            self._is_changed = True

    def forget_node(self, node: str) -> None:
        """The node is gone: when it comes again, its count says nothing new."""
        self._changes.pop(node, None)

    def due(self, *, every_seconds: float, now: float) -> float | None:
        """When the next walk is to be made, which may be in the past; None without mounts."""
        if not self.sources:
            return None
        if self._is_counting or self.known is None:
            return max(now, self._retry_at)
        if self._ended is None:  # by a master before this one
            self._ended = now
        due = self._ended + every_seconds
        if self._is_changed:
            due = min(due, self._ended + max(_AFTER_CHANGES_SECONDS, _AFTER_CHANGES_FACTOR * self._took))
        return max(due, self._retry_at)

    def begin(self, now: float) -> Walk:
        """The walk that is due."""
        if not self._is_counting:
            self._is_counting = True
            self.finished, self.current = [], Counted()
        if not self.finished and self.current == Counted():
            self._began, self._is_changed = now, False
        mount = len(self.finished)
        return Walk(mount=mount, source=self.sources[mount], checkpoint=self.current.checkpoint)

    def progress(self, walk: Walk, counted: Counted, *, is_done: bool, now: float) -> None:
        """What a walk says."""
        if walk.mount != len(self.finished) or self.sources[walk.mount : walk.mount + 1] != [walk.source]:
            return
        self.current, self.reason, self._failures, self._retry_at = counted, "", 0, 0.0
        if not is_done:
            return
        self.finished.append(replace(counted, checkpoint=""))
        self.current = Counted()
        if len(self.finished) == len(self.sources):
            self.known = _sum(self.finished)
            self.finished, self._is_counting = [], False
            self._ended, self._took = now, 0.0 if self._began is None else max(0.0, now - self._began)

    def fail(self, walk: Walk, reason: str, *, is_checkpoint_bad: bool, now: float) -> None:
        """A walk has failed: it goes on later, from the beginning if its checkpoint was refused."""
        self.reason = reason
        if is_checkpoint_bad and self.current.checkpoint == walk.checkpoint:
            self.current = Counted()
        self._retry_at = now + min(_RETRY_SECONDS * 2 ** min(self._failures, 10), _RETRY_SECONDS_MAX)
        self._failures += 1

    def figures(self) -> dataset_pb2.Totals:
        """What the operator is told."""
        so_far = _sum([*self.finished, self.current])
        shown = so_far if self.known is None else self.known
        checkpoint = self.saved()
        return dataset_pb2.Totals(
            bytes=told(shown.bytes),
            files=told(shown.files),
            known=self.known is not None,
            directories_done=told(so_far.directories),
            checkpoint=checkpoint if len(checkpoint) <= _CHECKPOINT_BYTES_MAX else b"",
            reason=self.reason or _incompleteness(shown),
        )


def _sum(parts: Sequence[Counted]) -> Counted:
    return Counted(
        bytes=sum(part.bytes for part in parts),
        files=sum(part.files for part in parts),
        directories=sum(part.directories for part in parts),
        skipped=sum(part.skipped for part in parts),
    )


def _incompleteness(counted: Counted) -> str:
    what = "the owner of the Dataset (spec.owner) may not read all of it"
    return f"{counted.skipped} files and directories are left out: {what}" if counted.skipped else ""


def _counted(saved: object) -> Counted:
    if not isinstance(saved, dict):
        raise TypeError
    return Counted(
        bytes=checked(saved["bytes"]), files=checked(saved["files"]), directories=checked(saved["directories"]),
        skipped=checked(saved.get("skipped", 0)), checkpoint=str(saved["checkpoint"]),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of what ``efc-fs walk`` prints."""

    counted: Counted
    is_done: bool

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Raises ValueError."""
        try:
            found = json.loads(text)
            counted = _counted(found)
            is_done = found["done"]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("no line of a walk") from error
        return cls(counted=counted, is_done=bool(is_done))
