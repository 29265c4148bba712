"""What each consistency mode promises: the examples of "Consistency between nodes" in docs/SEMANTICS.md.

An outside writer takes part in each: another node, or a process on the NAS itself.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.consistency.conftest import Node, World
from tests.conformance.posix.children import User, in_child

OWNER = User(uid=1001, gid=1001)
OTHER = User(uid=1002, gid=1002)
#: The last of the 20 groups is beyond what AUTH_SYS carries.
MANY_GROUPS = User(uid=1003, gid=1003, groups=tuple(range(3000, 3020)))
#: No limit is looked at before the end of a test that sleeps for less than this.
LONG = ("consistency=bounded", "attr-ttl=10m")
T_S = 2.0
SHORT = ("consistency=bounded", f"attr-ttl={int(T_S * 1000)}ms")
#: Longer than a tick of the NAS's clock, and than its clock is behind.
SETTLED_S = 1.5


def make_files(world: World) -> None:
    """A directory with a small and a large file, whose versions are settled."""
    folder = world.folder / "dir"
    folder.mkdir()
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(bytes(3_000_000))
    time.sleep(SETTLED_S)


def use_all(mount: Path) -> None:
    """Whatever is done with files that nobody changes."""
    folder = mount / "dir"
    assert sorted(os.listdir(folder)) == ["large", "small"]
    with os.scandir(folder) as entries:
        assert sorted(entry.stat().st_size for entry in entries) == [5, 3_000_000]
    assert (folder / "small").read_bytes() == b"small"
    assert len((folder / "large").read_bytes()) == 3_000_000
    assert not (folder / "nothing").exists()


def until_known(use: Callable[[], object]) -> None:
    """Does something until what it needs is known and settled."""
    for _ in range(3):
        use()
        time.sleep(0.1)


def calls_of(node: Node, use: Callable[[], None]) -> int:
    """The calls that something takes, once it has been done three times."""
    until_known(use)
    before = node.calls()
    use()
    return node.calls() - before


def eventually(is_so: Callable[[], bool], *, within_s: float) -> None:
    """Waits until something is so, which it must be within a time (and what a busy machine needs)."""
    end = time.monotonic() + within_s + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("options", [(), SHORT, ("consistency=sealed",)], ids=["cto", "bounded", "sealed"])
def test_a_change_on_the_node_is_seen_there_at_once(world: World, options: tuple[str, ...]) -> None:
    node = world.node(*options)
    path = node.mount / "file"
    for number in range(20):
        path.write_bytes(b"%d" % number)
        assert path.read_bytes() == b"%d" % number
        assert path.stat().st_size == len(b"%d" % number)
        path.rename(node.mount / "other")
        assert sorted(os.listdir(node.mount)) == ["other"]
        assert not path.exists()
        (node.mount / "other").unlink()
        assert os.listdir(node.mount) == []


@pytest.mark.parametrize("where", ["another node", "the NAS itself"])
def test_in_close_to_open_an_open_sees_what_was_closed_before(world: World, where: str) -> None:
    make_files(world)
    node = world.node()
    writer = world.folder if where == "the NAS itself" else world.node().mount
    for number in range(20):
        (writer / "dir" / "small").write_bytes(b"%d" % number)
        assert (node.mount / "dir" / "small").read_bytes() == b"%d" % number
        with (writer / "dir" / "large").open("r+b") as file:
            file.write(b"%d" % number)
        assert (node.mount / "dir" / "large").read_bytes().startswith(b"%d" % number)


def test_in_close_to_open_attributes_are_trusted_the_longer_the_longer_they_have_not_changed(world: World) -> None:
    make_files(world)
    node = world.node("attr-ttl=1s", "attr-ttl-max=8s", "entry-ttl=60s")  # root's path is asked for by the latter
    path = node.mount / "dir" / "small"
    with path.open("rb") as held:
        before = node.calls()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert os.fstat(held.fileno()).st_size == 5
            time.sleep(0.1)
        asked = node.calls() - before
        assert asked <= 15, f"{asked} calls in 30 s: after 1, 2, 4 and 8 s, and then each 8 s"
        (world.folder / "dir" / "small").write_bytes(b"longer")
        eventually(lambda: os.fstat(held.fileno()).st_size == 6, within_s=8)


def test_in_close_to_open_a_right_that_is_taken_away_ends_at_the_next_open(world: World) -> None:
    make_files(world)
    node = world.node("attr-ttl=10m", "attr-ttl-max=10m")
    path = node.mount / "dir" / "large"
    assert len(in_child(path.read_bytes, user=OTHER)) == 3_000_000
    (world.folder / "dir" / "large").chmod(0o600)
    with pytest.raises(PermissionError):
        in_child(path.read_bytes, user=OTHER)


@pytest.mark.parametrize("mode", [LONG, ("consistency=sealed",)], ids=["bounded", "sealed"])
def test_what_was_validated_costs_no_call(world: World, mode: tuple[str, ...]) -> None:
    make_files(world)
    node = world.node(*mode)
    assert calls_of(node, lambda: use_all(node.mount)) == 0


@pytest.mark.parametrize("where", ["another node", "the NAS itself"])
def test_within_a_bound_what_is_given_is_not_older_than_it(world: World, where: str) -> None:
    """Data of a file that stays open, and of one that is opened anew; sizes; names that come and go; listings."""
    make_files(world)
    node = world.node(*SHORT)
    writer = world.folder if where == "the NAS itself" else world.node().mount
    folder, there = node.mount / "dir", writer / "dir"
    with (folder / "large").open("rb", buffering=0) as held:
        for number in range(1, 4):
            use = (folder / "small").read_bytes(), os.pread(held.fileno(), 10, 0), os.listdir(folder)
            assert use
            (there / "small").write_bytes(b"%d" % number * 10)
            with (there / "large").open("r+b") as file:
                file.write(b"%d" % number * 10)
            (there / f"name-{number}").touch()
            if number > 1:
                (there / f"name-{number - 1}").unlink()
            time.sleep(T_S)
            assert (folder / "small").read_bytes() == b"%d" % number * 10
            assert (folder / "small").stat().st_size == 10
            assert os.pread(held.fileno(), 10, 0) == b"%d" % number * 10
            assert sorted(os.listdir(folder)) == ["large", f"name-{number}", "small"]
            assert (folder / f"name-{number}").exists()
            assert not (folder / f"name-{number - 1}").exists()


def test_within_a_bound_a_change_elsewhere_may_be_seen_that_late(world: World) -> None:
    make_files(world)
    node = world.node(*LONG)
    path = node.mount / "dir" / "small"
    until_known(path.read_bytes)
    (world.folder / "dir" / "small").write_bytes(b"SMALL")
    assert path.read_bytes() == b"small"


def test_within_a_bound_a_scan_validates_a_directory_at_a_time(world: World) -> None:
    folder = world.folder / "many"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}").touch()
    time.sleep(SETTLED_S)
    node = world.node(*SHORT)

    def scan() -> None:
        with os.scandir(node.mount / "many") as entries:
            assert sum(entry.stat().st_nlink for entry in entries) == 400

    scan()
    time.sleep(T_S)
    before = node.calls()
    scan()
    asked = node.calls() - before
    assert asked <= 20, f"{asked} calls for 400 files"


def test_within_a_bound_each_user_asks_for_itself(world: World) -> None:
    make_files(world)
    secret = world.folder / "dir" / "small"
    os.chown(secret, OWNER.uid, OWNER.gid)
    secret.chmod(0o600)
    node = world.node(*LONG)
    path = node.mount / "dir" / "small"
    for _ in range(3):
        assert in_child(path.read_bytes, user=OWNER) == b"small"
    with pytest.raises(PermissionError):
        in_child(path.read_bytes, user=OTHER)
    assert path.stat().st_size == 5


def test_within_a_bound_a_squashed_root_gets_nothing_that_others_opened(world: World) -> None:
    """The kernel lets root through; the NAS does not."""
    make_files(world)
    secret = world.folder / "dir" / "small"
    os.chown(secret, OWNER.uid, OWNER.gid)
    secret.chmod(0o600)
    for mode in (LONG, ("consistency=sealed",)):
        node = world.node(*mode, export="squashed")
        path = node.mount / "dir" / "small"
        for _ in range(3):
            assert in_child(path.read_bytes, user=OWNER) == b"small"
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY):
            with pytest.raises(PermissionError):
                os.open(path, flags)


def test_within_a_bound_the_nas_decides_of_a_user_with_many_groups(world: World) -> None:
    """AUTH_SYS carries 16 groups: what the kernel would allow for the last of 20, the NAS refuses, first and later."""
    make_files(world)
    for name, group in (("small", MANY_GROUPS.groups[0]), ("large", MANY_GROUPS.groups[-1])):
        os.chown(world.folder / "dir" / name, OWNER.uid, group)
        (world.folder / "dir" / name).chmod(0o040)
    node = world.node(*LONG)
    for _ in range(3):
        assert in_child((node.mount / "dir" / "small").read_bytes, user=MANY_GROUPS) == b"small"
        with pytest.raises(PermissionError):
            in_child((node.mount / "dir" / "large").read_bytes, user=MANY_GROUPS)


@pytest.mark.parametrize("where", ["the NAS itself", "the node"])
def test_within_a_bound_a_right_that_is_taken_away_ends(world: World, where: str) -> None:
    """After the bound if it was taken away elsewhere, at once if it was on the node."""
    make_files(world)
    node = world.node(*(SHORT if where == "the NAS itself" else LONG))
    path = node.mount / "dir" / "small"
    for _ in range(3):
        assert in_child(path.read_bytes, user=OTHER) == b"small"
    if where == "the node":
        path.chmod(0o600)
    else:
        (world.folder / "dir" / "small").chmod(0o600)
        time.sleep(T_S)
    with pytest.raises(PermissionError):
        in_child(path.read_bytes, user=OTHER)


def test_within_a_bound_a_file_that_was_removed_elsewhere_can_be_opened_that_long(world: World) -> None:
    make_files(world)
    node = world.node(*SHORT)
    path = node.mount / "dir" / "large"
    for _ in range(3):
        path.read_bytes()
    (world.folder / "dir" / "large").unlink()
    try:
        path.read_bytes()
    except OSError as error:
        assert error.errno in (errno.ENOENT, errno.ESTALE)
    time.sleep(T_S)
    with pytest.raises(FileNotFoundError):
        path.open("rb")


def test_what_is_sealed_is_asked_for_again_when_the_daemon_is_replaced(world: World) -> None:
    make_files(world)
    node = world.node("consistency=sealed", "attr-ttl-max=1s")
    path = node.mount / "dir" / "small"
    until_known(lambda: use_all(node.mount))
    (world.folder / "dir" / "small").write_bytes(b"SMALL")
    time.sleep(2)
    assert path.read_bytes() == b"small", "nobody said that it would change"
    node.keeper.efc("upgrade", str(node.mount))
    eventually(lambda: path.read_bytes() == b"SMALL", within_s=1)


def test_the_mode_is_shown_and_stays_until_the_dataset_is_mounted_anew(world: World) -> None:
    bounded, default = world.node(*SHORT), world.node("ro")
    assert bounded.keeper.status(bounded.mount)["consistency"] == "bounded"
    assert "bounded" in bounded.keeper.efc("status")
    assert default.keeper.status(default.mount)["consistency"] == "cto"
    assert "consistency=bounded" in default.keeper.status(default.mount)["suggestion"]
    assert bounded.keeper.status(bounded.mount)["suggestion"] is None
    with pytest.raises(subprocess.CalledProcessError) as caught:
        bounded.keeper.efc("upgrade", str(bounded.mount), "-o", "consistency=cto")
    assert "cannot change" in caught.value.stderr
