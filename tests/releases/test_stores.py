"""Local stores, files that the kernel reads by itself, several sources: and a release that knows nothing of them.

Reads go on, whichever release the daemon is of; where the former could not serve it is not started, and the upgrade to
it is refused.
"""

# ruff: noqa: F811 - fixtures of another module
from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults import cache_storm
from tests.faults.cache_storm import Outcome, Stage, reading
from tests.faults.test_cache_storms import stage  # noqa: F401 - the fixture
from tests.releases.programs import FOLDERS, Alternation, runs
from tests.releases.test_storms import STRIKES
from tests.support.keeper import Keeper
from tests.support.processes import wait_until

pytestmark = pytest.mark.timeout(180 + 15 * STRIKES)
_ONLY_THIS = pytest.mark.parametrize("alternation", [("this", "this")], indirect=True, ids=["this keeper, this daemon"])
_FORMER_FIRST = pytest.mark.parametrize(
    "alternation", [("this", "former")], indirect=True, ids=["this keeper, former daemon first"]
)


def changed(keeper: Keeper, target: Path, release: str, *arguments: str) -> None:
    """The mount's daemon is upgraded to one of this release. Raises CalledProcessError if that is refused."""
    environment = os.environ.get("EFC_BIN_DIR", "")
    os.environ["EFC_BIN_DIR"] = str(FOLDERS[release])
    try:
        keeper.efc("upgrade", str(target), *arguments)
    finally:
        os.environ["EFC_BIN_DIR"] = environment


def serves(keeper: Keeper, target: Path, release: str) -> None:
    """Waits for it."""
    wait_until(
        lambda: runs(keeper.mount_status(target).pid, release), what=f"a daemon of {release} release", limit_s=30
    )


def await_passthrough(keeper: Keeper, target: Path, file: Path, content: bytes) -> None:
    """Reads the file, which has this content, until an open of it is passed through."""

    def is_passed() -> bool:
        before = keeper.mount_status(target).stats.passthrough.opens
        assert file.read_bytes() == content
        return keeper.mount_status(target).stats.passthrough.opens > before

    wait_until(is_passed, what="an open that is passed through", limit_s=60, interval_s=0.5)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """Of this release, with its programs."""
    with Keeper(programs=FOLDERS["this"]) as keeper:
        yield keeper


@_ONLY_THIS
@pytest.mark.parametrize("mode", cache_storm.MODES)
def test_readers_of_a_store_notice_no_change_of_the_release(
    stage: Stage, keeper: Keeper, alternation: Alternation, mode: str
) -> None:
    """Upgrades, downgrades and kills; what was refused is counted, and at the end the store is found again."""
    target = keeper.mount(stage.nas.url, options=[*stage.options, *cache_storm.MODES[mode]])
    (target / "clock").stat()
    outcome, refused, former = Outcome(kills=STRIKES), 0, 0
    with reading(target, outcome):
        for number in range(STRIKES):
            time.sleep(0.3)
            if number % 2:
                os.kill(keeper.mount_status(target).pid, signal.SIGKILL)
            else:
                try:
                    changed(keeper, target, "former" if number % 4 == 0 else "this")
                except subprocess.CalledProcessError as error:
                    assert "passthrough" in error.stderr or "kernel reads" in error.stderr, error.stderr
                    refused += 1
            wait_until(lambda: keeper.mount_status(target).pid != 0, what="a daemon", limit_s=30)
            former += runs(keeper.mount_status(target).pid, "former")
        changed(keeper, target, "this")
        before = keeper.mount_status(target).stats.cache.store_bytes
        opens = keeper.mount_status(target).stats.passthrough.opens
        wait_until(
            lambda: keeper.mount_status(target).stats.cache.store_bytes > before
            or keeper.mount_status(target).stats.passthrough.opens > opens,
            what="something from the store", limit_s=60,
        )  # fmt: skip
    print(f"{mode}: {STRIKES} strikes, {refused} refused, {former} times the former release, {outcome.as_figures()}")
    assert (outcome.errors, outcome.wrong_bytes) == ([], 0)
    assert former > 0 or refused > 0
    keeper.unmount(target)


@_ONLY_THIS
def test_the_former_release_does_not_serve_what_the_kernel_reads_by_itself(stage: Stage, keeper: Keeper) -> None:
    """As long as a file is open so; after that it does."""
    target = keeper.mount(stage.nas.url, options=[*stage.options, *cache_storm.MODES["sealed"]])
    (target / "clock").stat()
    file = next(target.glob("a-file*"))
    content = file.read_bytes()

    await_passthrough(keeper, target, file, content)
    with file.open("rb") as opened, subprocess.Popen(["sleep", "300"], stdin=opened) as holder:
        opened.close()
        try:
            with pytest.raises(subprocess.CalledProcessError) as caught:
                changed(keeper, target, "former")
            assert "former" not in caught.value.stdout
            os.kill(keeper.mount_status(target).pid, signal.SIGKILL)
            serves(keeper, target, "this")
            assert file.read_bytes() == content
        finally:
            holder.kill()
    wait_until(lambda: keeper.mount_status(target).stats.passthrough.files == 0, what="the last close")
    changed(keeper, target, "former")
    assert file.read_bytes() == content
    changed(keeper, target, "this")
    await_passthrough(keeper, target, file, content)
    keeper.unmount(target)


@_ONLY_THIS
def test_under_a_former_keeper_a_file_that_the_kernel_reads_can_be_read_or_not_be_opened(
    stage: Stage, keeper: Keeper
) -> None:
    """It takes the session over, and its daemons are of its own release, as after a rollback of everything."""
    target = keeper.mount(stage.nas.url, options=[*stage.options, *cache_storm.MODES["sealed"]])
    (target / "clock").stat()
    file, other, *_ = target.glob("a-file*")
    content = file.read_bytes()

    await_passthrough(keeper, target, file, content)
    with file.open("rb") as opened, subprocess.Popen(["sleep", "300"], stdin=opened) as holder:
        opened.close()
        try:
            keeper.kill()
            keeper.programs = FOLDERS["former"]
            keeper.start()
            before = keeper.mount_status(target).pid
            assert file.read_bytes() == content
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: keeper.mount_status(target).pid not in (0, before), what="a daemon", limit_s=30)
            with suppress(OSError):
                assert file.read_bytes() == content
            assert other.read_bytes() == (stage.nas.export_folder() / other.name).read_bytes()
        finally:
            holder.kill()
    assert file.read_bytes() == content, "after the last close"
    keeper.unmount(target)


@_ONLY_THIS
def test_the_former_release_does_not_serve_several_sources(stage: Stage, keeper: Keeper) -> None:
    target = keeper.folder / "several"
    target.mkdir()
    sources = [f"--source={path}={stage.nas.url}" for path in ("one", "two")]
    keeper.efc("mount", str(target), *sources, "-o", ",".join([*stage.options, "cache-size=64MiB"]))
    content = (stage.nas.export_folder() / "small" / "1").read_bytes()
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            changed(keeper, target, "former")
        os.kill(keeper.mount_status(target).pid, signal.SIGKILL)
        serves(keeper, target, "this")
        assert [(target / path / "small" / "1").read_bytes() for path in ("one", "two")] == [content] * 2
    keeper.unmount(target)


@_FORMER_FIRST
def test_a_store_can_be_had_after_an_upgrade(stage: Stage, keeper: Keeper, alternation: Alternation) -> None:
    """The mount was made by a daemon of the former release, and readers have files open since."""
    keeper.programs = None  # its daemon is that of the fixture
    keeper.kill()
    keeper.start()
    target = keeper.mount(stage.nas.url, options=["write-behind=0s"])
    assert runs(keeper.mount_status(target).pid, "former")
    outcome = Outcome(kills=0)
    with reading(target, outcome):
        time.sleep(1)
        changed(keeper, target, "this", "-o", ",".join([*stage.options, "cache-size=64MiB"]))
        (target / "clock").stat()
        wait_until(
            lambda: keeper.mount_status(target).stats.cache.store_bytes > 0, what="something from the store", limit_s=60
        )
        os.kill(keeper.mount_status(target).pid, signal.SIGKILL)
        time.sleep(1)
    assert (outcome.errors, outcome.wrong_bytes) == ([], 0)
    keeper.unmount(target)
