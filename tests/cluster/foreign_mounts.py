"""Detaches, in a mount namespace of its own, what no PATH needs: `python -m tests.cluster.foreign_mounts PATH...`.

kubelet and the NFS server look at every mount that they see, and a single one that does not answer, a FUSE mount whose
server hangs for example, keeps them from starting. So only those stay on which a PATH or the system itself lies. The
kernel's list of mounts is all that is read here: nothing looks into one.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

#: Folders of the system that programs of the cluster use.
SYSTEM = (
    "/bin", "/etc", "/lib", "/lib64", "/run", "/sbin", "/tmp", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share",
    "/var/lib", "/var/log",
)  # fmt: skip
#: Beneath these the kernel shows itself, by file systems that nobody has to serve.
_KERNEL = ("/dev", "/proc", "/sys")
_SERVED = re.compile(r"fuse(blk|\..*)?|nfs4?|cifs|smb3|9p|ceph|virtiofs")
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8


def main() -> None:
    """Detaches them, the newest first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as mountinfo:
        found = list(foreign(mountinfo, needed=[*SYSTEM, *map(os.path.abspath, sys.argv[1:])]))
    libc = ctypes.CDLL(None, use_errno=True)
    for target in reversed(found):
        if libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
            error = ctypes.get_errno()
            sys.exit(f"{target} cannot be detached: {os.strerror(error)}")


def foreign(mountinfo: Iterable[str], *, needed: Iterable[str]) -> Iterator[str]:
    """Where the mounts are, in the order of /proc/self/mountinfo, on which nothing of `needed` lies."""
    kept = {str(folder) for path in needed for folder in (PurePosixPath(path), *PurePosixPath(path).parents)}
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        target = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        kernels = any(PurePosixPath(target).is_relative_to(folder) for folder in _KERNEL)
        if target not in kept and not (kernels and not _SERVED.fullmatch(after.split()[0])):
            yield target


if __name__ == "__main__":
    main()
