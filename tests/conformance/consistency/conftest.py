"""Two nodes and the NAS itself: each test changes a file on one of them and looks at it on another."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.nas import Nas
from tests.support.nodes import Node


class World:
    """The NAS, and nodes that mount it as they are asked for."""

    def __init__(self, nas: Nas, folder: Path, stack: ExitStack) -> None:
        """``folder`` is the dataset where the NAS has it."""
        self.nas = nas
        self.folder = folder
        self._stack = stack

    def node(self, *options: str, export: str = "export") -> Node:
        """One more node, with these mount options."""
        url = self.nas.url_of(f"{export}/{self.folder.name}")
        return self._stack.enter_context(Node.mounted(url, options=options))


@pytest.fixture
def world(nas: Nas) -> Iterator[World]:
    """A dataset of its own for each test."""
    folder = Path(tempfile.mkdtemp(dir=nas.export_folder()))
    folder.chmod(0o777)
    with ExitStack() as stack:
        yield World(nas, folder, stack)
