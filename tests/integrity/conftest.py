"""A NAS and a mount for each test, and the figures of all of them in results/integrity.details.json."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.leaks import no_leaks, require_sandbox
from tests.support.nas import Nas
from tests.support.paths import RESULTS

SECONDS = float(os.environ.get("INTEGRITY_SECONDS", "100"))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a test works with: a mount, and what is behind it."""

    nas: Nas
    keeper: Keeper
    mount: Path
    seed: int

    @property
    def behind(self) -> Path:
        """The NAS's own folder: the last word on what was stored."""
        return self.nas.export_folder()


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails the session when it leaves anything behind."""
    require_sandbox()
    with no_leaks():
        yield


@pytest.fixture(scope="session")
def seed() -> int:
    """Of all random choices of this run; printed, so that a failure can be repeated."""
    seed = int(os.environ.get("INTEGRITY_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"INTEGRITY_SEED={seed}")
    return seed


@pytest.fixture
def scene(nothing_left: None, seed: int) -> Iterator[Scene]:
    """A NAS and a mount of it."""
    with Nas() as nas, Keeper() as keeper, keeper.mounted(nas.url) as mount:
        yield Scene(nas=nas, keeper=keeper, mount=mount, seed=seed)


@pytest.fixture(scope="session")
def details() -> Iterator[dict[str, object]]:
    """Where each test leaves its figures."""
    found: dict[str, object] = {}
    yield found
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "integrity.details.json").write_text(json.dumps(found, indent=2) + "\n")
