"""Fixtures of all tests: a NAS, a driver, a keeper for mounts by hand, and the check that nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.driver import Driver
from tests.support.keeper import Keeper
from tests.support.leaks import no_leaks, require_sandbox
from tests.support.nas import Nas

# Tests interrupt programs that they start; in the background of a shell these would inherit that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a module of tests that leaves mounts, processes or folders (in the sandbox, where one can tell)."""
    if os.environ.get("EFC_TEST_SANDBOX") != "1":
        yield
        return
    with no_leaks():
        yield


@pytest.fixture(scope="module")
def nas(nothing_left: None) -> Iterator[Nas]:  # ends before the check
    """A running NFS server with one export; a module's tests share it."""
    require_sandbox()
    with Nas() as server:
        yield server


@pytest.fixture(scope="module")
def driver(nas: Nas) -> Iterator[Driver]:
    """Keeper, node plugin and controller, shared by a module's tests: each uses volumes of its own."""
    with Driver(source=nas.url) as running:
        yield running


@pytest.fixture
def keeper(nas: Nas) -> Iterator[Keeper]:  # the NAS must outlive its mounts
    """A keeper without CSI, for mounts by `efc mount`."""
    with Keeper() as running:
        yield running


@pytest.fixture
def paused_nas() -> Iterator[Nas]:
    """A NAS of the test's own, which it may pause."""
    with Nas() as nas:
        (nas.export_folder() / "file").write_bytes(os.urandom(8 << 20))
        yield nas
