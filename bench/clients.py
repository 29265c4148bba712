"""The contenders of the rows: our mounts, the kernel's NFS client, and the server's own folder.

Each can be mounted afresh as often as one likes, and says what it has asked of the server so far.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from csi._proto import efc_pb2
from csi.base.errors import DriverError
from csi.config.mount_options import parse, parse_list
from csi.node import keeper
from tests.support.delay import delayed
from tests.support.keeper import Keeper
from tests.support.nas import Nas

NATIVE, KERNEL, MOUNT, AGAINST = "native ext4", "kernel's NFS client", "mount", "mount, other build"
#: Lists of mount options by which the mount takes part once more, if this build knows them.
VARIANTS = ("write-behind=0s",)
#: Of counters, until it is said that calls go on.
_READINGS_MAX = 600
#: Added to the names of contenders that have a round trip of 1 ms to the server.
FAR, ROUND_TRIP_US = ", 1 ms", 1000


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a client has asked of the server: calls of NFS, bytes of READ and WRITE."""

    calls: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            calls=self.calls - earlier.calls,
            read_bytes=self.read_bytes - earlier.read_bytes,
            written_bytes=self.written_bytes - earlier.written_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A contender that is mounted."""

    path: Path
    counters: Callable[[], Counters] = Counters
    daemon: Callable[[], int] = int  # its process id; 0 where there is none
    known: Callable[[], int] = int  # how many files the daemon knows
    kill_daemon: Callable[[], None] | None = None
    state: Callable[[], Sequence[Path]] = tuple  # the memory that outlives the daemon

    def calm_counters(self, *, pause_s: float = 0.02) -> Counters:
        """The counters, when two readings agree: what was closed or forgotten may still be on its way."""
        before = self.counters()
        for _ in range(_READINGS_MAX):
            time.sleep(pause_s)
            if (now := self.counters()) == before:
                return now
            before = now
        raise AssertionError(f"calls go on without any work: {before}")


class Client(Protocol):
    """A contender."""

    @property
    def name(self) -> str:
        """As in tables and in the baseline."""

    @property
    def has_daemon(self) -> bool:
        """Whether there is one that can be killed."""

    def mounted(self) -> AbstractContextManager[Mounted]:
        """A mount for the time of a block, with nothing known and no page cached."""


@dataclass(frozen=True, kw_only=True)
class Native:
    """The server's own folder."""

    nas: Nas
    name: str = NATIVE
    has_daemon: bool = False

    @contextmanager
    def mounted(self) -> Iterator[Mounted]:
        """Nothing is mounted: caches of the server's file system are warm."""
        yield Mounted(path=self.nas.export_folder())


@dataclass(frozen=True, kw_only=True)
class Fuse:
    """A mount of ours, made by a keeper that runs; default options but for `options`."""

    nas: Nas
    keeper: Keeper
    name: str = MOUNT
    options: Sequence[str] = ()
    port: int = 0  # of NFS, if it is not the server's own
    has_daemon: bool = True

    @contextmanager
    def mounted(self) -> Iterator[Mounted]:
        """A mount of the first export."""
        url = self.nas.url_of(self.nas.exports[0].name, port=self.port)
        with self.keeper.mounted(url, options=self.options) as path:
            yield Mounted(
                path=path,
                counters=lambda: self._counters(path),
                daemon=lambda: self._status(path).pid,
                known=lambda: self._status(path).stats.state.nodes,
                kill_daemon=lambda: self.keeper.replace_daemon(path),
                state=self._state,
            )

    def _status(self, path: Path) -> efc_pb2.MountStatus:
        """Asked of the keeper itself: the `efc` command would take longer than names are trusted."""
        [status] = asyncio.run(keeper.Keeper(str(self.keeper.run_dir)).status(str(path))).mounts
        return status

    def _counters(self, path: Path) -> Counters:
        nfs = self._status(path).stats.nfs
        return Counters(calls=nfs.calls, read_bytes=nfs.bytes_read, written_bytes=nfs.bytes_written)

    def _state(self) -> list[Path]:
        links = Path(f"/proc/{self.keeper.pid}/fd").iterdir()
        return [link for link in links if "memfd:efc" in str(link.readlink())]


@dataclass(frozen=True, kw_only=True)
class KernelNfs:
    """The kernel's own client, NFSv3 over one connection, with default options but for `options`.

    And soft: a mount whose server was killed before it goes away by itself.
    """

    nas: Nas
    name: str = KERNEL
    options: Sequence[str] = ()
    port: int = 0
    has_daemon: bool = False

    @contextmanager
    def mounted(self) -> Iterator[Mounted]:
        """Without mount.nfs and its package: the kernel asks mountd itself. Locks stay local, as ours do."""
        host = self.nas.address
        options = (
            f"vers=3,proto=tcp,nolock,soft,addr={host},port={self.port or self.nas.port},"
            f"mountaddr={host},mountproto=tcp,mountport={self.nas.mount_port}"
        )
        options = ",".join([options, *self.options])
        with tempfile.TemporaryDirectory(prefix="efc-bench-nfs-") as name:
            source = f"{host}:/{self.nas.exports[0].name}"
            subprocess.run(["mount", "-i", "-t", "nfs", "-o", options, source, name], check=True, timeout=60)
            try:
                yield Mounted(path=Path(name), counters=lambda: parse_mountstats(_mountstats(), name))
            finally:
                if subprocess.run(["umount", name], check=False, timeout=60).returncode != 0:
                    subprocess.run(["umount", "-f", "-l", name], check=True, timeout=60)


def no_kernel_nfs() -> str:
    """Why the kernel's client cannot run here; "" if it can."""
    with suppress(FileNotFoundError):  # it may be built in
        subprocess.run(["modprobe", "nfsv3"], check=False, capture_output=True, timeout=60)
    if re.search(r"\tnfs$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        return ""
    return "this kernel has no NFS client (no nfs in /proc/filesystems)"


def _mountstats() -> str:
    return Path("/proc/self/mountstats").read_text()


def parse_mountstats(text: str, target: str) -> Counters:
    """Of the NFS mount at `target`. Raises LookupError if there is none (nfsiostat(8) knows the form)."""
    for device in text.split("\ndevice "):
        if f" mounted on {target} with fstype nfs" in device.splitlines()[0]:
            break
    else:
        raise LookupError(f"no NFS mount at {target}")
    found = re.search(r"^\s*bytes:\s+(.*)$", device, re.MULTILINE)
    assert found is not None
    numbers = [int(number) for number in found[1].split()]  # read, written; with O_DIRECT; of and to the server; pages
    operations = device.partition("per-op statistics")[2]
    calls = sum(int(count) for count in re.findall(r"^\s*[A-Z_]+: (\d+) ", operations, re.MULTILINE))
    return Counters(calls=calls, read_bytes=numbers[4], written_bytes=numbers[5])


@dataclass(frozen=True, kw_only=True)
class Contenders:
    """Who takes part in a run, on one server, and who does not."""

    nas: Nas
    clients: list[Client]
    skipped: dict[str, str]  # name -> why


@contextmanager
def contenders(*, against: Path | None, variants: Sequence[str] = (), with_far: bool = False) -> Iterator[Contenders]:
    """All that can run here; `against` is a folder of programs of another build.

    `variants` are lists of mount options, each one contender more. With `with_far` the clients take part a second time,
    with a round trip to the server.
    """
    with ExitStack() as stack:
        nas = stack.enter_context(Nas())
        keeper = stack.enter_context(Keeper())
        clients: list[Client] = [Native(nas=nas), Fuse(nas=nas, keeper=keeper)]
        if against is not None:
            other = stack.enter_context(Keeper(programs=against))
            clients.append(Fuse(nas=nas, keeper=other, name=AGAINST))
        skipped = {}
        for variant in variants:
            if why_not := why_not_mounted_with(variant):
                skipped[f"{MOUNT}, {variant}"] = why_not
            else:
                clients.append(Fuse(nas=nas, keeper=keeper, name=f"{MOUNT}, {variant}", options=variant.split(",")))
        if why_not := no_kernel_nfs():
            skipped[KERNEL] = why_not
        else:
            clients.append(KernelNfs(nas=nas))
        if with_far:
            port = stack.enter_context(delayed(nas.port, round_trip_us=ROUND_TRIP_US))
            near = [one for one in clients if isinstance(one, Fuse | KernelNfs) and one.name != AGAINST]
            clients += [replace(one, name=f"{one.name}{FAR}", port=port) for one in near]
        yield Contenders(nas=nas, clients=clients, skipped=skipped)


def why_not_mounted_with(variant: str) -> str:
    """Why this build does not take such mount options; "" if it does."""
    try:
        parse(parse_list(variant), origin="the variant")
    except DriverError as error:
        return error.message.partition(";")[0]
    return ""
