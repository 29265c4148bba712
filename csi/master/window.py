"""Bytes that nodes have read within the last minutes, from counters that only grow.

Pure: time is an argument, in seconds. A node's counters belong to a session of its daemon; those of a new session start
at 0. When a node is seen for the first time, it is unknown when it read the bytes counted so far, so they are left out.
A node without a daemon has a session as well, in which it counts nothing.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from csi.master.counters import checked

WINDOW_SECONDS = 300.0
#: What was read within so long is forgotten together.
_BUCKET_SECONDS = 5.0


class Counts(NamedTuple):
    """Bytes that were read in all, and of these from the node's own caches and from workers."""

    total: int = 0
    from_node: int = 0
    from_workers: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """The sum."""
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))

    def since(self, former: "Counts") -> "Counts":
        """What was added; a counter that has become smaller started anew."""
        return Counts(*(now - then if now >= then else now for now, then in zip(self, former, strict=True)))


@dataclass
class Window:
    """What all nodes have read lately."""

    _last: dict[str, tuple[str, Counts]] = field(default_factory=dict)
    _buckets: deque[tuple[float, Counts]] = field(default_factory=deque)

    def count(self, node: str, session: str, counts: Counts, *, now: float) -> None:
        """Takes a node's counters; an empty ``session`` is one that the node does not know yet."""
        if not session:
            return
        known = self._last.get(node)
        self._last[node] = (session, counts)
        if known is None:
            return
        added = counts.since(known[1]) if known[0] == session else counts
        if any(added):
            self._add(added, now)

    def forget(self, node: str) -> None:
        """The node is gone: when it comes again, it is seen for the first time."""
        self._last.pop(node, None)

    def sum(self, now: float) -> Counts:
        """What was read within the window that ends now."""
        while self._buckets and not now - WINDOW_SECONDS < self._buckets[0][0] <= now + WINDOW_SECONDS:
            self._buckets.popleft()
        total = Counts()
        for _, counts in self._buckets:
            total = total.plus(counts)
        return total

    def next_change(self, now: float) -> float | None:
        """When the sum changes though nothing is read; None if it does not."""
        return None if not self._buckets else max(now, self._buckets[0][0] + WINDOW_SECONDS)

    def saved(self) -> dict[str, object]:
        """As JSON's values, for :meth:`restored`."""
        return {
            "last": {node: [session, *counts] for node, (session, counts) in self._last.items()},
            "buckets": [[at, *counts] for at, counts in self._buckets],
        }

    @classmethod
    def restored(cls, saved: object) -> "Window":
        """What was saved; an empty one if that makes no sense."""
        window = cls()
        try:
            window._last = {str(node): (str(session), _counts(rest)) for node, (session, *rest) in _last_of(saved)}
            window._buckets = deque((float(at), _counts(rest)) for at, *rest in _buckets_of(saved))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            return cls()
        return window

    def _add(self, added: Counts, now: float) -> None:
        if self._buckets and 0 <= now - self._buckets[-1][0] < _BUCKET_SECONDS:
            at, counts = self._buckets.pop()
            self._buckets.append((at, counts.plus(added)))
        else:
            self._buckets.append((now, added))


def _counts(values: Sequence[object]) -> Counts:
    total, from_node, from_workers = map(checked, values)
    return Counts(total, from_node, from_workers)


def _last_of(saved: object) -> Iterator[tuple[str, list[object]]]:
    yield from saved["last"].items()  # type: ignore[index]


def _buckets_of(saved: object) -> Iterator[list[float]]:
    yield from saved["buckets"]  # type: ignore[index]
