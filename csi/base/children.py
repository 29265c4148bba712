"""Short-lived child processes with a deadline, for everything that may hang.

A system call on a network file system can block for ever, and a blocked thread cannot be abandoned; a process can. Each
child leads its own process group, which is killed when the deadline passes or the caller is cancelled. A child in
uninterruptible sleep survives even SIGKILL until the kernel releases it: it is left to a reaper, and its *slot* stays
taken, so that a hung target never has more than one child waiting on it.

posix_spawn (vfork) instead of asyncio's subprocesses: no thread, no pipes and no copy of this process's page tables;
a publish costs about two milliseconds less. Input and output are memory files, so a child never waits for us to read.
"""

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from csi.base.errors import Code, DriverError

#: Most children at once, hung ones included; a limit that only a node in trouble reaches.
CHILDREN_MAX = 256
#: Errors that pass when the system has more to give: descriptors, processes, memory.
_LACKS = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_OUTPUT_BYTES_MAX = 64 * 1024 * 1024
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a child ended; ``exit_status`` is negative if a signal ended it."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class Children:
    """Starts children and watches them on the running event loop."""

    def __init__(self, *, on_killed: Callable[[str], None] = lambda _: None) -> None:
        """``on_killed`` is called with the name of each program that is killed, past its deadline."""
        self._on_killed = on_killed
        self._slots: set[str] = set()
        self._count = 0

    @property
    def count(self) -> int:
        """The number of children that there are now, hung ones included."""
        return self._count

    def is_busy(self, slot: str) -> bool:
        """Whether a child of this slot is still there, perhaps hung."""
        return slot in self._slots

    async def run(
        self,
        arguments: Sequence[str],
        *,
        deadline_seconds: float,
        stdin: bytes = b"",
        slot: str | None = None,
    ) -> Finished:
        """Runs a program to its end.

        Raises DEADLINE_EXCEEDED after killing it when it takes longer, ABORTED when ``slot`` is taken by another,
        RESOURCE_EXHAUSTED at a limit of ours or of the system, INTERNAL if it cannot be started.
        """
        if slot is not None and slot in self._slots:
            raise DriverError(Code.ABORTED, f"an earlier operation on {slot} has not ended yet: try again")
        if self._count >= CHILDREN_MAX:
            raise DriverError(Code.RESOURCE_EXHAUSTED, f"{self._count} operations are in progress already: try again")
        descriptors: list[int] = []
        try:
            descriptors += map(_memory, ("stdin", "stdout", "stderr"))
            os.write(descriptors[0], stdin)
            os.lseek(descriptors[0], 0, os.SEEK_SET)
            process_id = _spawn(arguments, descriptors)
            exit_status = await self._wait(process_id, deadline_seconds=deadline_seconds, slot=slot, name=arguments[0])
            return Finished(exit_status=exit_status, stdout=_content(descriptors[1]), stderr=_content(descriptors[2]))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _wait(self, process_id: int, *, deadline_seconds: float, slot: str | None, name: str) -> int:
        ended = self._watch(process_id, slot=slot)
        try:
            async with asyncio.timeout(deadline_seconds):
                return await asyncio.shield(ended)
        except BaseException as error:
            _kill_group(process_id)
            if not isinstance(error, TimeoutError):
                raise
            program = os.path.basename(name)
            self._on_killed(program)
            raise DriverError(
                Code.DEADLINE_EXCEEDED,
                f"{program} was stopped after {deadline_seconds:g} s: it got no answer",
            ) from None

    def _watch(self, process_id: int, *, slot: str | None) -> "asyncio.Future[int]":
        """A future of the exit status; slot and count are given back when the process is gone, whoever still waits."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        try:
            descriptor = os.pidfd_open(process_id)
        except OSError as error:
            # Nobody would be told of its end.
            _kill_group(process_id)
            os.waitpid(process_id, 0)
            raise _cannot_start("a program", error) from None
        self._count += 1
        if slot is not None:
            self._slots.add(slot)

        def reap() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            _, status = os.waitpid(process_id, 0)
            self._count -= 1
            if slot is not None:
                self._slots.discard(slot)
            if not ended.done():
                ended.set_result(os.waitstatus_to_exitcode(status))

        loop.add_reader(descriptor, reap)
        return ended


def _spawn(arguments: Sequence[str], descriptors: Sequence[int]) -> int:
    try:
        return os.posix_spawn(
            arguments[0],
            list(arguments),
            _ENVIRONMENT,
            file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(descriptors)],
            setpgroup=0,
            # Python ignores SIGPIPE, and ignored signals stay ignored across exec.
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
        )
    except OSError as error:
        raise _cannot_start(arguments[0], error) from error


def _memory(name: str) -> int:
    try:
        return os.memfd_create(name)
    except OSError as error:
        raise _cannot_start("a program", error) from None


def _cannot_start(program: str, error: OSError) -> DriverError:
    code = Code.RESOURCE_EXHAUSTED if error.errno in _LACKS else Code.INTERNAL
    return DriverError(code, f"cannot start {program}: {error.strerror}")


def _kill_group(process_id: int) -> None:
    # The child may have ended in this very moment.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process_id, signal.SIGKILL)


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if size > _OUTPUT_BYTES_MAX:
        raise DriverError(Code.INTERNAL, f"a program printed {size} bytes, more than the {_OUTPUT_BYTES_MAX} allowed")
    # pread takes less than asked for only at the end or past 2 GiB.
    return os.pread(descriptor, size, 0)
