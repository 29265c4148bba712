"""Processes that a test starts: ended by pid, with a deadline, and looked up in /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: So many times as long as on real hardware everything may take: in an emulated machine, whose tests set this.
SLOWNESS = float(os.environ.get("EFC_TEST_SLOWNESS", "1"))


class TimeLimitError(AssertionError):
    """Something that a test waited for did not come in time; the message says what."""


def wait_until(condition: Callable[[], object], *, what: str, limit_s: float = 10.0, interval_s: float = 0.02) -> None:
    """Polls until `condition()` is true.

    Raises TimeLimitError naming `what` after `limit_s` (times SLOWNESS) seconds.
    """
    limit_s *= SLOWNESS
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeLimitError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(interval_s)


def end_process(process: subprocess.Popen[bytes], *, limit_s: float = 10.0) -> int:
    """SIGTERM, then SIGKILL after `limit_s` (times SLOWNESS) seconds; also when it is stopped by SIGSTOP.

    Returns the exit status.
    """
    limit_s *= SLOWNESS
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(limit_s)


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process as /proc shows it."""

    pid: int
    parent_pid: int
    name: str
    state: str  # R, S, D, Z, T as in proc(5)
    command: str


def processes() -> Iterator[Process]:
    """All processes of this pid namespace, without kernel threads."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        fields = rest.split()
        pid, parent_pid = int(entry.name), int(fields[1])
        if 2 not in (pid, parent_pid) or command:
            yield Process(pid=pid, parent_pid=parent_pid, name=name, state=fields[0], command=command)


def processes_named(name: str) -> list[Process]:
    """Living processes whose program is called `name` (15 characters at most, as the kernel keeps them)."""
    return [process for process in processes() if process.name == name[:15] and process.state != "Z"]


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def thread_states(pid: int) -> list[str]:
    """States of a process's threads, as of proc(5)."""
    states = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            states.append(path.read_text().rpartition(")")[2].split()[0])
    return states


def stop_process(pid: int) -> None:
    """SIGSTOP, and returns when all threads have stopped: until then one of them may go on with its work."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: set(thread_states(pid)) == {"T"}, what=f"all threads of process {pid} to stop")


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def awake_processors() -> Iterator[None]:
    """Keeps every processor from sleeping during the block, with work that gives way to all other work."""
    spin = ["chrt", "--idle", "0", "sh", "-c", "while :; do :; done"]
    spinners = [subprocess.Popen(spin, stdin=subprocess.DEVNULL) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
