"""What a warm-up has come to: for people, and as JSON."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from csi.base.text import counted, printable
from csi.cli.figures import duration, rate, size
from csi.warming.passes import is_much
from csi.warming.tally import Failure, Figures

_INTERRUPTED = 130
#: As of a directory's entries: what an error means here, where strerror(3) would not say it.
_WORDS = {
    errno.ELOOP: "a symbolic link, which is not followed: name what it leads to",
    errno.EXDEV: "it lies on another file system",
    errno.ENOTSUP: "it is not a regular file any more",
    errno.ENOMEM: "too many directories, or no memory",
}


#: By what was filled: where data is then, and who has room.
_PLACES = {
    "both": ("in the caches", "The caches have"),
    "local": ("in the local store", "The local store has"),
    "workers": ("at the workers", "The workers have"),
}


@dataclass(kw_only=True)
class Outcome:
    """How it ended; ``levels`` is where the bytes of all passes came from, None where nobody counts that."""

    #: What was filled: local, workers or both.
    to: str = "both"
    passes: list[Figures] = field(default_factory=list)
    seconds: float = 0.0
    levels: dict[str, int] | None = None
    #: Bytes that each pass did not find in each cache that it fills, which say so block by block. Of a first pass that
    #: reads it is all or nothing.
    missing_bytes: list[int] = field(default_factory=list)
    #: Of what was filled, if that was asked for.
    room_bytes: int | None = None
    #: Bytes that no cache that is to be filled has, at least; None if no pass has told.
    bytes_uncached: int | None = None
    is_interrupted: bool = False
    is_over_budget: bool = False

    @property
    def first(self) -> Figures:
        """The pass that all is said of; others read the same once more."""
        return self.passes[0] if self.passes else Figures()

    @property
    def failed(self) -> Figures:
        """The pass with the most failures."""
        return max(self.passes, key=lambda figures: figures.files_failed, default=Figures())

    @property
    def is_whole(self) -> bool:
        """All that was named was read."""
        return not (self.is_interrupted or self.is_over_budget or self.failed.files_failed)

    @property
    def exit_status(self) -> int:
        """Of the command."""
        if self.is_interrupted:
            return _INTERRUPTED
        is_refused = self.to != "both" and self.bytes_refused > 0
        return int(self.failed.files_failed > 0 or is_refused or self.is_mostly_in_vain)

    @property
    def is_mostly_in_vain(self) -> bool:
        """Much of what was read is in no cache all the same."""
        return is_much(self.bytes_uncached or 0, covered=self.bytes_covered)

    @property
    def bytes_covered(self) -> int:
        """What all this is about."""
        return self.first.bytes_read + self.first.bytes_noted

    @property
    def bytes_refused(self) -> int:
        """What no level that was to be filled had or took, as of the last pass."""
        return self.passes[-1].bytes_refused if self.passes else 0

    @property
    def bytes_read(self) -> int:
        """Of what the first pass has gone through; where one level is filled, that is what it has taken."""
        return self.first.bytes_read if self.to == "both" else min(self._bytes_moved, self.first.bytes_read)

    @property
    def bytes_per_second(self) -> float:
        """Of all that was read in all passes together."""
        return self._bytes_moved / self.seconds if self.seconds else 0.0

    @property
    def _bytes_moved(self) -> int:
        if self.to == "both":
            return sum(figures.bytes_read for figures in self.passes)
        return sum(figures.bytes_taken for figures in self.passes)


def print_failures(outcome: Outcome) -> None:
    """The first failures by name, on standard error."""
    failed = outcome.failed
    for failure in failed.failures:
        print(f"efc: {printable(failure.path)}: {_word(failure)}", file=sys.stderr)
    if (more := failed.files_failed - len(failed.failures)) > 0:
        print(f"efc: {more} more could not be read", file=sys.stderr)
    if outcome.is_mostly_in_vain and not outcome.is_interrupted:
        uncached, covered = size(outcome.bytes_uncached or 0), size(outcome.bytes_covered)
        print(f"efc: {uncached} of {covered} is not {_PLACES[outcome.to][0]}: efc status says more", file=sys.stderr)


def _word(failure: Failure) -> str:
    return _WORDS.get(failure.error_number) or os.strerror(failure.error_number)


def print_summary(outcome: Outcome, *, as_json: bool) -> None:
    """All of it, on standard output."""
    if as_json:
        print(json.dumps(described(outcome), indent=2))
        return
    for line in _lines(outcome):
        print(line)


def described(outcome: Outcome) -> dict[str, object]:
    """As JSON. Keys are only ever added."""
    first, failed = outcome.first, outcome.failed
    return {
        "to": outcome.to,
        "files": first.files_read,
        "bytes": outcome.bytes_read,
        "bytes_looked_at": first.bytes_read,
        "seconds": round(outcome.seconds, 3),
        "bytes_per_second": round(outcome.bytes_per_second),
        "levels": outcome.levels,
        "passes": len(outcome.passes),
        "missing_bytes": outcome.missing_bytes,
        "bytes_refused": outcome.bytes_refused,
        "bytes_uncached": outcome.bytes_uncached,
        "files_noted": first.files_noted,
        "bytes_noted": first.bytes_noted,
        "files_changed": max((figures.files_changed for figures in outcome.passes), default=0),
        "files_vanished": first.files_vanished,
        "files_linked": first.files_linked,
        "files_other": first.files_other,
        "files_failed": failed.files_failed,
        "failures": [
            {
                "path": one.path,
                "errno": errno.errorcode.get(one.error_number, str(one.error_number)),
                "message": _word(one),
            }
            for one in failed.failures
        ],
        "is_interrupted": outcome.is_interrupted,
        "is_over_budget": outcome.is_over_budget,
    }


def _lines(outcome: Outcome) -> Iterator[str]:
    first = outcome.first
    yield _ended(outcome)
    if first.files_noted:
        yield f"Noted as read before, and not changed: {counted(first.files_noted, 'file')}, {size(first.bytes_noted)}."
    if outcome.levels is not None:
        parts = [f"{_name(level)} {size(count)}" for level, count in outcome.levels.items()]
        yield f"Through the mount meanwhile came from {', '.join(parts)}."
    if outcome.is_over_budget:
        yield "The budget is used; the next run goes on from here."
    yield from _cached(outcome)
    if changed := max((figures.files_changed for figures in outcome.passes), default=0):
        yield f"Changed too recently to be cached: {counted(changed, 'file')}."
    if first.files_vanished:
        yield f"Removed before they were read: {counted(first.files_vanished, 'file')}."
    if outcome.failed.files_failed:
        yield f"Not read: {counted(outcome.failed.files_failed, 'file')}."


def _ended(outcome: Outcome) -> str:
    """What was gone through, and what of it was read."""
    first, is_of_level = outcome.first, outcome.to != "both"
    words = "looked at" if is_of_level else "read"
    words = f"Interrupted: {words}" if outcome.is_interrupted else words.capitalize()
    ended = f"{words} {counted(first.files_read, 'file')}, {size(first.bytes_read)}, in {duration(outcome.seconds)}"
    passes = f", {len(outcome.passes)} passes" if len(outcome.passes) > 1 else ""
    speed = rate(outcome.bytes_per_second)
    if is_of_level:
        return f"{ended}{passes}: {size(outcome.bytes_read)} was read and taken {_PLACES[outcome.to][0]} ({speed})."
    return f"{ended} ({speed}{passes})."


def _cached(outcome: Outcome) -> Iterator[str]:
    covered = outcome.bytes_covered
    if outcome.is_interrupted or not covered:
        return
    where, has_room = _PLACES[outcome.to]
    if outcome.missing_bytes and outcome.missing_bytes[-1] == 0:
        yield f"All that was {'read' if outcome.to == 'both' else 'looked at'} is {where}."
    elif len(outcome.missing_bytes) > 1:
        missing = size(outcome.missing_bytes[-1])
        absent = outcome.passes[-1].bytes_absent
        if outcome.to == "both" and absent < outcome.missing_bytes[-1]:
            yield f"The last pass found {missing} that was not in each of the caches, {size(absent)} of it in none."
        else:
            yield f"The last pass found {missing} that was not {where}."
    elif outcome.missing_bytes and outcome.to != "both":
        yield f"{size(outcome.missing_bytes[-1])} was not {where} before; only a further pass tells what stays there."
    if outcome.bytes_refused:
        yield f"{size(outcome.bytes_refused)} was not taken {where}: efc status says more."
    if outcome.room_bytes is not None and covered > outcome.room_bytes:
        yield f"{has_room} room for {size(outcome.room_bytes)}, less than all of that."


def _name(level: str) -> str:
    return {"nas": "the NAS", "memory": "the daemon's memory"}.get(level, level)
