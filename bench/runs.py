"""One round of one contender: how long it took, and what it cost in CPU and memory."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.keeper import Keeper
from tests.support.paths import ROOT
from tests.support.processes import cpu_s

GIB = 1 << 30
LIMIT_S = 300


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much was read, and in which time."""

    seconds: float
    bytes: int
    files: int

    @property
    def mb_per_s(self) -> float:
        """Throughput in 10^6 bytes."""
        return self.bytes / self.seconds / 1e6

    @property
    def files_per_s(self) -> float:
        """Files read per second."""
        return self.files / self.seconds


@dataclass(frozen=True, kw_only=True)
class Round(Amount):
    """What one round measured. CPU is that of the client's side: daemon and reader, or the bare client."""

    cpu_s: float  # of daemon or bare client; of the reader when there is neither
    reader_cpu_s: float
    memory_mib_max: float
    nfs_calls: int = 0  # of the daemon

    @property
    def cpu_s_per_gib(self) -> float:
        """CPU seconds per GiB."""
        return self.cpu_s * GIB / self.bytes


@dataclass(kw_only=True)
class Contender:
    """All rounds of one contender in one case."""

    name: str
    rounds: list[Round] = field(default_factory=list)

    def median(self, figure: str) -> float:
        """The median of one of a round's figures."""
        return float(statistics.median(getattr(one, figure) for one in self.rounds))

    def as_json(self, figure: str) -> dict[str, object]:
        """Medians and the raw rounds."""
        names = (figure, "seconds", "cpu_s", "cpu_s_per_gib", "reader_cpu_s", "memory_mib_max", "nfs_calls")
        return {
            "median": {name: round(self.median(name), 4) for name in names},
            "rounds": [asdict(one) for one in self.rounds],
        }


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The programs of the benchmark, built once."""

    reader: Path
    bare_client: Path

    @classmethod
    def build(cls, folder: Path) -> Programs:
        """Compiles what is C into `folder` and the bare client with cargo. Raises CalledProcessError."""
        source = ROOT / "bench" / "reader.c"
        subprocess.run(["gcc", "-O2", "-pthread", "-o", folder / "reader", source], check=True, timeout=60)
        command = ["cargo", "build", "--release", "--locked", "--quiet", "--message-format=json", "-p", "efc-nfs"]
        done = subprocess.run(
            [*command, "--example", "bare_client"], cwd=ROOT, check=True, capture_output=True, timeout=900
        )
        artifacts = [json.loads(line) for line in done.stdout.splitlines()]
        executable = next(artifact["executable"] for artifact in artifacts if artifact.get("executable"))
        return cls(reader=folder / "reader", bare_client=Path(executable))


def run_native(programs: Programs, command: str, path: Path, *words: str) -> Round:
    """The reader on the server's own folder; `words` follow the path."""
    found = _run([programs.reader, command, path, *words])
    return _round(found, cpu=found["cpu_seconds"], memory_kib=found["rss_kib"])


def run_bare(programs: Programs, command: str, url: str, path: str, *words: str, prefix: Sequence[str] = ()) -> Round:
    """The bare client: READs and WRITEs pipelined as the daemon does, small files one at a time."""
    found = _run([*prefix, programs.bare_client, command, url, path, *words])
    return _round(found, cpu=found["cpu_seconds"], memory_kib=found["rss_kib"])


def run_fresh_mount(programs: Programs, command: str, url: str, path: str, *, keeper: Keeper) -> Round:
    """The reader on a fresh mount."""
    with keeper.mounted(url) as mount:
        return run_mount(programs, command, mount, path, keeper=keeper)


def run_mount(programs: Programs, command: str, mount: Path, path: str, *words: str, keeper: Keeper) -> Round:
    """The reader on a mount, without anything of the file in the page cache."""
    drop_pages(mount / path)
    return run_reader([programs.reader, command, mount / path, *words], mount, keeper=keeper)


def run_reader(command: Sequence[str | Path], mount: Path, *, keeper: Keeper) -> Round:
    """A command that prints what the reader prints, on a mount of this keeper's, which has no other."""
    (daemon,) = keeper.daemon_pids()
    before_s, before_calls = cpu_s(daemon), nfs_calls(keeper, mount)
    found = _run(command)
    used_s = cpu_s(daemon) - before_s
    calls = nfs_calls(keeper, mount) - before_calls
    return _round(found, cpu=used_s, memory_kib=memory_kib_max(daemon), calls=calls)


def drop_pages(path: Path) -> None:
    """Takes a file's pages out of the page cache; nothing for a directory."""
    if path.is_file():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def nfs_calls(keeper: Keeper, mount: Path) -> int:
    """How many calls a mount's daemon has sent to the NAS."""
    return int(keeper.status(mount)["stats"]["nfs_calls"])


def idle_daemon_mib(url: str, *, keeper: Keeper) -> float:
    """Most memory that a daemon ever had which only answered a stat and a listing of its root."""
    with keeper.mounted(url) as mount:
        os.listdir(mount)
        (daemon,) = keeper.daemon_pids()
        return memory_kib_max(daemon) / 1024


def memory_kib_max(pid: int) -> int:
    """VmHWM of a process."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _run(command: Sequence[str | Path]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command} failed: {done.stderr.strip()}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _round(found: dict[str, float], *, cpu: float, memory_kib: float, calls: int = 0) -> Round:
    return Round(
        seconds=found["seconds"], bytes=int(found["bytes"]), files=int(found["files"]), cpu_s=cpu,
        reader_cpu_s=found["cpu_seconds"], memory_mib_max=memory_kib / 1024, nfs_calls=calls,
    )  # fmt: skip
