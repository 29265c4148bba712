"""What a container runtime does for a pod with a user namespace, for a process of a test: an id-mapped mount.

The system calls are those of runc: open_tree(2), mount_setattr(2) with MOUNT_ATTR_IDMAP, move_mount(2), setns(2).
All of it happens in a child process, which it changes for good (`in_child`).
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from tests.support.mounts import all_mounts, detach

_LIBC = ctypes.CDLL(None, use_errno=True)
# The same on all architectures.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = -100, 0x1000, 1, 4
_MOUNT_ATTR_IDMAP = 0x00100000
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_PR_SET_DUMPABLE = 4

#: How many ids a pod has, as kubelet gives them out.
POD_IDS = 65_536


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user_namespace")]


def become_pod(source: Path, *, at: Path, first_id: int, keeps_plain_mounts: bool = False) -> None:
    """Makes this process one of a pod: `source` is at `at`, id-mapped as its user namespace is.

    It is the namespace's root then, `first_id` outside. No other mount of EFC is left in its mount namespace, unless
    `keeps_plain_mounts`.
    """
    user_namespace = _new_user_namespace(first_id)
    unshare_mounts()
    clone = _call(_LIBC.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC))
    attributes = _MountAttr(set=_MOUNT_ATTR_IDMAP, user_namespace=user_namespace)
    _call(_LIBC.syscall(
        _MOUNT_SETATTR, clone, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes)
    ))  # fmt: skip
    if not keeps_plain_mounts:
        for mount in list(all_mounts()):
            if mount.kind == "fuse.efc":
                detach(mount.target)
    _call(_LIBC.syscall(_MOVE_MOUNT, clone, b"", _AT_FDCWD, os.fsencode(at), _MOVE_MOUNT_F_EMPTY_PATH))
    os.close(clone)
    _call(_LIBC.setns(user_namespace, _CLONE_NEWUSER))
    os.close(user_namespace)
    become(uid=0, gid=0)


def become(*, uid: int, gid: int, groups: tuple[int, ...] = ()) -> None:
    """Another user of the namespace."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def unshare_mounts() -> None:
    """A mount namespace of its own, from which nothing gets out."""
    _call(_LIBC.unshare(_CLONE_NEWNS))
    _call(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))


def become_root_of_own_namespace() -> None:
    """What `unshare --user --map-root-user --mount` does, which every user may: root, to itself."""
    uid, gid = os.getuid(), os.getgid()
    _call(_LIBC.prctl(_PR_SET_DUMPABLE, 1))  # or /proc/self is root's, since this process was root without an exec
    _call(_LIBC.unshare(_CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    unshare_mounts()


def _new_user_namespace(first_id: int) -> int:
    """A descriptor of a user namespace with a pod's map."""
    ready_read, ready_write = os.pipe()
    holder = os.fork()
    if holder == 0:
        os.write(ready_write, bytes([_LIBC.unshare(_CLONE_NEWUSER) == 0]))
        signal.pause()
    try:
        if os.read(ready_read, 1) != b"\1":
            raise OSError("unshare(CLONE_NEWUSER) failed")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder}/{name}").write_text(f"0 {first_id} {POD_IDS}")
        return os.open(f"/proc/{holder}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(ready_read)
        os.close(ready_write)


def _call(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
