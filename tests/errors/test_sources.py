"""Several sources under one root, on two real servers: what shows, what cannot be, and what outlives whom."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Export, Nas
from tests.support.processes import wait_until

LIMIT_S = 30
EXPORTS = (Export(name="export"), Export(name="other"))


@pytest.fixture(scope="module")
def servers(nothing_left: None) -> Iterator[tuple[Nas, Nas]]:
    with Nas(exports=EXPORTS) as one, Nas(exports=EXPORTS) as two:
        yield one, two


@pytest.fixture(scope="module")
def keeper(nothing_left: None) -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


@pytest.fixture
def target(keeper: Keeper, servers: tuple[Nas, Nas]) -> Iterator[Path]:
    """A mount of the first export of each server, at /one and /deep/a name."""
    for nas in servers:
        for export in EXPORTS:
            empty(nas.export_folder(export.name))
    target = keeper.folder / "several"
    target.mkdir()
    keeper.efc("mount", str(target), *sources(one=servers[0].url, **{"deep/a name": servers[1].url}))
    yield target
    for nas in servers:
        nas.resume()
    keeper.unmount(target)


def sources(**at: str) -> list[str]:
    return [f"--source={path}={url}" for path, url in at.items()]


def changes(*each: Callable[[], object]) -> tuple[Callable[[], object], ...]:
    return each


def empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def described(keeper: Keeper, target: Path) -> dict[str, dict[str, object]]:
    return {source["path"]: source for source in keeper.status(target)["sources"]}


def test_both_show_and_are_two_file_systems(keeper: Keeper, servers: tuple[Nas, Nas], target: Path) -> None:
    one, two = target / "one", target / "deep" / "a name"
    assert sorted(os.listdir(target)) == ["deep", "one"]
    assert os.listdir(target / "deep") == ["a name"]
    (one / "file").write_text("first")
    (two / "file").write_text("second")
    assert [(nas.export_folder() / "file").read_text() for nas in servers] == ["first", "second"]
    assert (one / "file").stat().st_ino != (two / "file").stat().st_ino
    listed = {entry.name: entry.inode() for entry in os.scandir(target)}
    assert listed == {name: (target / name).stat().st_ino for name in listed}
    for change in changes(
        lambda: os.rename(one / "file", two / "moved"),
        lambda: os.link(one / "file", two / "link"),
    ):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EXDEV
    subprocess.run(["mv", one / "file", two / "moved"], check=True)
    assert (two / "moved").read_text() == "first"
    assert not (one / "file").exists()
    for change in changes(
        lambda: (target / "new").mkdir(),
        lambda: (target / "one").rmdir(),
        lambda: os.rename(target / "one", target / "renamed"),
        lambda: (target / "deep").chmod(0o777),
        lambda: (target / "file").write_text("x"),
    ):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno in (errno.EROFS, errno.EXDEV), refused.value
    shown = subprocess.run(["ls", "-lR", target], check=True, capture_output=True, text=True)
    assert "moved" in shown.stdout
    assert "?" not in shown.stdout
    assert not shown.stderr
    assert keeper.status(target)["state"] == "serving"


def test_a_tree_is_removed_in_each_and_the_sizes_are_the_sum(servers: tuple[Nas, Nas], target: Path) -> None:
    two = target / "deep" / "a name"
    for number in range(20):
        (two / f"folder {number}" / "below").mkdir(parents=True)
        (two / f"folder {number}" / "below" / "file").write_text("x")
    shutil.rmtree(two / "folder 3")
    subprocess.run(f"rm -r '{two}'/*", shell=True, check=True)
    assert os.listdir(servers[1].export_folder()) == []
    sizes = {path: os.statvfs(path).f_blocks for path in (target, target / "one", two)}
    assert sizes[target] == sizes[target / "one"] + sizes[two]


def test_a_daemon_that_is_killed_leaves_both_to_the_next(
    keeper: Keeper, servers: tuple[Nas, Nas], target: Path
) -> None:
    """Under writers in both."""
    places = [target / "one" / "log", target / "deep" / "a name" / "log"]
    done = threading.Event()
    failures: list[BaseException] = []

    def write(place: Path) -> None:
        try:
            with place.open("w") as file:
                number = 0
                while not done.is_set() or number < 200:
                    file.write(f"{number}\n")
                    file.flush()
                    if number % 20 == 0:
                        os.fsync(file.fileno())
                        os.rename(place, place.with_name(f"{place.name}.moved"))
                        os.rename(place.with_name(f"{place.name}.moved"), place)
                    number += 1
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(place,)) for place in places]
    for writer in writers:
        writer.start()
    for _ in range(5):
        keeper.replace_daemon(target)
    done.set()
    for writer in writers:
        writer.join(LIMIT_S)
    assert not failures
    assert not any(writer.is_alive() for writer in writers)
    for place, nas in zip(places, servers, strict=True):
        lines = (nas.export_folder() / "log").read_text().split()
        assert lines == [str(number) for number in range(len(lines))]
        assert len(lines) >= 200
        assert place.read_text().split() == lines
    assert all(source["attached"] for source in described(keeper, target).values())


def test_one_that_is_silent_holds_up_nobody_else(keeper: Keeper, servers: tuple[Nas, Nas], target: Path) -> None:
    one, two = target / "one", target / "deep" / "a name"
    (one / "file").write_text("first")
    (two / "file").write_text("second")
    servers[0].pause()
    reader = subprocess.Popen(["cat", one / "file"], stdout=subprocess.PIPE)
    listing = subprocess.Popen(["ls", "-l", one], stdout=subprocess.PIPE)
    try:
        assert sorted(os.listdir(target)) == ["deep", "one"]
        for number in range(50):
            (two / f"new {number}").write_text("x")
            assert (two / "file").read_text() == "second"
        assert len(os.listdir(two)) == 51
        # Who wants to make something in the root waits for nobody either, and makes nobody wait.
        with pytest.raises(OSError):
            (target / "new").mkdir()
        assert os.statvfs(target).f_blocks > 0
        keeper.replace_daemon(target)
        assert (two / "file").read_text() == "second"
        wait_until(
            lambda: not described(keeper, target)["/one"]["responding"],
            what="the silent one to be told",
            limit_s=LIMIT_S,
        )
        assert described(keeper, target)["/deep/a name"]["responding"]
    finally:
        servers[0].resume()
        output = reader.communicate(timeout=LIMIT_S)[0], listing.communicate(timeout=LIMIT_S)[0]
    assert output[0] == b"first"
    assert b"file" in output[1]


def test_sources_come_and_go_under_who_uses_them(keeper: Keeper, servers: tuple[Nas, Nas], target: Path) -> None:
    one, two = target / "one", target / "deep" / "a name"
    (one / "file").write_text("first")
    pid = keeper.daemon_pid(target)
    at = {"one": servers[0].url, "deep/a name": servers[1].url, "other": servers[1].url_of("other")}
    keeper.efc("upgrade", str(target), *sources(**at))
    wait_until((target / "other").exists, what="the new source", limit_s=10)
    (target / "other" / "file").write_text("third")
    assert (servers[1].export_folder("other") / "file").read_text() == "third"
    with ExitStack() as held:
        opened = held.enter_context((one / "file").open("r+"))
        del at["one"]
        keeper.efc("upgrade", str(target), *sources(**at))
        wait_until(lambda: not one.exists(), what="the name to go", limit_s=10)
        assert sorted(os.listdir(target)) == ["deep", "other"]
        opened.write("FIRST")
        opened.flush()
        os.fsync(opened.fileno())
        assert (servers[0].export_folder() / "file").read_text() == "FIRST"
        keeper.replace_daemon(target)
        pid = keeper.daemon_pid(target)
        opened.seek(0)
        assert opened.read() == "FIRST"
        at["one"] = servers[0].url
        keeper.efc("upgrade", str(target), *sources(**at))
        wait_until(one.exists, what="the source to come back", limit_s=10)
        assert os.path.samestat(os.fstat(opened.fileno()), (one / "file").stat())
    assert (two.exists(), keeper.daemon_pid(target)) == (True, pid)


def test_one_that_is_not_there_is_waited_for_and_told_of(
    keeper: Keeper, servers: tuple[Nas, Nas], target: Path
) -> None:
    at = {"one": servers[0].url, "deep/a name": servers[1].url, "late": servers[1].url_of("export/late")}
    keeper.efc("upgrade", str(target), *sources(**at))
    wait_until(lambda: "late" in str(described(keeper, target)["/late"]["reason"]), what="the reason", limit_s=LIMIT_S)
    said = keeper.efc("status")
    assert f"source /late is missing ({servers[1].url_of('export/late')}): " in said
    assert said.count("/late (") == 0, "its name comes once"
    keeper.replace_daemon(target)
    assert sorted(os.listdir(target)) == ["deep", "one"]
    (servers[1].export_folder() / "late").mkdir()
    wait_until((target / "late").exists, what="the source that is late", limit_s=LIMIT_S)
    assert described(keeper, target)["/late"]["attached"]


def test_a_source_of_its_own_is_read_only(keeper: Keeper, servers: tuple[Nas, Nas], target: Path) -> None:
    one, two = target / "one", target / "deep" / "a name"
    (one / "file").write_text("first")
    arguments = [f"--read-only-source=one={servers[0].url}", *sources(**{"deep/a name": servers[1].url})]
    keeper.efc("upgrade", str(target), *arguments)
    for change in changes(
        lambda: (one / "file").write_text("changed"),
        lambda: (one / "new").write_text("x"),
        lambda: (one / "file").unlink(),
        lambda: (one / "file").chmod(0o600),
        lambda: (one / "new").mkdir(),
    ):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS, refused.value
    (two / "new").write_text("x")
    assert (one / "file").read_text() == "first"


def test_who_cannot_be_mounted_is_named(keeper: Keeper, servers: tuple[Nas, Nas], target: Path) -> None:
    """At the first mount all have to be there, and nothing is left of one that fails."""
    failing = keeper.folder / "failing"
    failing.mkdir()
    for arguments, said in (
        (sources(a=servers[0].url, b=servers[1].url_of("export/none")), "/b"),
        (sources(a=servers[0].url, **{"a/b": servers[1].url}), "none may lie at or inside another"),
        ([servers[0].url, *sources(a=servers[1].url)], "expected SOURCE TARGET, or TARGET --source"),
    ):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            keeper.efc("mount", str(failing), *arguments)
        assert said in refused.value.stderr
    assert len(keeper.efc("status").splitlines()) == 2
    with pytest.raises(subprocess.CalledProcessError) as refused:
        keeper.efc("mount", servers[0].url, str(target))
    assert "is mounted with another value of: source" in refused.value.stderr
    failing.rmdir()
