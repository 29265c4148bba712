"""Target paths: where kubelet's directory is, and which paths below it are accepted.

A path that leads out of it is refused, never normalised (:mod:`csi.config.paths`). The second line of defence is
efc-mount-helper: it opens a target's parent beneath kubelet's directory, without following links, and works on what it
has opened.
"""

import os
import posixpath
from collections.abc import Sequence

from csi.base.errors import Code, DriverError, invalid
from csi.config.paths import check_components

#: kubelet's --root-dir, unless it is told another.
KUBELET_ROOT = "/var/lib/kubelet"
#: Longest target path in bytes: PATH_MAX less its NUL.
TARGET_LENGTH_MAX = 4095


class KubeletRoots:
    """kubelet's directories, as they are named and where they are.

    kubelet names its targets by the directory that it was given, which may be a link or lie behind one; the kernel
    names mounts by where they are. Links are resolved once, when this is made: all that is compared, recorded and
    mounted has the second form.
    """

    def __init__(self, named: Sequence[str]) -> None:
        # The longest first: one may be a link that lies beneath another.
        longest_first = sorted(map(posixpath.normpath, named), key=len, reverse=True)
        self._resolved = {root: os.path.realpath(root) for root in longest_first}
        #: The directories where they are, links resolved.
        self.resolved = list(dict.fromkeys(self._resolved.values()))

    def check_target(self, path: str) -> str:
        """The target path ``path``, checked by :func:`check_target`, where the target is."""
        return self.translated(check_target(path, roots=[*self._resolved, *self.resolved]))

    def translated(self, path: str) -> str:
        """Where ``path`` is, if it lies beneath a directory as it is named; else ``path`` itself."""
        for named, resolved in self._resolved.items():
            if _lies_beneath(path, named):
                return resolved + path.removeprefix(named)
        return path


def check_target(path: str, *, roots: Sequence[str]) -> str:
    """A target path in its one canonical form (no double or trailing slashes).

    Only its text is looked at here, so this never blocks; see :func:`check_target_parent`. Raises INVALID_ARGUMENT.
    """
    if not path.startswith("/"):
        raise invalid(f"target path {path[:256]!r} is not absolute")
    if len(path.encode(errors="replace")) > TARGET_LENGTH_MAX:
        raise invalid(f"the target path is longer than {TARGET_LENGTH_MAX} bytes")
    components = [component for component in path.split("/") if component]
    try:
        check_components("/".join(components))
    except DriverError as error:
        raise invalid(f"target path {path[:256]!r} {error.message}") from None
    canonical = "/" + "/".join(components)
    root_of(canonical, roots=roots)
    return canonical


def root_of(target: str, *, roots: Sequence[str]) -> str:
    """The one of ``roots`` that a checked target lies beneath. Raises INVALID_ARGUMENT if it lies beneath none."""
    for root in roots:
        if _lies_beneath(target, root):
            return posixpath.normpath(root)
    raise invalid(f"target path {target!r} does not lie beneath kubelet's directory ({', '.join(roots)})")


def check_target_parent(target: str, *, roots: Sequence[str]) -> None:
    """Checks a target's parent: it must exist, and no component of it beneath its root may be a symbolic link.

    What this says may be untrue the next moment: it refuses early, before a daemon is started. What holds is that
    efc-mount-helper follows no link there. The leaf is never looked at: it may be a dead mount. Raises
    FAILED_PRECONDITION or INVALID_ARGUMENT.
    """
    parent = os.path.dirname(target)
    root = root_of(target, roots=roots)
    try:
        resolved = os.path.realpath(parent, strict=True)
        # The root itself may be reached through links: they are the administrator's.
        expected = os.path.join(os.path.realpath(root, strict=True), os.path.relpath(parent, root))
    except OSError as error:
        raise DriverError(
            Code.FAILED_PRECONDITION, f"the target's parent {parent!r} cannot be used: {error.strerror}"
        ) from None
    if resolved != os.path.normpath(expected):
        raise invalid(f"the target's parent {parent!r} leads through a symbolic link to {resolved!r}")


def _lies_beneath(path: str, root: str) -> bool:
    root = posixpath.normpath(root)
    return path.startswith(root.rstrip("/") + "/") and path != root
