"""Who may do what: several users, supplementary groups, root squash, a read-only mount and export."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conformance.posix.children import User, in_child
from tests.support.keeper import Keeper
from tests.support.mounts import mounts_below
from tests.support.nas import Nas

OWNER = User(uid=1001, gid=1001)
MEMBER = User(uid=1002, gid=1002, groups=(1002, 3000, 3001))
STRANGER = User(uid=1003, gid=1003, groups=(1003, 3002))
SECOND_MEMBER = User(uid=1004, gid=1004, groups=tuple(range(3000, 3014)))
MANY_GROUPS = User(uid=1005, gid=1005, groups=(*range(4000, 4060), 3000))


def group_folder(folder: Path, *, mode: int = 0o2770) -> Path:
    """A folder of OWNER that group 3000 may use."""
    path = folder / "group"
    path.mkdir()
    os.chown(path, OWNER.uid, 3000)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("member", [MEMBER, SECOND_MEMBER], ids=["two groups", "fourteen groups"])
def test_supplementary_group_opens_a_directory(folder: Path, member: User) -> None:
    path = group_folder(folder)
    (path / "file").write_text("for the group")
    assert in_child(lambda: os.listdir(path), user=member) == ["file"]
    assert in_child((path / "file").read_text, user=member) == "for the group"
    in_child(lambda: (path / "new").write_text("of a member"), user=member)
    assert (path / "new").stat().st_uid == member.uid


def test_stranger_is_refused_whatever_the_cache_holds(folder: Path) -> None:
    path = group_folder(folder)
    secret = path / "secret"
    secret.write_text("secret")
    assert in_child(secret.read_text, user=MEMBER) == "secret"
    for attempt in (
        secret.read_text,
        lambda: os.listdir(path),
        lambda: (path / "x").touch(),
        secret.stat,
        secret.unlink,
    ):
        with pytest.raises(PermissionError):
            in_child(attempt, user=STRANGER)


def test_group_read_only_file(folder: Path) -> None:
    path = group_folder(folder, mode=0o750)
    (path / "file").write_text("read me")
    os.chown(path / "file", OWNER.uid, 3000)
    (path / "file").chmod(0o640)
    assert in_child((path / "file").read_text, user=MEMBER) == "read me"
    with pytest.raises(PermissionError):
        in_child(lambda: (path / "file").write_text("changed"), user=MEMBER)
    with pytest.raises(PermissionError):
        in_child(lambda: (path / "new").touch(), user=MEMBER)


def test_two_members_at_once_keep_their_names(folder: Path) -> None:
    path = group_folder(folder, mode=0o2777)
    for user in (OWNER, MEMBER, STRANGER, SECOND_MEMBER):
        in_child(lambda user=user: (path / str(user.uid)).mkdir(), user=user)  # type: ignore[misc]
    for user in (OWNER, MEMBER, STRANGER, SECOND_MEMBER):
        assert (path / str(user.uid)).stat().st_uid == user.uid


def test_more_groups_than_auth_sys_can_carry(mounted_folder: Path) -> None:
    """RFC 5531 allows 16: the rights of the first ones hold."""
    path = group_folder(mounted_folder)
    os.chown(path, OWNER.uid, MANY_GROUPS.groups[0])
    path.chmod(0o770)
    assert in_child(lambda: os.listdir(path), user=MANY_GROUPS) == []


def test_descriptor_keeps_the_right_it_was_opened_with(folder: Path) -> None:
    path = folder / "file"
    path.write_text("before")
    path.chmod(0o666)

    def write_after_chmod() -> str:
        with path.open("r+") as file:
            os.chmod(path, 0o400)
            file.write("AFTER!")
            file.flush()
            os.fsync(file.fileno())
        return path.read_text()

    os.chown(path, OWNER.uid, OWNER.gid)
    assert in_child(write_after_chmod, user=OWNER) == "AFTER!"


def test_chmod_and_chown_belong_to_the_owner(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    os.chown(path, OWNER.uid, OWNER.gid)
    in_child(lambda: path.chmod(0o640), user=OWNER)
    for attempt in (
        lambda: path.chmod(0o777),
        lambda: os.chown(path, MEMBER.uid, -1),
        lambda: os.chown(path, -1, 3000),
    ):
        with pytest.raises(PermissionError):
            in_child(attempt, user=MEMBER)
    with pytest.raises(PermissionError):
        in_child(lambda: os.chown(path, MEMBER.uid, -1), user=OWNER)
    os.chown(path, MEMBER.uid, MEMBER.gid)
    in_child(lambda: os.chown(path, -1, 3001), user=MEMBER)
    assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (3001, 0o640)


def test_chown_and_write_clear_set_user_id(folder: Path) -> None:
    path = folder / "file"
    path.write_text("program")
    os.chown(path, OWNER.uid, 3000)
    path.chmod(0o6777)
    in_child(lambda: path.write_text("changed"), user=MEMBER)
    assert path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID) == 0


def test_set_group_id_directory_gives_its_group(folder: Path) -> None:
    path = group_folder(folder)

    def make() -> None:
        (path / "file").touch()
        (path / "sub").mkdir()
        os.symlink("file", path / "link")

    in_child(make, user=MEMBER)
    assert {name: (path / name).lstat().st_gid for name in ("file", "sub", "link")} == {
        "file": 3000,
        "sub": 3000,
        "link": 3000,
    }
    assert (path / "sub").stat().st_mode & stat.S_ISGID
    assert not (path / "file").stat().st_mode & stat.S_ISGID


def test_umask(folder: Path) -> None:
    def make() -> None:
        os.umask(0o027)
        os.close(os.open(folder / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(folder / "sub", 0o777)
        os.mkfifo(folder / "fifo", 0o666)

    in_child(make)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"file": 0o640, "sub": 0o750, "fifo": 0o640}


def test_sticky_directory(folder: Path) -> None:
    folder.chmod(0o1777)
    in_child(lambda: (folder / "mine").touch(), user=OWNER)
    with pytest.raises(PermissionError):
        in_child((folder / "mine").unlink, user=STRANGER)
    in_child((folder / "mine").unlink, user=OWNER)


def test_created_read_only_file_can_be_written_by_its_maker(folder: Path) -> None:
    folder.chmod(0o777)

    def make() -> str:
        file = os.open(folder / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400)
        os.write(file, b"written through the first descriptor")
        os.fsync(file)
        text = os.pread(file, 100, 0).decode()
        os.close(file)
        return text

    assert in_child(make, user=OWNER) == "written through the first descriptor"


def test_root_is_squashed(nas: Nas, keeper: Keeper, mounted_folder: Path) -> None:
    """Nothing that root may do elsewhere passes: not from a warm cache either, and the server has the last word."""
    private = mounted_folder / "private"
    private.mkdir()
    os.chown(private, OWNER.uid, OWNER.gid)
    private.chmod(0o700)
    in_child(lambda: (private / "file").write_text("of one user"), user=OWNER)
    mounted_folder.chmod(0o777)
    with keeper.mounted(nas.url_of("squashed")) as squashed:
        path = squashed / mounted_folder.name
        file = path / "private" / "file"
        assert in_child(file.read_text, user=OWNER) == "of one user"
        for attempt in (
            file.read_text,
            lambda: os.listdir(path / "private"),
            lambda: file.write_text("x"),
            file.unlink,
        ):
            with pytest.raises(PermissionError):
                in_child(attempt)
        (path / "by-root").touch()
        with suppress(PermissionError):  # some servers take 0 for their anonymous user here too
            os.chown(path / "by-root", 0, 0)
        behind = (nas.export_folder() / mounted_folder.name / "by-root").stat()
        assert behind.st_uid not in (0, OWNER.uid)
        assert (path / "by-root").stat().st_uid == behind.st_uid


def test_squashed_root_does_nothing_below_a_directory_of_another_user(
    nas: Nas, keeper: Keeper, mounted_folder: Path
) -> None:
    """The server cannot know by which path a call came; everything in the directory would be allowed to anybody."""
    private = mounted_folder / "private"
    mounted_folder.chmod(0o777)

    def prepare() -> None:
        os.umask(0)
        private.mkdir(0o700)
        (private / "open").mkdir(0o777)
        (private / "open" / "empty").mkdir(0o777)
        (private / "open" / "file").write_text("of one user")
        (private / "open" / "file").chmod(0o666)
        os.symlink("file", private / "open" / "link")

    os.chown(mounted_folder, OWNER.uid, OWNER.gid)
    in_child(prepare, user=OWNER)
    # Names are trusted for so long that root finds all of them in the kernel's memory.
    with keeper.mounted(nas.url_of("squashed"), options=("entry-ttl=60s", "attr-ttl=60s")) as squashed:
        path = squashed / mounted_folder.name
        inner = path / "private" / "open"
        file = inner / "file"

        def warm_up() -> None:
            for entry in (inner, inner / "empty", file):
                entry.stat()
            os.readlink(inner / "link")

        in_child(warm_up, user=OWNER)
        (path / "mine").touch()
        operations: dict[str, Callable[[], object]] = {
            "link out": lambda: os.link(file, path / "linked"),
            "link in": lambda: os.link(path / "mine", inner / "linked"),
            "truncate": lambda: os.truncate(file, 0),
            "utime": lambda: os.utime(file),
            "readlink": lambda: os.readlink(inner / "link"),
            "create": lambda: os.close(os.open(inner / "new", os.O_CREAT | os.O_WRONLY, 0o600)),
            "create exclusively": lambda: os.close(os.open(inner / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)),
            "mkdir": lambda: os.mkdir(inner / "new"),
            "mkfifo": lambda: os.mkfifo(inner / "new"),
            "symlink": lambda: os.symlink("file", inner / "new"),
            "rename within": lambda: os.rename(file, inner / "new"),
            "rename out": lambda: os.rename(file, path / "moved"),
            "rename in": lambda: os.rename(path / "mine", inner / "new"),
            "look up": lambda: (inner / "unknown").stat(),
            "open": file.read_text,
            "list": lambda: os.listdir(inner),
            "unlink": lambda: os.unlink(file),
            "rmdir": lambda: os.rmdir(inner / "empty"),
        }
        refused = {}
        for name, operation in operations.items():
            try:
                in_child(operation)
            except OSError as error:
                refused[name] = error.errno
        assert refused == dict.fromkeys(operations, errno.EACCES)
        assert in_child(lambda: sorted(os.listdir(inner)), user=OWNER) == ["empty", "file", "link"]
        assert in_child(file.read_text, user=OWNER) == "of one user"
        assert sorted(os.listdir(path)) == ["mine", "private"]


def test_root_keeps_what_it_had_open(nas: Nas, keeper: Keeper, mounted_folder: Path) -> None:
    """A path that is closed after the open closes no file."""
    path = mounted_folder / "directory"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    (path / "file").write_text("content")
    (path / "file").chmod(0o666)
    os.chown(path, OWNER.uid, OWNER.gid)
    with keeper.mounted(nas.url_of("squashed"), options=("entry-ttl=0s", "attr-ttl=0s")) as squashed:
        here = squashed / mounted_folder.name / "directory"
        with (here / "file").open("r+") as file:
            (nas.export_folder() / mounted_folder.name / "directory").chmod(0o700)
            with pytest.raises(PermissionError):
                (here / "file").stat()
            assert os.fstat(file.fileno()).st_size == len("content")
            os.ftruncate(file.fileno(), 3)
            assert file.read() == "con"


@pytest.mark.parametrize("is_new_daemon", [False, True], ids=["", "after a kill"])
def test_a_refused_look_up_takes_no_mount_away(
    nas: Nas, keeper: Keeper, mounted_folder: Path, *, is_new_daemon: bool
) -> None:
    """Root may not look into another user's directory, in which something is mounted."""
    private = mounted_folder / "private"
    mounted_folder.chmod(0o755)
    (private / "mounted").mkdir(parents=True)
    for path in (private, private / "mounted"):
        os.chown(path, OWNER.uid, OWNER.gid)
    with keeper.mounted(nas.url_of("squashed"), options=("entry-ttl=0s",)) as squashed:
        path = squashed / mounted_folder.name / "private" / "mounted"
        path.stat()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
        try:
            private.chmod(0o700)
            if is_new_daemon:
                keeper.replace_daemon(squashed)
            with suppress(PermissionError):
                path.stat()
            with pytest.raises(PermissionError):
                (squashed / mounted_folder.name / "private" / "unknown").stat()
            assert [mount.kind for mount in mounts_below(path)] == ["tmpfs"]
        finally:
            private.chmod(0o755)
            if mounts_below(path):
                subprocess.run(["umount", str(path)], check=True)


def test_read_only_mount(nas: Nas, keeper: Keeper, mounted_folder: Path) -> None:
    (mounted_folder / "file").write_text("read me")
    with keeper.mounted(nas.url, options=("ro",)) as read_only:
        check_read_only(read_only / mounted_folder.name, refusals=(errno.EROFS,))


def test_read_only_export(nas: Nas, keeper: Keeper, mounted_folder: Path) -> None:
    (mounted_folder / "file").write_text("read me")
    with keeper.mounted(nas.url_of("read-only")) as read_only:
        # The server may say so when it is asked for access, before it is asked for a change.
        check_read_only(read_only / mounted_folder.name, refusals=(errno.EROFS, errno.EACCES))


def check_read_only(path: Path, *, refusals: tuple[int, ...]) -> None:
    """Reading works, and every change is refused."""
    file = path / "file"
    assert file.read_text() == "read me"
    changes = {
        "write": lambda: file.write_text("x"),
        "create": lambda: (path / "new").touch(),
        "mkdir": lambda: (path / "sub").mkdir(),
        "unlink": file.unlink,
        "rename": lambda: file.rename(path / "other"),
        "link": lambda: os.link(file, path / "other"),
        "symlink": lambda: os.symlink("file", path / "link"),
        "chmod": lambda: file.chmod(0o600),
        "truncate": lambda: os.truncate(file, 0),
        "utimes": lambda: os.utime(file, (0, 0)),
        "mkfifo": lambda: os.mkfifo(path / "fifo"),
    }
    for name, change in changes.items():
        with pytest.raises(OSError) as failure:
            change()
        assert failure.value.errno in refusals, name
