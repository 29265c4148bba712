"""git, rsync, tar and cp: a tree goes there and back, and is the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.foreign.places import Place, run
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of many sizes and modes, links of both kinds, sparse files, odd names and old times."""
    folder = tmp_path_factory.mktemp("tree") / "tree"
    folder.mkdir()
    for number in range(200):
        path = folder / f"d{number % 7}" / f"file {number} \u00e9"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(number * 211))
        path.chmod(0o600 | number % 0o100)
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_003))
    (folder / "link").symlink_to("d1/nowhere")
    (folder / "hard").hardlink_to(folder / "d1" / "file 1 \u00e9")
    os.mkfifo(folder / "pipe")
    (folder / "owned").touch()
    os.chown(folder / "owned", 1234, 4321)
    with (folder / "sparse").open("wb") as file:
        file.seek(40 << 20)
        file.write(b"end")
    (folder / "empty").mkdir(mode=0o711)
    return folder


def the_same(one: Path, other: Path) -> None:
    """By rsync's own eyes: content, modes, owners, times of files and directories, links.

    Not the times of symbolic links, which Ganesha takes and does not set.
    """
    found = run("rsync", "-aHnic", "--delete", "--omit-link-times", f"{one}/", f"{other}/")
    assert found == "", found


def test_rsync(place: Place, tree: Path) -> None:
    def work(folder: Path) -> None:
        run("rsync", "-aHS", f"{tree}/", folder / "copy")
        the_same(tree, folder / "copy")
        (folder / "copy" / "d1" / "file 1 \u00e9").write_text("changed")
        run("rsync", "-aHc", "--inplace", "--delete", f"{tree}/", folder / "copy")
        the_same(tree, folder / "copy")

    place.work(work)


def test_tar(place: Place, tree: Path, tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        run("tar", "-cSf", folder / "tree.tar", "-C", tree.parent, tree.name)
        (folder / "out").mkdir()
        run("tar", "-xpf", folder / "tree.tar", "-C", folder / "out")
        the_same(tree, folder / "out" / tree.name)
        run("tar", "-czf", tmp_path / "back.tar.gz", "-C", folder / "out", tree.name)
        run("tar", "-xpf", tmp_path / "back.tar.gz", "-C", tmp_path)
        the_same(tree, tmp_path / tree.name)
        run("tar", "--diff", "-f", folder / "tree.tar", "-C", folder / "out")
        shutil.rmtree(tmp_path / tree.name)

    place.work(work)


def test_cp(place: Place, tree: Path) -> None:
    def work(folder: Path) -> None:
        run("cp", "-a", tree, folder / "copy")
        the_same(tree, folder / "copy")
        run("mv", folder / "copy", folder / "moved")
        run("cp", "-a", "--reflink=auto", folder / "moved", folder / "copy")
        run("diff", "-r", "--no-dereference", "--exclude=pipe", tree, folder / "copy")
        run("rm", "-r", folder / "moved", folder / "copy")
        assert os.listdir(folder) == []

    place.work(work)


def test_git(place: Place, tmp_path: Path) -> None:
    safe = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}

    def work(folder: Path) -> None:
        def git(*arguments: str | Path, cwd: Path) -> str:
            return run("git", "-c", "user.name=n", "-c", "user.email=e@x", *arguments, cwd=cwd, environment=safe)

        git("clone", "--quiet", "--no-local", ROOT, folder / "clone", cwd=folder)
        clone = folder / "clone"
        git("checkout", "--quiet", "-b", "other", "HEAD~10", cwd=clone)
        (clone / "README.md").write_text("changed\n")
        git("commit", "--quiet", "-am", "change", cwd=clone)
        git("checkout", "--quiet", "-", cwd=clone)
        git("merge", "--quiet", "-X", "theirs", "-m", "merge", "other", cwd=clone)
        git("stash", "--include-untracked", cwd=clone)
        git("gc", "--quiet", "--aggressive", "--prune=now", cwd=clone)
        git("worktree", "add", "--quiet", folder / "worktree", "other", cwd=clone)
        git("fsck", "--full", "--strict", cwd=clone)
        assert git("status", "--porcelain", cwd=clone) == ""

    place.work(work)
