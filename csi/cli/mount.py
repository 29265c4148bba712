"""``efc mount``: asks the keeper for a mount, and starts one when none runs."""

import argparse
import asyncio
import os
import stat
import subprocess
import time
from pathlib import Path

from csi import programs
from csi._proto import efc_pb2
from csi.errors import Code, DriverError
from csi.keeper import SOCKET_NAME, Keeper, KeeperUnreachableError
from csi.options import parse, parse_list
from csi.sources import Source

_KEEPER_START_SECONDS_MAX = 10.0


def run(parsed: argparse.Namespace) -> int:
    """Returns when the mount can be used; silent like mount(8)."""
    options = parse(parse_list(",".join(parsed.options)), origin="-o")
    config = options.daemon_config(Source.parse(parsed.source))
    target = checked_target(parsed.target)
    asyncio.run(_mount(Keeper(parsed.run_dir), run_dir=parsed.run_dir, target=target, config=config))
    return 0


def checked_target(text: str) -> str:
    """The absolute path of an existing directory, its parent's links resolved.

    Raises NOT_FOUND, or FAILED_PRECONDITION if it is something else.
    """
    absolute = os.path.abspath(text)
    path = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        raise DriverError(Code.NOT_FOUND, f"target {text!r} does not exist: make it first (mkdir)") from None
    except OSError as error:
        raise DriverError(
            Code.FAILED_PRECONDITION, f"target {text!r} cannot be used: {error.strerror} (efc umount --force?)"
        ) from None
    if not stat.S_ISDIR(mode):
        raise DriverError(Code.FAILED_PRECONDITION, f"target {text!r} is no directory")
    return path


async def _mount(keeper: Keeper, *, run_dir: str, target: str, config: efc_pb2.DaemonConfig) -> None:
    try:
        await keeper.mount(target=target, config=config)
    except KeeperUnreachableError:
        await _start_keeper(keeper, run_dir=run_dir)
        await keeper.mount(target=target, config=config)


async def _start_keeper(keeper: Keeper, *, run_dir: str) -> None:
    """Starts a keeper that outlives us and ends with its last mount; raises UNAVAILABLE if none answers soon."""
    folder = Path(run_dir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "keeper.log").open("ab") as log:
            process = subprocess.Popen(
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
    deadline = time.monotonic() + _KEEPER_START_SECONDS_MAX
    while True:
        try:
            await keeper.status()
            return
        except KeeperUnreachableError:
            ended = process.poll()
            # Ended at once: another one may just have been started by somebody else, so its socket gets a chance.
            if time.monotonic() > deadline or (ended not in (None, 0) and not (folder / SOCKET_NAME).exists()):
                what = "does not answer" if ended is None else f"ended with status {ended}"
                raise DriverError(Code.UNAVAILABLE, f"the keeper {what}: see {folder / 'keeper.log'}") from None
        await asyncio.sleep(0.01)
