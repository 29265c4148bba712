"""Two nodes and the NAS itself: each test changes a file on one of them and looks at it on another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas

#: Counters of daemons are as old as their last report, which comes each second.
_REPORT_S = 1.2


@dataclass(frozen=True, kw_only=True)
class Node:
    """A mount of the dataset by a keeper of its own: a node that knows nothing of any other."""

    keeper: Keeper
    mount: Path

    def calls(self) -> int:
        """How many calls its daemons have made. Takes seconds, so that nothing that was done before is left out."""
        before = -1
        while (count := int(self.keeper.status(self.mount)["stats"]["nfs"]["calls"])) != before:
            before = count
            time.sleep(_REPORT_S)
        return count


class World:
    """The NAS, and nodes that mount it as they are asked for."""

    def __init__(self, nas: Nas, folder: Path, stack: ExitStack) -> None:
        """``folder`` is the dataset where the NAS has it."""
        self.nas = nas
        self.folder = folder
        self._stack = stack

    def node(self, *options: str, export: str = "export") -> Node:
        """One more node, with these mount options."""
        keeper = self._stack.enter_context(Keeper())
        url = self.nas.url_of(f"{export}/{self.folder.name}")
        return Node(keeper=keeper, mount=self._stack.enter_context(keeper.mounted(url, options=options)))


@pytest.fixture
def world(nas: Nas) -> Iterator[World]:
    """A dataset of its own for each test."""
    folder = Path(tempfile.mkdtemp(dir=nas.export_folder()))
    folder.chmod(0o777)
    with ExitStack() as stack:
        yield World(nas, folder, stack)
