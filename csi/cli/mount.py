"""``efc mount``: asks the keeper for a mount, and starts one when none runs.

A target with a mount that nobody serves any more is mounted anew, and so is whatever was bound from it elsewhere, in
running containers too (:mod:`csi.node.repair`).
"""

import argparse
import asyncio
import contextlib
import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from csi._proto import efc_pb2
from csi.base import programs
from csi.base.children import Children
from csi.base.errors import Code, DriverError, invalid
from csi.cli.unserved import says_dead
from csi.config.mount_options import parse, parse_list
from csi.config.several import MountedSource, Sources
from csi.config.sources import Source
from csi.node.keeper import SOCKET_NAME, Keeper, KeeperForbiddenError, KeeperUnreachableError
from csi.node.mounts import FILE_SYSTEM_TYPE, Mount, Mounts, read_mounts, top
from csi.node.replacing import replace_everywhere
from csi.node.reports import Reports, report_of

_KEEPER_START_SECONDS_MAX = 10.0
#: As many as Linux follows (MAXSYMLINKS).
_LINKS_MAX = 40


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What shall be mounted where, and the mount of ours that is there already."""

    run_dir: str
    target: str
    config: efc_pb2.DaemonConfig
    present: Mount | None


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc mount``: returns when the mount can be used; silent like mount(8)."""
    options = parse(parse_list(",".join(parsed.options)), origin="-o")
    origin, target = _origin_and_target(parsed)
    config = options.daemon_config(origin)
    path, mount = found_target(target)
    # A mount of ours is not looked at: it may be dead.
    if mount is None:
        if parsed.mkdir:
            _make_directory(path, text=target)
        check_directory(path, text=target)
    wanted = _Wanted(run_dir=parsed.run_dir, target=path, config=config, present=mount)
    asyncio.run(_mount(wanted, starts_keeper=not parsed.running_keeper))
    return 0


def _origin_and_target(parsed: argparse.Namespace) -> tuple[Source | Sources, str]:
    """``SOURCE TARGET``, or ``TARGET`` with several sources as options. Raises INVALID_ARGUMENT."""
    mounted = mounted_sources(parsed)
    match parsed.places:
        case [target] if mounted:
            return Sources.of(mounted), target
        case [source, target] if not mounted:
            return Source.parse(source), target
    raise invalid("expected SOURCE TARGET, or TARGET --source PATH=SOURCE ...")


def mounted_sources(parsed: argparse.Namespace) -> list[MountedSource]:
    """What ``--source`` and ``--read-only-source`` name; raises INVALID_ARGUMENT."""
    mounted = [MountedSource.parse(text) for text in parsed.sources]
    return mounted + [MountedSource.parse(text, read_only=True) for text in parsed.read_only_sources]


def found_target(text: str) -> tuple[str, Mount | None]:
    """The absolute path that ``text`` leads to, links followed, and the mount of ours that is there already.

    Where one is, nothing is looked at. Raises INVALID_ARGUMENT for a name that the keeper cannot be told, and for
    none: as a path, that would be the working directory.
    """
    if not text:
        raise invalid("TARGET is empty")
    mounts = read_mounts()
    path = _leaf_path(text)
    for _ in range(_LINKS_MAX):
        mount = top(mounts, path)
        if mount is not None and mount.file_system_type == FILE_SYSTEM_TYPE:
            return _told(path), mount
        try:
            link = os.readlink(path)
        except OSError:  # it is no link; whether it is a directory is asked by who needs one
            return _told(path), None
        path = _leaf_path(os.path.join(os.path.dirname(path), link))
    raise DriverError(Code.FAILED_PRECONDITION, f"target {text!r} leads through more than {_LINKS_MAX} links")


def _leaf_path(text: str) -> str:
    """An absolute path, its parent's links resolved, the leaf not looked at."""
    absolute = os.path.abspath(text)
    return os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))


def _told(path: str) -> str:
    """``path`` itself; raises INVALID_ARGUMENT unless it is UTF-8, as all that the keeper is told must be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DriverError(
            Code.INVALID_ARGUMENT,
            f"target {path!r} is not UTF-8: mount at another directory, and bind that there (mount --bind)",
        ) from None
    return path


def check_directory(path: str, *, text: str) -> None:
    """Raises NOT_FOUND, or FAILED_PRECONDITION if ``path``, which was given as ``text``, is no directory."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        raise DriverError(Code.NOT_FOUND, f"target {text!r} does not exist: make it first (mkdir)") from None
    except OSError as error:
        raise DriverError(
            Code.FAILED_PRECONDITION, f"target {text!r} cannot be used: {error.strerror} (efc umount --force?)"
        ) from None
    if not stat.S_ISDIR(mode):
        raise DriverError(Code.FAILED_PRECONDITION, f"target {text!r} is not a directory")


def _make_directory(path: str, *, text: str) -> None:
    """Makes ``path``, which was given as ``text``, with what is missing above it; whatever is there stays as it is."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:
        return
    except OSError as error:
        message = f"target {text!r} cannot be made: {error.strerror}"
        raise DriverError(Code.FAILED_PRECONDITION, message) from None


async def _mount(wanted: _Wanted, *, starts_keeper: bool) -> None:
    keeper = Keeper(wanted.run_dir)
    try:
        await _mount_by(keeper, wanted)
    except KeeperForbiddenError:
        raise
    except KeeperUnreachableError:
        process = _start_keeper(wanted.run_dir) if starts_keeper else None
        await _await_keeper(keeper, process, run_dir=wanted.run_dir)
        await _mount_by(keeper, wanted)


async def _mount_by(keeper: Keeper, wanted: _Wanted) -> None:
    mounts = Mounts(children=Children())
    if wanted.present is not None and await _is_lost(wanted.present, keeper=keeper, mounts=mounts):
        with _one_at_a_time(wanted.run_dir):
            # Who was here before us has mounted it anew, and what is there now is in use.
            present = top(read_mounts(), wanted.target)
            if present is not None and await _is_lost(present, keeper=keeper, mounts=mounts):
                await _mount_anew(keeper, wanted, lost=present, mounts=mounts)
                return
    await keeper.mount(target=wanted.target, config=wanted.config)


@contextlib.contextmanager
def _one_at_a_time(run_dir: str) -> Iterator[None]:
    """No other ``efc mount`` of this run directory is in such a block; whoever is killed in it is out of it, too."""
    directory = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


async def _mount_anew(keeper: Keeper, wanted: _Wanted, *, lost: Mount, mounts: Mounts) -> None:
    target = wanted.target
    await keeper.unmount(target=target, force=True)
    status = await keeper.mount(target=target, config=wanted.config)
    outcome = await replace_everywhere(mounts, roots={lost.device: target})
    report = report_of(outcome, target=target, old=[lost.device], new=f"0:{status.connection}")
    Reports(wanted.run_dir).put(report)
    if report.failed:
        raise DriverError(Code.FAILED_PRECONDITION, f"{target!r} is mounted again, but {report.failure()}")


async def _is_lost(mount: Mount, *, keeper: Keeper, mounts: Mounts) -> bool:
    """Whether nobody holds the mount's session: the keeper does not, and the file system says that it has no daemon."""
    states = {f"0:{one.connection}": one.state for one in (await keeper.status()).mounts}
    if states.get(mount.device, efc_pb2.MountStatus.ABORTED) != efc_pb2.MountStatus.ABORTED:
        return False
    try:
        await mounts.statvfs(mount.target)
    except DriverError as error:
        return says_dead(error)
    return False


def _start_keeper(run_dir: str) -> subprocess.Popen[bytes]:
    """Starts a keeper that outlives us and ends with its last mount."""
    folder = Path(run_dir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "keeper.log").open("ab") as log:
            return subprocess.Popen(
                [programs.find(programs.KEEPER), "--run-dir", str(folder), "--exit-when-idle"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise DriverError(
            Code.FAILED_PRECONDITION, f"cannot start a keeper in {run_dir!r}: {error.strerror} (are you root?)"
        ) from None


async def _await_keeper(keeper: Keeper, process: subprocess.Popen[bytes] | None, *, run_dir: str) -> None:
    """Returns when a keeper answers: ``process``, or that of somebody else; raises UNAVAILABLE if none does soon."""
    folder = Path(run_dir)
    deadline = time.monotonic() + _KEEPER_START_SECONDS_MAX
    while True:
        try:
            await keeper.status()
            return
        except KeeperUnreachableError as error:
            ended = process.poll() if process is not None else None
            # Ended at once: another one may just have been started by somebody else, so its socket gets a chance.
            if time.monotonic() > deadline or (ended not in (None, 0) and not (folder / SOCKET_NAME).exists()):
                if process is None:
                    raise DriverError(Code.UNAVAILABLE, error.message) from None
                what = "does not answer" if ended is None else f"ended with status {ended}"
                raise DriverError(Code.UNAVAILABLE, f"the keeper {what}: see {folder / 'keeper.log'}") from None
        await asyncio.sleep(0.01)
