"""The kernel that this runs on, and what is true of it."""

from __future__ import annotations

import platform
import re

#: The first with FUSE_NOTIFY_RESEND.
_RESEND = (6, 9)


def release() -> tuple[int, int]:
    """Of the running kernel: (6, 1) for example."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    assert found is not None
    return int(found[1]), int(found[2])


def has_resend() -> bool:
    """Whether it delivers again what a dead daemon had not answered."""
    return release() >= _RESEND
