"""stress-ng's file stressors, each checking its own results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.places import Place, run

#: Its class `filesystem` without bind-mount, binderfs, eventfd, ioprio, procfs and verity; and what else takes a path.
STRESSORS = (
    "access", "aio", "aiol", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany",
    "dnotify", "dup", "fallocate", "fanotify", "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fpunch", "fsize",
    "fstat", "getdent", "handle", "hdd", "inode-flags", "inotify", "io", "iomix", "lease", "link", "locka", "lockf",
    "lockofd", "mknod", "msync", "open", "readahead", "rename", "revio", "seek", "sendfile", "symlink", "sync-file",
    "touch", "utime", "xattr",
)  # fmt: skip
_NO_RESOURCE, _NOT_IMPLEMENTED = 3, 4


@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng(place: Place, stressor: str) -> None:
    def work(folder: Path) -> None:
        said = run(
            "stress-ng", f"--{stressor}", "2", "--timeout", "3s", "--verify", "--metrics-brief", "--temp-path", folder,
            "--no-rand-seed", "--oomable",
            cwd=folder, accepted=(0, _NO_RESOURCE, _NOT_IMPLEMENTED),
        )  # fmt: skip
        if "successful run completed" not in said and place.kills is None:
            pytest.skip(f"SKIPPED: {said.strip().splitlines()[-1]}")

    place.work(work)
