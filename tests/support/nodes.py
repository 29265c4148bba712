"""Nodes: mounts of one dataset by a keeper each, which know nothing of each other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.keeper import Keeper
from tests.support.netns import Host
from tests.support.processes import wait_until

#: Between two looks at a counter: what a daemon does later, it does within a second.
_PAUSE_S = 1.2


@dataclass(frozen=True, kw_only=True)
class Node:
    """A mount of a dataset by a keeper of its own, with a daemon and pages in the kernel of its own."""

    keeper: Keeper
    mount: Path

    @classmethod
    @contextmanager
    def mounted(cls, url: str, *, options: Sequence[str] = (), host: Host | None = None) -> Iterator[Self]:
        """One more node, with these mount options, for the time of the block; `host` is its network namespace."""
        with (
            Keeper(command_prefix=host.prefix if host else ()) as keeper,
            keeper.mounted(url, options=options) as mount,
        ):
            yield cls(keeper=keeper, mount=mount)

    def calls(self) -> int:
        """How many calls its daemons have made. Takes seconds, so that nothing that was done before is left out."""
        before = -1
        while (count := int(self.keeper.status(self.mount)["stats"]["nfs"]["calls"])) != before:
            before = count
            time.sleep(_PAUSE_S)
        return count

    def ready(self) -> int:
        """Workers that answer."""
        cache = self.keeper.status(self.mount)["cache"]
        return int(cache["workers_ready"]) if cache else -1

    def await_workers(self, count: int) -> None:
        """Returns when so many answer."""
        wait_until(lambda: self.ready() == count, what="the workers", interval_s=0.2)

    def cache(self) -> dict[str, int]:
        """Its daemon's figures of blocks."""
        cache = self.keeper.status(self.mount)["cache"]
        assert cache is not None
        return dict(cache)


@contextmanager
def two_nodes(url: str, *, options: Sequence[str] = ()) -> Iterator[tuple[Path, Path]]:
    """The mounts of two nodes."""
    with Node.mounted(url, options=options) as first, Node.mounted(url, options=options) as second:
        yield first.mount, second.mount
