"""A keeper of the test's own, and mounts made through it with the `efc` command: no CSI in between."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from csi._proto import efc_pb2
from csi.node.keeper import Keeper as Asked
from tests.support.mounts import remove_mounts
from tests.support.paths import program
from tests.support.processes import SLOWNESS, end_process, processes, wait_until

_SERVING = (efc_pb2.MountStatus.SERVING, efc_pb2.MountStatus.UNRESPONSIVE_NAS)


@dataclass(kw_only=True)
class Keeper:
    """A keeper that runs inside a `with` block, in a run directory of its own; its mounts are made below `folder`.

    `command_prefix` is put before its command line, for example to enter a network namespace. `programs` is a folder of
    other programs than those under test, for a keeper beside theirs.
    """

    command_prefix: Sequence[str] = ()
    programs: Path | None = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="efc-keeper-")))
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)  # other users than root take part
        self.run_dir.mkdir(parents=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._note_log(error)
        self.close()

    def _note_log(self, error: BaseException) -> None:
        if self.log.exists():
            error.add_note(f"end of the keeper's and the daemons' log:\n{self.log.read_text(errors='replace')[-3000:]}")

    @property
    def run_dir(self) -> Path:
        """Where its socket is."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """What the keeper and its daemons wrote to stderr."""
        return self.folder / "keeper.log"

    @property
    def pid(self) -> int:
        """Process id of the keeper."""
        if self._process is None:
            raise LookupError("the keeper does not run")
        return self._process.pid

    def start(self) -> None:
        """Starts the keeper; returns when its socket is there."""
        with self.log.open("ab") as log:
            self._process = keeper = subprocess.Popen(
                [*self.command_prefix, program("efc-keeper", self.programs), "--run-dir", self.run_dir],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        socket = self.run_dir / "keeper.sock"
        wait_until(lambda: keeper.poll() is not None or socket.exists(), what="the keeper's socket", limit_s=10)
        if keeper.poll() is not None:
            raise RuntimeError(f"efc-keeper ended with status {keeper.returncode}:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL: its daemons go on, and `start` makes their next keeper."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            (self.run_dir / "keeper.sock").unlink(missing_ok=True)
        self._process = None

    def close(self) -> None:
        """Unmounts what is left, by force, ends the keeper with its daemons, and removes its folder."""
        daemons = self.daemon_pids()
        remove_mounts(self.folder)
        if self._process is not None:
            end_process(self._process)
        self._process = None
        for pid in daemons:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def mounted(self, url: str, *, options: Sequence[str] = ()) -> Iterator[Path]:
        """A mount of `url` with `efc mount -o OPTIONS`, for the time of the block."""
        target = self.mount(url, options=options)
        try:
            yield target
        except BaseException as error:
            self._note_log(error)  # the keeper may be a module's, which learns nothing of one test's failure
            raise
        finally:
            self.unmount(target)

    def mount(self, url: str, *, options: Sequence[str] = ()) -> Path:
        """Mounts `url` at a new directory. Raises CalledProcessError with the command's message."""
        target = Path(tempfile.mkdtemp(prefix="mount-", dir=self.folder))
        target.chmod(0o755)
        arguments = ["-o", ",".join(options)] if options else []
        self.efc("mount", url, str(target), *arguments)
        return target

    def unmount(self, target: Path) -> None:
        """Unmounts `target` and removes the directory."""
        self.efc("umount", str(target))
        target.rmdir()

    def efc(self, *arguments: str, limit_s: float = 60) -> str:
        """Runs the `efc` command against this keeper. Returns its output."""
        environment = dict(os.environ, RUN_DIR=str(self.run_dir))
        done = subprocess.run(
            [program("efc", self.programs), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_s * SLOWNESS,
        )
        if done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    def status(self, target: Path) -> dict[str, Any]:
        """What `efc status --json` says about one mount."""
        mounts = json.loads(self.efc("status", "--json"))
        return next(mount for mount in mounts if mount["target"] == str(target))

    def mount_status(self, target: Path) -> efc_pb2.MountStatus:
        """What the keeper says about one mount, without the command."""
        return asyncio.run(Asked(str(self.run_dir)).status(str(target))).mounts[0]

    def daemon_pid(self, target: Path) -> int:
        """Process id of a mount's daemon; 0 while none runs."""
        return int(self.status(target)["pid"] or 0)

    def replace_daemon(self, target: Path) -> None:
        """SIGKILL to a mount's daemon; returns when the next one serves."""
        self.await_successor(target, self.kill_daemon(target))

    def kill_daemon(self, target: Path) -> int:
        """SIGKILL to a mount's daemon; its process id."""
        killed = self.mount_status(target).pid
        os.kill(killed, signal.SIGKILL)
        return killed

    def await_successor(self, target: Path, killed: int) -> None:
        """Returns when another daemon serves a mount than the one that was killed: its pid is known before it does."""

        def serves() -> bool:
            status = self.mount_status(target)  # of one moment
            return status.pid not in (0, killed) and status.state in _SERVING

        wait_until(serves, what="the next daemon", limit_s=30)

    def daemon_pids(self) -> list[int]:
        """Process ids of all its children, from /proc: also when the keeper does not answer."""
        if self._process is None:
            return []
        return [process.pid for process in processes() if process.parent_pid == self._process.pid]
