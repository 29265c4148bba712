"""Every test that asks for `folder` runs twice: on native ext4, which proves the test, and on a mount of a real NAS."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import RESULTS

NATIVE, MOUNT = "ext4", "nfs"


@pytest.fixture(scope="session")
def keeper(nothing_left: None) -> Iterator[Keeper]:
    """A keeper for the whole session."""
    with Keeper() as keeper:
        yield keeper


@pytest.fixture(scope="session")
def mount(nas: Nas, keeper: Keeper) -> Iterator[Path]:
    """The mount of the NAS's first export."""
    with keeper.mounted(nas.url) as path:
        yield path


@pytest.fixture(scope="session")
def native() -> Iterator[Path]:
    """A folder on this machine's own file system."""
    with tempfile.TemporaryDirectory(prefix="efc-posix-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(params=[NATIVE, MOUNT])
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder (root's, 0755), on native ext4 and on the mount."""
    base: Path = request.getfixturevalue("native" if request.param == NATIVE else "mount")
    yield from _empty_folder(base)


@pytest.fixture
def mounted_folder(mount: Path) -> Iterator[Path]:
    """An empty folder on the mount."""
    yield from _empty_folder(mount)


def _empty_folder(base: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="test-", dir=base))
    path.chmod(0o755)
    yield path
    if path.exists():
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def details() -> Iterator[dict[str, object]]:
    """Where the public suites leave their counts: results/posix.details.json."""
    found: dict[str, object] = {}
    yield found
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "posix.details.json").write_text(json.dumps(found, indent=2) + "\n")
