"""Files that are asked for before they are opened: what the NAS is asked for that, and that all read what is there."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.nas import Nas
from tests.support.nodes import Node

FORK = multiprocessing.get_context("fork")
DIRECTORIES, FILES = 4, 50
#: The time of `bounded`, and when it is over.
_BOUND, _EXPIRED_S = "attr-ttl=1s", 1.2
#: A version of a file is told from others from then on.
_SETTLED_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Directories of small files, all different, at a NAS."""

    nas: Nas

    @property
    def names(self) -> list[str]:
        """All files, in the order of their directories."""
        return [f"{directory}/{file:02}" for directory in range(DIRECTORIES) for file in range(FILES)]

    def write(self, generation: int) -> None:
        """All of them, at the NAS itself."""
        for name in self.names:
            path = self.nas.export_folder() / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(self.content(name, generation))

    def content(self, name: str, generation: int) -> bytes:
        """Of one."""
        return f"{name} {generation:04} ".encode() * 200


@pytest.fixture
def tree() -> Iterator[Tree]:
    """Settled."""
    with Nas() as nas:
        tree = Tree(nas=nas)
        tree.write(1)
        time.sleep(_SETTLED_S)
        (nas.export_folder() / "clock").touch()
        yield tree


def read(path: Path) -> bytes:
    """All of a file; the kernel keeps nothing of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, 1 << 20, 0)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return data
    finally:
        os.close(descriptor)


def read_all(mount: Path, tree: Tree, seed: int, generation: int = 1) -> None:
    """Reads all files of one directory after the other, each in another order, and compares."""
    for directory in range(DIRECTORIES):
        names = tree.names[directory * FILES : (directory + 1) * FILES]
        random.Random(seed + directory).shuffle(names)
        for name in names:
            assert read(mount / name) == tree.content(name, generation)


def visit(node: Node, tree: Tree, seed: int, generation: int = 1) -> int:
    """The same, and the calls that it takes."""
    before = node.calls()
    read_all(node.mount, tree, seed, generation)
    return node.calls() - before


def outcomes(node: Node) -> dict[str, int]:
    """Of what was asked for ahead."""
    return {name: int(value) for name, value in node.keeper.status(node.mount)["stats"]["prefetch"].items()}


def test_at_random_each_file_is_asked_for_once_and_each_visit_validates_all(tree: Tree) -> None:
    """In `bounded`, when its time is over: a READ of each file, whoever asks for it, and few calls by directory."""
    with Node.mounted(tree.nas.url, options=("consistency=bounded", _BOUND)) as node:
        visit(node, tree, seed=1)
        for generation in range(2, 5):
            tree.write(generation)
            time.sleep(_SETTLED_S)
            calls = visit(node, tree, seed=10 * generation, generation=generation)
            assert calls <= DIRECTORIES * FILES * 1.3 + 20, f"{calls} calls for {DIRECTORIES * FILES} files"
        found = outcomes(node)
        assert found["directory_used"] > DIRECTORIES * FILES, found
        assert found["directory_wasted"] <= found["directory_asked"] / 10, found


def test_in_sealed_nothing_but_data_is_asked_for(tree: Tree) -> None:
    """Names, attributes and verdicts hold; the kernel has let the data go."""
    with Node.mounted(tree.nas.url, options=("consistency=sealed",)) as node:
        for seed in range(3):
            visit(node, tree, seed=100 * seed)
        calls = visit(node, tree, seed=7)
        assert calls <= DIRECTORIES * FILES * 1.1 + 10, f"{calls} calls for {DIRECTORIES * FILES} files"
        assert outcomes(node)["directory_used"] > DIRECTORIES * FILES


@pytest.mark.parametrize("options", [("prefetch=off", "consistency=bounded"), ("consistency=cto",)])
def test_off_and_in_close_to_open_nothing_is_asked_for_ahead(tree: Tree, options: tuple[str, ...]) -> None:
    """Neither in the order of the listing nor at random."""
    with Node.mounted(tree.nas.url, options=options) as node:
        for name in tree.names:
            assert read(node.mount / name) == tree.content(name, 1)
        visit(node, tree, seed=1)
        visit(node, tree, seed=2)
        assert not any(outcomes(node).values())


def test_it_is_turned_off_and_on_while_mounted(tree: Tree) -> None:
    """The option changes a daemon that goes on."""
    with Node.mounted(tree.nas.url, options=("consistency=bounded", _BOUND)) as node:
        visit(node, tree, seed=1)
        daemon = node.keeper.daemon_pid(node.mount)
        node.keeper.efc("upgrade", str(node.mount), "-o", "prefetch=off")
        before = outcomes(node)
        time.sleep(_EXPIRED_S)
        visit(node, tree, seed=2)
        assert outcomes(node)["directory_asked"] == before["directory_asked"]
        node.keeper.efc("upgrade", str(node.mount), "-o", "prefetch=auto")
        time.sleep(_EXPIRED_S)
        visit(node, tree, seed=3)
        assert outcomes(node)["directory_asked"] > before["directory_asked"]
        assert node.keeper.daemon_pid(node.mount) == daemon


def test_what_one_user_has_asked_for_opens_nothing_for_another(tree: Tree) -> None:
    """The owner of all files has them asked for; a stranger is refused each of them, before they are read and after."""
    folder = tree.nas.export_folder()
    for name in tree.names:
        os.chown(folder / name, 7001, 7001)
        os.chmod(folder / name, 0o600)
    for directory in range(DIRECTORIES):
        os.chmod(folder / str(directory), 0o755)
    with Node.mounted(tree.nas.url, options=("consistency=bounded", "attr-ttl=60s")) as node:

        def find_all_refused() -> None:
            for name in tree.names:
                with pytest.raises(PermissionError):
                    read(node.mount / name)

        for seed in range(3):
            _as(7001, partial(read_all, node.mount, tree, seed))
            _as(7002, find_all_refused)
        assert outcomes(node)["directory_used"] > 0


def _as(user: int, work: Callable[[], None]) -> None:
    """Does it in a process of this user's, who is in no group but his own."""

    def run() -> None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        work()

    process = FORK.Process(target=run)
    process.start()
    process.join(120)
    assert process.exitcode == 0, f"user {user} has failed"
