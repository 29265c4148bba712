"""Counts the files of a Dataset's sources, and checks whether these can be reached: by ``efc-fs``, without a mount."""

import asyncio
import contextlib
import logging
import signal
import time

from csi._proto import dataset_pb2
from csi.base import programs
from csi.base.children import Children
from csi.base.directories import check_directory
from csi.base.errors import Code, DriverError, from_child
from csi.config.sources import Source
from csi.master.core import Core
from csi.master.signal import Changes
from csi.master.totals import Line, Walk

_LOGGER = logging.getLogger(__name__)
#: A walk says something every half second: one that is silent for so long hangs.
_SILENT_SECONDS_MAX = 120.0
_STDERR_BYTES_MAX = 64 << 10
_PROBE_INTERVAL_SECONDS = 5.0
#: Longest question whether a mount can be reached.
_PROBE_SECONDS_MAX = 4.0
_IDLE_SECONDS_MAX = 60.0


class Walking:
    """Walks mounts when the core says that it is time."""

    def __init__(self, core: Core, changes: Changes) -> None:
        """Raises FAILED_PRECONDITION if efc-fs is missing."""
        self._core = core
        self._changes = changes
        self._program = programs.find(programs.NAS_CLIENT)
        self._children = Children()

    async def watch(self) -> None:
        """Walks whenever that is due; never returns."""
        while True:
            count, now = self._changes.count, time.monotonic()
            due = self._core.walk_due(now)
            if due is not None and due <= now:
                await self._walk(self._core.totals.begin(now))
                continue
            await self._changes.after(count, limit_seconds=_IDLE_SECONDS_MAX if due is None else due - now)

    async def probe(self) -> None:
        """Asks every few seconds whether all mounts can be reached; never returns."""
        while True:
            count = self._changes.count
            configuration = self._core.configuration
            if configuration is None or not configuration.mounts or not self._core.watchers:
                await self._changes.after(count)
                continue
            found = await self._reachability(configuration)
            now = self._core.configuration
            if now is None or list(now.mounts) != list(configuration.mounts):
                continue
            if found != self._core.source:
                self._core.source = found
                self._changes.note()
            await asyncio.sleep(_PROBE_INTERVAL_SECONDS)

    async def _reachability(self, configuration: dataset_pb2.Configuration) -> dataset_pb2.Reachability:
        flags = ["--timeout-ms", str(int(_PROBE_SECONDS_MAX * 1000)), *_port_flags(configuration)]
        for mount in configuration.mounts:
            source, (root, path) = mount.source, _opened(mount)
            arguments = [self._program, "stat", *flags, "--", root, path or "."]
            try:
                finished = await self._children.run(arguments, deadline_seconds=_PROBE_SECONDS_MAX + 1)
                if finished.exit_status != 0:
                    raise from_child(
                        program=programs.NAS_CLIENT, exit_status=finished.exit_status, stderr=finished.stderr
                    )  # fmt: skip
                check_directory(finished.stdout, source=source)
            except DriverError as error:
                message = error.message if source in error.message else f"{source}: {error.message}"
                return dataset_pb2.Reachability(known=True, reachable=False, reason=message)
        return dataset_pb2.Reachability(known=True, reachable=True)

    async def _walk(self, walk: Walk) -> None:
        configuration = self._core.configuration
        assert configuration is not None, "no walk is due before there is one"  # noqa: S101
        owner = (configuration.owner_uid, configuration.owner_gid)
        arguments = ["walk", "--uid", str(owner[0]), "--gid", str(owner[1]), *_port_flags(configuration)]
        if walk.checkpoint:
            arguments += ["--resume", walk.checkpoint]
        root, path = _opened(configuration.mounts[walk.mount])
        walking = asyncio.create_task(self._run([*arguments, "--", root, *filter(None, [path])], walk))
        try:
            while not walking.done():
                count = self._changes.count
                changed = asyncio.create_task(self._changes.after(count))
                await asyncio.wait({walking, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if not self._is_wanted(walk, owner):
                    return
            error = walking.exception()
            if isinstance(error, DriverError):
                self._fail(walk, error)
            elif error is not None:
                raise error
        finally:
            walking.cancel()
            await asyncio.wait({walking})

    def _is_wanted(self, walk: Walk, owner: tuple[int, int]) -> bool:
        configuration = self._core.configuration
        is_same_owner = configuration is not None and owner == (configuration.owner_uid, configuration.owner_gid)
        return is_same_owner and walk.source in self._core.totals.sources

    def _fail(self, walk: Walk, error: DriverError) -> None:
        _LOGGER.warning("counting %s continues later: %s", walk.source, error.message)
        is_bad = error.code is Code.INVALID_ARGUMENT and bool(walk.checkpoint)
        self._core.totals.fail(walk, error.message, is_checkpoint_bad=is_bad, now=time.monotonic())
        self._changes.note()

    async def _run(self, arguments: list[str], walk: Walk) -> None:
        """Walks to the end; raises DriverError."""
        process = await asyncio.create_subprocess_exec(
            self._program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, limit=1 << 20,
        )  # fmt: skip
        try:
            assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - for mypy
            errors = asyncio.create_task(process.stderr.read(_STDERR_BYTES_MAX))
            is_done = await self._take_lines(process.stdout, walk)
            status = await process.wait()
            if status != 0 or not is_done:
                raise from_child(program=f"{programs.NAS_CLIENT} walk", exit_status=status, stderr=await errors)
            await errors
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()

    async def _take_lines(self, stdout: asyncio.StreamReader, walk: Walk) -> bool:
        """Whether the last line says that all is counted."""
        is_done = False
        while True:
            try:
                async with asyncio.timeout(_SILENT_SECONDS_MAX):
                    text = await stdout.readline()
                if not text:
                    return is_done
                line = Line.parse(text)
            except TimeoutError:
                raise DriverError(
                    Code.DEADLINE_EXCEEDED, f"counting {walk.source} has made no progress for {_SILENT_SECONDS_MAX:g} s"
                ) from None
            except ValueError:
                raise DriverError(
                    Code.INTERNAL, f"{programs.NAS_CLIENT} walk printed something other than a count"
                ) from None
            is_done = line.is_done
            self._core.totals.progress(walk, line.counted, is_done=is_done, now=time.monotonic())
            self._changes.note()


def _opened(mount: dataset_pb2.SourceMount) -> tuple[str, str]:
    """The directory from which on a mount's source is opened, and the way down from there ("" if it is that itself)."""
    root = mount.root or mount.source
    return root, Source.parse(mount.source).relative_to(Source.parse(root)) or ""


def _port_flags(configuration: dataset_pb2.Configuration) -> list[str]:
    """As the daemons do: from any port, or from one below 1024."""
    is_any = configuration.orders.options.get("unprivileged-port", "false") != "false"
    return ["--unprivileged-port"] if is_any else []
