"""What a node knows of names: the calls that it saves, and what another node has changed meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.nodes import two_nodes
from tests.support.processes import wait_until

#: For how long what is known is trusted at least, as an option and in seconds.
TTL, TTL_S = "1s", 1.0
OPTIONS = (f"attr-ttl={TTL}", f"entry-ttl={TTL}")
BATCH = 40
#: A mount, and what counts the calls to the NAS of something that is done there.
Counted = tuple[Path, Callable[[Callable[[], object]], int]]


@contextmanager
def nodes() -> Iterator[tuple[Path, Path]]:
    """The mounts of a NAS of its own."""
    with Nas() as nas, two_nodes(nas.url, options=OPTIONS) as mounts:
        yield mounts


@pytest.fixture(scope="module")
def counted() -> Iterator[Counted]:
    """A mount, and how many calls to the NAS something takes there."""
    with (
        Nas() as nas,
        Keeper() as keeper,
        keeper.mounted(nas.url, options=("attr-ttl=600s", "entry-ttl=600s")) as mount,
    ):

        def calls(act: Callable[[], object]) -> int:
            before = keeper.status(mount)["stats"]["nfs"]["calls"]
            act()
            return int(keeper.status(mount)["stats"]["nfs"]["calls"]) - before

        yield mount, calls


def create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def per_name(directory: Path, act: Callable[[Path], object]) -> Callable[[], None]:
    """Does something with each of the batch's names."""

    def acting() -> None:
        for number in range(BATCH):
            act(directory / str(number))

    return acting


def test_calls_in_a_directory_that_the_node_has_made(counted: Counted) -> None:
    """Nothing is asked that the node knows by itself."""
    mount, calls = counted
    own = mount / "own"
    own.mkdir()
    create(own / "file")
    made = {
        "create": (per_name(own, create), 2),
        "unlink": (per_name(own, os.unlink), 1),
        "mkdir": (per_name(own, os.mkdir), 1),
        "rename": (per_name(own, lambda path: os.rename(path, f"{path}-renamed")), 1),
        "rmdir": (per_name(own, lambda path: os.rmdir(f"{path}-renamed")), 1),
        "symlink": (per_name(own, lambda path: os.symlink("to", path)), 1),
        # The kernel asks for what it replaces, and the answer to a rename says nothing of that.
        "replace": (per_name(own, lambda path: os.rename(path, own / "target")), 2),
        "link": (per_name(own, lambda path: os.link(own / "file", path)), 1),
        "missing": (per_name(own, lambda path: os.path.lexists(f"{path}-missing")), 0),
    }
    found = {name: calls(act) for name, (act, _) in made.items()}
    assert {name: round(count / BATCH) for name, count in found.items()} == {
        name: expected for name, (_, expected) in made.items()
    }, found


def test_calls_of_a_listing(counted: Counted) -> None:
    """It is read once; what it does not have is known not to be there."""
    mount, calls = counted
    folder = mount / "listed"
    folder.mkdir()
    for number in range(300):
        create(folder / str(number))
    time.sleep(TTL_S)  # the version of the directory is settled
    sorted(os.listdir(folder))
    assert calls(lambda: sorted(os.listdir(folder))) == 0
    assert calls(lambda: [entry.stat() for entry in os.scandir(folder)]) == 0
    assert os.path.lexists(folder / "first") is False
    assert calls(lambda: [os.path.lexists(folder / f"missing-{number}") for number in range(100)]) == 0


@pytest.mark.parametrize("is_own", [True, False])
def test_who_waits_for_a_file_of_another_node_sees_it(*, is_own: bool) -> None:
    with nodes() as (here, elsewhere):
        ((here if is_own else elsewhere) / "folder").mkdir()
        for number in range(5):
            (here / "folder" / f"ours-{number}").write_text("")
            os.listdir(here / "folder")
            done = here / "folder" / f"done-{number}"
            assert not done.exists()
            (elsewhere / "folder" / f"done-{number}").write_text("done")
            wait_until(done.exists, what="the file of the other node", limit_s=20 * TTL_S)
            assert done.read_text() == "done"


def test_listings_follow_another_node() -> None:
    with nodes() as (here, elsewhere):
        (elsewhere / "folder").mkdir()
        for number in range(10):
            (elsewhere / "folder" / str(number)).write_text("")
            time.sleep(TTL_S * 1.1)
            assert sorted(os.listdir(here / "folder")) == [str(known) for known in range(number + 1)]
        for number in range(10):
            (elsewhere / "folder" / str(number)).unlink()
        time.sleep(TTL_S * 1.1)
        assert os.listdir(here / "folder") == []


def is_listed(mount: Path, number: int) -> bool:
    return str(number) in os.listdir(mount / "folder")


def test_a_directory_that_another_node_makes_anew_is_listed() -> None:
    with nodes() as (here, elsewhere):
        for number in range(20):
            folder = elsewhere / "folder"
            folder.mkdir()
            (folder / str(number)).write_text("")
            if number == 0:
                assert os.listdir(here / "folder") == ["0"]
            else:
                wait_until(partial(is_listed, here, number), what="the new directory", limit_s=20 * TTL_S)
            (folder / str(number)).unlink()
            folder.rmdir()


def test_files_that_another_node_puts_under_a_known_name_are_opened() -> None:
    with nodes() as (here, elsewhere):
        (elsewhere / "file").write_text("first")
        for number in range(50):
            (here / "file").stat()
            (elsewhere / "new").write_text(f"content {number}")
            (elsewhere / "new").rename(elsewhere / "file")
            assert (here / "file").read_text() == f"content {number}"


def test_a_file_that_another_node_has_made_unseen_is_truncated() -> None:
    """For the kernel here it is new, so it leaves that to whoever makes it."""
    with nodes() as (here, elsewhere):
        for number in range(20):
            assert not (here / str(number)).exists()
            (elsewhere / str(number)).write_text("longer than what comes")
            (here / str(number)).write_text("short")
            assert (elsewhere / str(number)).read_text() == "short"


@pytest.mark.parametrize("flags", [0, os.O_TRUNC])
def test_a_link_that_another_node_has_made_unseen_is_followed_by_an_open_that_would_make_a_file(flags: int) -> None:
    """The kernel here knows of no such name, and asks for a new file."""
    with nodes() as (here, elsewhere):
        assert not any((here / name).exists() for name in ("link", "pipe", "directory"))
        (elsewhere / "target").write_text("as it was")
        (elsewhere / "link").symlink_to("target")
        os.mkfifo(elsewhere / "pipe")
        (elsewhere / "directory").mkdir()
        descriptor = os.open(here / "link", os.O_CREAT | os.O_WRONLY | flags)
        os.write(descriptor, b"mine")
        os.close(descriptor)
        assert (elsewhere / "target").read_text() == ("mine" if flags else "mine" + "as it was"[4:])
        os.close(os.open(here / "pipe", os.O_CREAT | os.O_RDWR | flags))
        with pytest.raises(IsADirectoryError):
            os.open(here / "directory", os.O_CREAT | os.O_WRONLY | flags)
        (elsewhere / "other").symlink_to("target")
        with pytest.raises(FileExistsError):
            os.open(here / "other", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
