"""The mounts of this node, and operations on them.

/proc/self/mountinfo says what is mounted, never stat of a path: on a dead FUSE mount stat fails, and os.path.ismount()
and exists() both return False. Bind mounts, unmounts, statvfs, and operations in other mount namespaces
(:mod:`csi.node.repair`) run in ``efc-mount-helper``, one child process each (:mod:`csi.base.children`), because they
can hang with the file system below.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csi.base import programs
from csi.base.children import Children
from csi.base.errors import Code, DriverError, from_child
from csi.base.statvfs import Statvfs

#: Type of the file systems that the keeper mounts.
FILE_SYSTEM_TYPE = "fuse.efc"
MOUNTINFO = Path("/proc/self/mountinfo")
BIND_SECONDS_MAX = 20.0
UNMOUNT_SECONDS_MAX = 15.0
#: Longest statvfs: more than the 5 s after which a daemon says that the NAS does not answer, so it can be asked why.
STATVFS_SECONDS_MAX = 6.0
SURVEY_SECONDS_MAX = 10.0
REPLACE_SECONDS_MAX = 10.0


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One line of mountinfo (proc(5)). ``device`` is MAJOR:MINOR, ``root`` the path within the file system.

    ``is_shared``: what is mounted beneath it is seen by its peers, in other mount namespaces too.
    """

    device: str
    root: str
    target: str
    read_only: bool
    file_system_type: str
    source: str
    is_shared: bool = False


def read_mounts() -> list[Mount]:
    """All mounts that this process sees, oldest first."""
    return parse_mountinfo(_text_of(MOUNTINFO))


def _text_of(mountinfo: Path) -> str:
    # surrogateescape: a path is bytes, and one odd mount must not blind us to all others.
    # Bytes, since the kernel ends lines by a newline only, and a text file by other characters too.
    return mountinfo.read_bytes().decode(errors="surrogateescape")


def parse_mountinfo(text: str) -> list[Mount]:
    """All mounts, oldest first; lines that are not understood are left out."""
    return [mount for line in text.split("\n") if (mount := _parse_line(line)) is not None]


def _parse_line(line: str) -> Mount | None:
    fields = line.split(" ")
    try:
        separator = fields.index("-", 6)
        file_system_type, source = fields[separator + 1 : separator + 3]
    except ValueError:
        return None
    return Mount(
        device=fields[2],
        root=unescape(fields[3]),
        target=unescape(fields[4]),
        read_only="ro" in fields[5].split(","),
        file_system_type=unescape(file_system_type),
        source=unescape(source),
        is_shared=any(field.startswith("shared:") for field in fields[6:separator]),
    )


def escape(path: str) -> str:
    """A path as mountinfo shows it: space, tab, newline and backslash as octal escapes."""
    return re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", path)


def unescape(text: str) -> str:
    """Undoes the kernel's octal escapes of space, tab, newline, backslash and '#'."""
    if "\\" not in text:
        return text
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A mount namespace that has mounts of a lost file system: its inode, a process in it, (device, mount point)s."""

    inode: int
    process: int
    mounts: frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A process that has descriptors of a lost file system open; with none of them, it stands in it."""

    device: str
    process: int
    command: str
    descriptors: int


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What ``efc-mount-helper survey`` found. ``holders``: device -> a daemon that has its session open still.

    ``is_complete``: all processes were looked at for ``losses``, for which there is little time.
    """

    namespaces: list[Namespace]
    holders: dict[str, int]
    losses: list[Loss]
    is_complete: bool


@dataclass(frozen=True, kw_only=True)
class Unreplaced:
    """A dead mount of ``root`` within its file system that stays, seen by ``process`` at ``mount_point``, and why."""

    device: str
    process: int
    mount_point: str
    root: str
    message: str


class Mounts:
    """The node's mounts, through mountinfo and efc-mount-helper."""

    def __init__(self, *, children: Children, mountinfo: str = "/proc/self/mountinfo") -> None:
        self._children = children
        self._mountinfo = Path(mountinfo)

    def all(self) -> list[Mount]:
        """Every mount of this mount namespace, oldest first."""
        return parse_mountinfo(_text_of(self._mountinfo))

    def at(self, target: str) -> Mount | None:
        """The topmost mount at exactly ``target``."""
        # A node has hundreds of mounts, and only lines that name the target are worth being parsed.
        name = f" {escape(target)} "
        return top(
            parse_mountinfo("\n".join(line for line in _text_of(self._mountinfo).split("\n") if name in line)), target
        )

    async def bind(self, *, root: str, path: str, beneath: str, target: str, read_only: bool) -> None:
        """Binds ``path`` beneath ``root`` to ``target``, which is made; NOT_FOUND if there is no such directory.

        ``target`` lies ``beneath`` a directory, with no symbolic link between the two, or is refused.
        """
        arguments = ["bind", "--root", root, "--path", path or ".", *_within(beneath), f"--target={target}"]
        await self._helper(arguments + ["--read-only"] * read_only, target=target, deadline_seconds=BIND_SECONDS_MAX)

    async def unmount(self, target: str, *, beneath: str = "", detach: bool | None = None) -> None:
        """Unmounts everything at ``target``. Not mounted is success.

        What is busy or does not answer is detached, unless ``detach`` is False; all is, at once, if it is True.
        With a directory that it lies ``beneath``, a symbolic link between the two is refused.
        """
        arguments = ["unmount", *_within(beneath), f"--target={target}"]
        await self._unmount(arguments, target=target, detach=detach)

    async def remove(self, target: str, *, beneath: str) -> None:
        """Unmounts everything at ``target`` and removes its directory, which must be empty. Not there is success.

        ``target`` lies ``beneath`` a directory, with no symbolic link between the two, or is refused.
        """
        arguments = ["unmount", *_within(beneath), f"--target={target}", "--remove"]
        await self._unmount(arguments, target=target, detach=None)

    async def _unmount(self, arguments: list[str], *, target: str, detach: bool | None) -> None:
        if not detach:
            try:
                await self._helper(arguments, target=target, deadline_seconds=UNMOUNT_SECONDS_MAX)
            except DriverError as error:
                if detach is False or error.code not in (Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED):
                    raise
            else:
                return
        await self._helper([*arguments, "--detach"], target=target, deadline_seconds=UNMOUNT_SECONDS_MAX)

    async def statvfs(
        self, target: str, *, beneath: str = "", deadline_seconds: float = STATVFS_SECONDS_MAX
    ) -> Statvfs:
        """Sizes of the file system at ``target``; DEADLINE_EXCEEDED if it does not answer.

        With a directory that it lies ``beneath``, a symbolic link between the two is refused.
        """
        arguments = ["statvfs", *_within(beneath), f"--target={target}"]
        printed = await self._helper(
            arguments, target=target, deadline_seconds=deadline_seconds, slot="statvfs of "
        )  # fmt: skip
        return Statvfs.from_json(printed, origin=programs.MOUNT_HELPER)

    def is_working(self, target: str) -> bool:
        """Whether an earlier operation on ``target`` that was given up hangs still, and may yet be done."""
        return self._children.is_busy(target)

    def is_asking(self, target: str) -> bool:
        """Whether an earlier :meth:`statvfs` of ``target`` hangs still."""
        return self._children.is_busy("statvfs of " + target)

    async def survey(self, devices: Iterable[str]) -> Survey:
        """Looks who sees mounts of these file systems, in all mount namespaces of this pid namespace."""
        arguments = ["survey", *(f"--device={device}" for device in devices)]
        found = _parsed(await self._helper(arguments, target="", deadline_seconds=SURVEY_SECONDS_MAX, slot="survey"))
        namespaces = [
            Namespace(
                inode=namespace["namespace"],
                process=namespace["process"],
                mounts=frozenset((mount["device"], mount["mount_point"]) for mount in namespace["mounts"]),
            )
            for namespace in found["namespaces"]
        ]
        holders = {holder["device"]: holder["process"] for holder in found["holders"]}
        losses = [Loss(**loss) for loss in found["losses"]]
        return Survey(namespaces=namespaces, holders=holders, losses=losses, is_complete=found["is_complete"])

    async def replace(self, namespace: Namespace, *, roots: Mapping[str, str]) -> tuple[int, list[Unreplaced]]:
        """Replaces the dead mounts in a namespace by ones of ``roots``: device -> where its dataset is mounted now.

        Returns how many were, and those that could not be.
        """
        arguments = ["repair", f"--process={namespace.process}", f"--namespace={namespace.inode}"]
        for device, root in sorted(roots.items()):
            arguments += [f"--device={device}", f"--root={root}"]
        slot = f"repair of mount namespace {namespace.inode}"
        report = _parsed(await self._helper(arguments, target="", deadline_seconds=REPLACE_SECONDS_MAX, slot=slot))
        failed = [
            Unreplaced(
                device=failure["device"],
                process=namespace.process,
                mount_point=failure["mount_point"],
                root=failure["root"],
                message=failure["message"],
            )
            for failure in report["failed"]
        ]
        return len(report["replaced"]), failed

    async def _helper(self, arguments: list[str], *, target: str, deadline_seconds: float, slot: str = "") -> bytes:
        finished = await self._children.run(
            [programs.find(programs.MOUNT_HELPER), *arguments], deadline_seconds=deadline_seconds, slot=slot + target
        )
        if finished.exit_status != 0:
            raise from_child(program=programs.MOUNT_HELPER, exit_status=finished.exit_status, stderr=finished.stderr)
        return finished.stdout


def _within(beneath: str) -> list[str]:
    return [f"--beneath={beneath}"] if beneath else []


def _parsed(printed: bytes) -> Any:  # noqa: ANN401 - what a program of the same release prints
    try:
        return json.loads(printed)
    except ValueError as error:
        raise DriverError(
            Code.INTERNAL, f"{programs.MOUNT_HELPER} printed something other than JSON: {error}"
        ) from None


def beneath(path: str, root: str) -> bool:
    """Whether ``path`` is ``root`` or lies beneath it; of both only the text is looked at."""
    return f"{path}/".startswith(f"{root.rstrip('/')}/")


def containing(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that ``path`` lies on; of mounts on one another, the topmost."""
    found = None
    for mount in mounts:
        if beneath(path, mount.target) and (found is None or beneath(mount.target, found.target)):
            found = mount
    return found


def top(mounts: Iterable[Mount], target: str) -> Mount | None:
    """The topmost (last) mount at exactly ``target``."""
    found = None
    for mount in mounts:
        if mount.target == target:
            found = mount
    return found
