"""Gives the ``efcd`` program of this image to the keeper.

The keeper is replaced rarely, the node plugin with every release. So the plugin passes ``efcd`` to the keeper as sealed
memory, and the keeper starts its next daemons from that: a rollout of the node plugin updates the daemons. A keeper
that refuses the program, or an older one that does not know the request, starts its own: volumes must not wait for
this.

A new keeper is recognised by its socket, since each keeper makes its own.
"""

import asyncio
import errno
import fcntl
import logging
import os
import subprocess
import time
from dataclasses import dataclass

from csi.base import programs
from csi.base.errors import Code, DriverError
from csi.node.keeper import Keeper, KeeperUnreachableError

_LOGGER = logging.getLogger(__name__)
#: MFD_EXEC of <linux/memfd.h>: needed where vm.memfd_noexec is set; unknown before Linux 6.3.
_MFD_EXEC = 0x10
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_VERSION_SECONDS_MAX = 10.0
_SEAL_SECONDS_MAX = 10.0
_SEAL_AGAIN_SECONDS = 0.02
#: How soon a new keeper has the program if nobody mounts anything.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class SealedProgram:
    """A program as memory that nobody can change any more, a descriptor, and its version as it prints it."""

    version: str
    memory: int

    @classmethod
    def read(cls, path: str) -> "SealedProgram":
        """Reads the program at ``path``; raises FAILED_PRECONDITION if it cannot be run."""
        return cls(version=_printed_version(path), memory=_sealed_memory(path))


class DaemonProgram:
    """The daemons' program, and which keeper has it."""

    def __init__(self, *, keeper: Keeper, program: SealedProgram) -> None:
        """It is given to ``keeper`` by :meth:`ensure`."""
        self._keeper = keeper
        self._program = program
        self._owner: tuple[int, ...] | None = None
        self._lock = asyncio.Lock()

    @classmethod
    def installed(cls, keeper: Keeper) -> "DaemonProgram":
        """The program ``efcd`` beside this interpreter; raises FAILED_PRECONDITION if it cannot be run."""
        return cls(keeper=keeper, program=SealedProgram.read(programs.find(programs.DAEMON)))

    async def ensure(self) -> None:
        """Gives the program to the keeper unless this one has been asked before; a refusal is logged, not raised.

        Costs a stat of the keeper's socket when there is nothing to do.
        """
        async with self._lock:
            owner = self._keeper.identity()
            if owner is None or owner == self._owner:
                return
            try:
                await self.install()
            except KeeperUnreachableError as error:
                _LOGGER.debug("the daemons' program is not handed over yet: %s", error.message)
                return
            except DriverError as error:
                _LOGGER.warning("daemons run the keeper's program, it refuses %s: %s", self.version, error.message)
            else:
                _LOGGER.info("daemons run version %s from now on", self.version)
            self._owner = owner

    @property
    def version(self) -> str:
        """The program's version, as it prints it."""
        return self._program.version

    def is_offered_to(self, owner: tuple[int, ...]) -> bool:
        """Whether the keeper of this identity has been given the program, taken or not."""
        return owner == self._owner

    async def install(self) -> None:
        """Gives the program to the keeper; raises the error that this reports."""
        await self._keeper.install(version=self._program.version, memory=self._program.memory)

    async def watch(self) -> None:
        """Gives the program to each new keeper; never returns."""
        while True:
            await self.ensure()
            await asyncio.sleep(_LOOK_SECONDS)


def _printed_version(path: str) -> str:
    try:
        finished = subprocess.run(
            [path, "--version"], env={}, capture_output=True, check=True, text=True, timeout=_VERSION_SECONDS_MAX
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DriverError(Code.FAILED_PRECONDITION, f"{path} --version: {error}") from None
    return finished.stdout.strip()


def _sealed_memory(path: str) -> int:
    """A memfd with the content of ``path`` that cannot be changed any more."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        memory = os.memfd_create(programs.DAEMON, flags | _MFD_EXEC)
    except OSError:
        memory = os.memfd_create(programs.DAEMON, flags)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while size > 0:
            copied = os.sendfile(memory, file.fileno(), None, size)
            if copied == 0:
                raise DriverError(Code.FAILED_PRECONDITION, f"{path} changed while it was read")
            size -= copied
    _seal(memory)
    return memory


def _seal(memory: int) -> None:
    """Seals a memfd, also while the kernel holds a page of it for a moment, to move it for example: that is EBUSY."""
    deadline = time.monotonic() + _SEAL_SECONDS_MAX
    while True:
        try:
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(_SEAL_AGAIN_SECONDS)
        else:
            return
