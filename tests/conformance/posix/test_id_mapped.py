"""Pods with user namespaces: an id-mapped mount as a container runtime makes it, with the mount option `idmap`.

Most accesses are checked by the kernel, whoever the NAS is told that asks. Whom it is told is seen where only the NAS
can refuse: the kernel remembers a mode that lets everybody in (`attr-ttl=3600s`), which was changed on the NAS since.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from tests.conformance.posix.children import User, all_in_children, in_child
from tests.support.id_mapped import become, become_pod, become_root_of_own_namespace
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import processes, wait_until

FIRST_ID, OTHER_FIRST_ID = 1_000_000, 2_000_000
ROOT, USER, OTHER = User(uid=0, gid=0), User(uid=1000, gid=1000, groups=(3000,)), User(uid=1001, gid=1001)
CAP_SYS_PTRACE, CAP_SYS_ADMIN = 19, 21
STATMOUNT = 457  # its number on all architectures
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def id_mapped(nas: Nas, keeper: Keeper) -> Iterator[Path]:
    """A mount that may be id-mapped."""
    with keeper.mounted(nas.url, options=("idmap", "attr-ttl=3600s", "entry-ttl=3600s")) as path:
        yield path


@pytest.fixture
def folder(id_mapped: Path, nas: Nas) -> Iterator[Path]:
    """A new directory on it that everybody may use, and the place where pods have the mount."""
    path = Path(tempfile.mkdtemp(prefix="idmap-", dir=id_mapped))
    path.chmod(0o777)
    yield path
    in_child(lambda: [entry.unlink() for entry in path.iterdir()])
    path.rmdir()


@pytest.fixture
def place(keeper: Keeper) -> Iterator[Path]:
    """Where a pod has the mount."""
    path = Path(tempfile.mkdtemp(prefix="pod-", dir=keeper.folder))
    path.chmod(0o755)
    yield path
    path.rmdir()


def in_pod(
    function: Callable[[], Result], mount: Path, *, place: Path, user: User = ROOT, first_id: int = FIRST_ID,
    keeps_plain_mounts: bool = False,
) -> Callable[[], Result]:  # fmt: skip
    """For a child: `function` as a user of a pod."""

    def run() -> Result:
        become_pod(mount, at=place, first_id=first_id, keeps_plain_mounts=keeps_plain_mounts)
        become(uid=user.uid, gid=user.gid, groups=user.groups)
        return function()

    return run


def known_to_the_nas_only(folder: Path, nas: Nas, *, owner: User, mode: int = 0o600) -> Path:
    """A file that the kernel thinks everybody may read, and the NAS knows better."""
    path = folder / "secret"
    path.write_text("secret")
    path.chmod(0o666)
    path.stat()
    behind = nas.export_folder() / folder.name / path.name
    os.chown(behind, owner.uid, owner.groups[0] if owner.groups else owner.gid)
    behind.chmod(mode)
    return path


@pytest.mark.parametrize("user", [ROOT, USER], ids=["root", "user"])
def test_files_have_the_ids_that_the_pod_sees(id_mapped: Path, folder: Path, nas: Nas, place: Path, user: User) -> None:
    there = place / folder.name

    def use() -> list[str]:
        for name in ("append", "renamed"):
            (there / name).write_text("1\n")
        with (there / "append").open("a") as file:
            for number in range(2, 5):
                file.write(f"{number}\n")
                file.flush()
        os.fsync(os.open(there / "append", os.O_RDONLY))
        assert (there / "append").read_text() == "1\n2\n3\n4\n"
        (there / "private").mkdir(0o700)
        (there / "private" / "file").write_text("x")
        os.close(os.open(there / "exclusive", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
        with pytest.raises(FileExistsError):
            os.open(there / "exclusive", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.symlink("append", there / "link")
        os.mkfifo(there / "fifo", 0o600)
        os.link(there / "append", there / "hard")
        (there / "renamed").rename(there / "private" / "renamed")
        (there / "append").chmod(0o600)
        os.truncate(there / "append", 2)
        os.utime(there / "append", (0, 0))
        return sorted(
            f"{path.relative_to(there)} {path.lstat().st_uid}:{path.lstat().st_gid}" for path in there.rglob("*")
        )

    names = ["append", "exclusive", "fifo", "hard", "link", "private", "private/file", "private/renamed"]
    expected = [f"{name} {user.uid}:{user.gid}" for name in names]
    assert in_child(in_pod(use, id_mapped, place=place, user=user)) == expected
    behind = nas.export_folder() / folder.name
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in behind.rglob("*")} == {(user.uid, user.gid)}
    assert (behind / "append").read_text() == "1\n"

    def clean() -> None:
        for name in ("file", "renamed"):
            (there / "private" / name).unlink()
        (there / "private").rmdir()

    in_child(in_pod(clean, id_mapped, place=place, user=user))


def test_chown_in_a_pod(id_mapped: Path, folder: Path, nas: Nas, place: Path) -> None:
    there, behind = place / folder.name / "file", nas.export_folder() / folder.name / "file"

    def change() -> tuple[int, int]:
        there.touch()
        os.chown(there, 1234, 2345)
        return there.stat().st_uid, there.stat().st_gid

    assert in_child(in_pod(change, id_mapped, place=place)) == (1234, 2345)
    assert (behind.stat().st_uid, behind.stat().st_gid) == (1234, 2345)
    for uid in (7, 1234):
        with pytest.raises(PermissionError):
            in_child(in_pod(partial(os.chown, there, uid, -1), id_mapped, place=place, user=OTHER))
    with pytest.raises(OSError, match="Invalid argument"):  # an id that the pod does not have
        in_child(in_pod(partial(os.chown, there, 70_000, -1), id_mapped, place=place))


def test_the_nas_is_told_the_ids_of_the_mount(id_mapped: Path, folder: Path, nas: Nas, place: Path) -> None:
    """Of a request that makes nothing too, where the kernel does not tell them: users, root and groups."""
    secret = known_to_the_nas_only(folder, nas, owner=USER, mode=0o640)
    there = place / folder.name / secret.name
    for user in (ROOT, USER, User(uid=5, gid=5, groups=(7, 3000))):
        assert in_child(in_pod(there.read_text, id_mapped, place=place, user=user)) == "secret"
    with pytest.raises(PermissionError):
        in_child(in_pod(there.read_text, id_mapped, place=place, user=OTHER))
    # Not mapped: those are other people, whose numbers happen to be those of the pod's.
    outside = User(uid=FIRST_ID + USER.uid, gid=FIRST_ID, groups=(FIRST_ID + 3000,))
    with pytest.raises(PermissionError):
        in_child(secret.read_text, user=outside)
    assert in_child(secret.read_text, user=USER) == "secret"


def test_pods_of_different_maps_at_once(id_mapped: Path, folder: Path, place: Path) -> None:
    there = place / folder.name

    def work(name: str) -> list[tuple[int, int]]:
        for _ in range(50):
            (there / name).write_text(name)
            assert (there / name).read_text() == name
        return [((there / name).stat().st_uid, (there / name).stat().st_gid)]

    first = in_pod(partial(work, "one"), id_mapped, place=place, user=USER)
    second = in_pod(partial(work, "two"), id_mapped, place=place, user=USER, first_id=OTHER_FIRST_ID)
    host = partial(in_child, lambda: (folder / "three").write_text("three"), user=OTHER)
    assert all_in_children([first, second]) == [[(1000, 1000)]] * 2
    host()
    assert {path.name: path.stat().st_uid for path in folder.iterdir()} == {"one": 1000, "two": 1000, "three": 1001}


def test_root_of_ones_own_namespace_is_no_root(id_mapped: Path, folder: Path, nas: Nas, place: Path) -> None:
    """The attack: a user makes a user namespace in which it is root, on a mount that is not id-mapped, and in a pod."""
    secret = known_to_the_nas_only(folder, nas, owner=ROOT)
    there = place / folder.name / secret.name

    def attack(path: Path) -> str:
        become_root_of_own_namespace()
        assert (os.getuid(), path.stat().st_size) == (0, len("secret"))
        made = path.with_name("made")
        made.touch()
        with suppress(PermissionError):
            os.chown(made, 0, 0)  # to itself: of the ids outside that is its own
        try:
            return path.read_text()
        except PermissionError:
            return "refused"

    outside, inside = partial(attack, secret), in_pod(partial(attack, there), id_mapped, place=place, user=USER)
    for attempt, user in ((outside, USER), (inside, None)):
        assert in_child(attempt, user=user) == "refused"
        assert (folder / "made").stat().st_uid == USER.uid
        in_child((folder / "made").unlink)
    assert in_child(in_pod(there.read_text, id_mapped, place=place)) == "secret", "the pod's root is the NAS's"


def test_a_namespace_with_both_kinds_of_mounts_maps_nobody(
    id_mapped: Path, folder: Path, nas: Nas, place: Path
) -> None:
    """Through which mount a request comes is not told, so nobody gets more than his ids outside."""
    secret = known_to_the_nas_only(folder, nas, owner=ROOT)
    for path in (secret, place / folder.name / secret.name):
        with pytest.raises(PermissionError):
            in_child(in_pod(path.read_text, id_mapped, place=place, keeps_plain_mounts=True))


def test_a_descriptor_of_a_plain_mount_gives_a_pod_nothing_more(id_mapped: Path, folder: Path, place: Path) -> None:
    """The map is that of the mounts that a pod sees; the kernel checks by the mount that is used."""
    (folder / "private").write_text("of root")
    (folder / "private").chmod(0o600)
    outside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def attack() -> None:
        os.close(os.open("made", os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=outside))
        os.open("private", os.O_RDONLY, dir_fd=outside)

    with pytest.raises(PermissionError):
        in_child(in_pod(attack, id_mapped, place=place))
    os.close(outside)
    assert (folder / "made").stat().st_uid == FIRST_ID, "the kernel tells who makes something"


def test_a_change_of_user_is_seen_at_once(id_mapped: Path, folder: Path, nas: Nas, place: Path) -> None:
    secret = known_to_the_nas_only(folder, nas, owner=ROOT)
    there = place / folder.name / secret.name

    def step_down() -> str:
        assert there.read_text() == "secret"
        become(uid=USER.uid, gid=USER.gid)
        return there.read_text()

    with pytest.raises(PermissionError):
        in_child(in_pod(step_down, id_mapped, place=place))


def test_a_successor_knows_them_too(id_mapped: Path, folder: Path, nas: Nas, keeper: Keeper, place: Path) -> None:
    secret = known_to_the_nas_only(folder, nas, owner=USER)
    there, killed = place / folder.name / secret.name, keeper.daemon_pid(id_mapped)
    helper = _helper_of(killed)
    os.kill(killed, signal.SIGKILL)
    assert in_child(in_pod(there.read_text, id_mapped, place=place, user=USER)) == "secret"
    with pytest.raises(PermissionError):
        in_child(in_pod(there.read_text, id_mapped, place=place, user=OTHER))
    wait_until(lambda: helper not in {process.pid for process in processes()}, what="the dead daemon's helper to end")
    assert _helper_of(keeper.daemon_pid(id_mapped))


def _helper_of(daemon: int) -> int:
    """Process id of the one child of a daemon, and that it has no more than the two capabilities that it needs."""
    (helper,) = (process for process in processes() if process.parent_pid == daemon)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{helper.pid}/status").read_text().splitlines())
    needed = (1 << CAP_SYS_ADMIN) | (1 << CAP_SYS_PTRACE)
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[name], 16) == needed, name
    assert (status["Uid"].split()[0], status["NoNewPrivs"]) == ("65534", "1")
    return helper.pid


def test_a_kernel_that_does_not_tell_id_maps(nas: Nas) -> None:
    """The mount fails at once and says why, instead of a container later."""
    without = [sys.executable, "-m", "tests.support.without_system_call", str(STATMOUNT)]
    with Keeper(command_prefix=without) as old:
        with pytest.raises(subprocess.CalledProcessError) as failure:
            old.mount(nas.url, options=("idmap",))
        assert "Linux 6.15" in failure.value.stderr
        with old.mounted(nas.url) as mount:
            assert mount.is_mount()
