"""Local stores under several sources of one root: none is given another's data, and none waits for another."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import wait_until
from tests.support.scripted_nas import ScriptedNas
from tests.support.site import REST_S
from tests.support.workers import Worker, new_key

_HOURS_NS = 100 * 3600 * 10**9
_SIZES = {"large": 3_000_000, "small": 5_000}
#: A daemon keeps blocks that it has just read for two seconds at most.
_RECENT_S = 2.1


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be ended after a test."""
    with ExitStack() as stack:
        yield stack


def mounted(stack: ExitStack, *options: str, **urls: str) -> tuple[Keeper, Path]:
    """A mount of these sources with a store and a worker."""
    caches = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    worker, keeper = stack.enter_context(Worker()), stack.enter_context(Keeper())
    target = keeper.folder / "several"
    target.mkdir()
    own = (
        f"cache-dir={caches}", "cache-size=64MiB", "cache-free=1", f"workers={worker.endpoint}",
        f"workers-key={new_key(caches)}",
    )  # fmt: skip
    sources = [f"--source={path}={url}" for path, url in urls.items()]
    keeper.efc("mount", str(target), *sources, "-o", ",".join([*own, *options]))
    return keeper, target


def blocks_of(keeper: Keeper, target: Path) -> int:
    """Bytes that have come from the store."""
    return int(keeper.status(target)["cache"]["store_bytes"])


def test_handles_that_two_servers_have_in_common_are_two_files(stack: ExitStack) -> None:
    """Of the same handle, size and times; they are found again by the next daemon, each its own."""
    servers = {path: stack.enter_context(ScriptedNas()) for path in ("one", "two")}
    long_ago_ns, handles = time.time_ns() - _HOURS_NS, []
    for path, nas in servers.items():
        for name, size in _SIZES.items():
            file = nas.add(nas.root, name, data=path.encode() * (size // 3))
            file.mtime_ns = file.ctime_ns = long_ago_ns
            handles.append(file.handle)
    assert len(set(handles)) == len(_SIZES), "both servers have the same"
    keeper, target = mounted(stack, **{path: nas.url for path, nas in servers.items()})

    def all_is_right() -> bool:
        """Whether all of it came from the store, too."""
        time.sleep(_RECENT_S)
        before = blocks_of(keeper, target)
        for path in servers:
            for name, size in _SIZES.items():
                descriptor = os.open(target / path / name, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
                assert (target / path / name).read_bytes() == path.encode() * (size // 3), f"{path}/{name}"
        return blocks_of(keeper, target) - before >= len(servers) * _SIZES["large"]

    wait_until(all_is_right, what="all from the store", limit_s=60)
    keeper.replace_daemon(target)
    wait_until(all_is_right, what="all from the store again", limit_s=60)
    keeper.unmount(target)


@pytest.mark.parametrize("consistency", ["cto", "sealed"])
def test_one_that_is_frozen_holds_up_no_other(stack: ExitStack, consistency: str) -> None:
    """Nor, where nobody asks it, who reads what the store has of it; daemons die meanwhile."""
    servers = {path: stack.enter_context(Nas()) for path in ("one", "two")}
    contents = {path: os.urandom(3_000_000) for path in servers}
    for path, nas in servers.items():
        (nas.export_folder() / "file").write_bytes(contents[path])
    time.sleep(REST_S)
    for nas in servers.values():
        (nas.export_folder() / "clock").touch()
    keeper, target = mounted(stack, f"consistency={consistency}", **{path: nas.url for path, nas in servers.items()})
    for path in servers:
        (target / path / "clock").stat()

    def used() -> int:
        return blocks_of(keeper, target) + int(keeper.status(target)["stats"]["passthrough"]["opens"])

    def is_from_store(path: str) -> bool:
        time.sleep(_RECENT_S)
        before = used()
        with (target / path / "file").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.readall() == contents[path]
        return used() > before

    for path in servers:
        wait_until(lambda path=path: is_from_store(path), what="what is in the store", limit_s=60)  # type: ignore[misc]
    servers["one"].pause()
    try:
        assert is_from_store("two")
        if consistency == "sealed":
            assert is_from_store("one")
        keeper.replace_daemon(target)
        assert (target / "two" / "file").read_bytes() == contents["two"]
    finally:
        servers["one"].resume()
    assert (target / "one" / "file").read_bytes() == contents["one"]
    keeper.unmount(target)
