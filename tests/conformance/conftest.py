"""A NAS for all tests of a folder, and the check that nothing is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leaks import no_leaks, require_sandbox
from tests.support.nas import Export, Nas


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails the session when it leaves anything behind."""
    require_sandbox()
    Path(tempfile.gettempdir()).chmod(0o755)  # the sandbox's own folder: other users than root take part
    with no_leaks():
        yield


@pytest.fixture(scope="session")
def nas(nothing_left: None) -> Iterator[Nas]:
    """A NAS for the whole session, with exports that squash root and that are read-only onto the same folder."""
    with Nas(exports=[Export()]) as first:
        shared = first.export_folder()
        shared.chmod(0o755)
        first.exports = [
            Export(),
            Export(name="squashed", path=shared, squash="Root_Squash"),
            Export(name="read-only", path=shared, access="RO"),
        ]
        first.restart()
        yield first
