"""Who reads in a training: the server's own folder, our mounts, and other clients of the same data, by FUSE.

`fuse-nfs` is an NFS client of others that caches nothing. rclone and s3fs cache whole files on the node's disk; neither
speaks NFS, so that `rclone serve s3` gives them the NAS's folder from the NAS's namespace, behind the same delay. What
each of them is given is in its command line here. Its mount is taken away also when its process hangs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.clients import NATIVE
from bench.runs import nfs_calls
from tests.support.delay import delayed
from tests.support.mounts import mounts_below, remove_mounts
from tests.support.nas import free_ports
from tests.support.netns import Host
from tests.support.nodes import Node
from tests.support.paths import ROOT
from tests.support.processes import end_process, processes, wait_until
from tests.support.site import CLOCK, Site

SEALED, BOUNDED, DEFAULT = "mount, store, sealed", "mount, store, bounded", "mount, default options, no store"
ANEW = "mount, store, sealed, new pods"
FUSE_NFS, RCLONE, S3FS = "fuse-nfs", "rclone, cache full", "s3fs, use_cache"
#: Where bench/training/setup puts programs and libraries.
TOOLS = ROOT / ".tools" / "training" / "bin"
#: A folder of the NAS's export, which is a bucket for clients of S3.
BUCKET = "training"
#: Known to everybody: a server of S3 that asks for no key is not spoken to by s3fs.
_KEY, _SECRET = "bench", "benchbench"
_MOUNTED_LIMIT_S = 30


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a contender runs: a node with its network to the NAS, and a folder of its disk."""

    site: Site
    host: Host
    url: str  # of the export
    round_trip_us: int
    disk: Path


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A contender that is mounted."""

    path: Path
    server: int  # process id of who gives it the data
    daemon: int = 0  # process id; 0 where there is none
    calls: Callable[[], int] | None = None  # of NFS; None where nobody counts them


class Client(Protocol):
    """A contender."""

    @property
    def name(self) -> str:
        """As in tables."""

    @property
    def part(self) -> float:
        """Of the directories it reads so many: all epochs of a client without a cache are alike, and take long."""

    def why_not(self) -> str:
        """Why it cannot run here; "" if it can."""

    def mounted(self, place: Place) -> AbstractContextManager[Mounted]:
        """A mount of the files for the time of a block, with nothing known and nothing cached."""


@dataclass(frozen=True, kw_only=True)
class Native:
    """The server's own folder: what the loader takes by itself."""

    name: str = NATIVE
    part: float = 1

    def why_not(self) -> str:
        """It can."""
        return ""

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        """Nothing is mounted."""
        yield Mounted(path=place.site.nas.export_folder() / BUCKET, server=place.site.nas.pid)


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A mount of ours, with a store if `cache_mib` says so: in `store`, or empty and gone with the mount."""

    name: str
    options: Sequence[str] = ()
    cache_mib: int = 0
    store: Path | None = None
    part: float = 1

    def why_not(self) -> str:
        """It can."""
        return ""

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        """It knows from the beginning that the files have not changed for long enough to be kept."""
        with tempfile.TemporaryDirectory(prefix="store-", dir=place.disk) as folder:
            where = self.store or folder
            store = (f"cache-dir={where}", f"cache-size={self.cache_mib}MiB", "cache-free=1") if self.cache_mib else ()
            with Node.mounted(place.url, options=(*self.options, *store), host=place.host) as node:
                os.stat(node.mount / CLOCK)
                yield Mounted(
                    path=node.mount / BUCKET,
                    server=place.site.nas.pid,
                    daemon=node.keeper.daemon_pids()[0],
                    calls=lambda: nfs_calls(node.keeper, node.mount),
                )


@dataclass(frozen=True, kw_only=True)
class FuseNfs:
    """fuse-nfs on libnfs, in one thread: in several, each waits for the answers of others, which takes longer."""

    name: str = FUSE_NFS
    part: float = 0.02

    def why_not(self) -> str:
        """It is built by bench/training/setup."""
        return "" if _program("fuse-nfs") else "fuse-nfs was not built: bench/training/setup says why"

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        """It goes to the background by itself."""
        with _mount_point(place) as target:
            command = [_program("fuse-nfs"), "-n", libnfs_url(place.url), "-m", str(target), "-O", "-t", "0"]
            subprocess.run([*place.host.prefix, *command], check=True, capture_output=True, timeout=_MOUNTED_LIMIT_S)
            _await_mount(target)
            daemon = next(one.pid for one in processes() if one.name == "fuse-nfs" and str(target) in one.command)
            try:
                yield Mounted(path=target / BUCKET, server=place.site.nas.pid, daemon=daemon)
            finally:
                with suppress(ProcessLookupError):
                    os.kill(daemon, signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Rclone:
    """`rclone mount` with all of its cache, and told that nothing changes."""

    name: str = RCLONE
    part: float = 0.2

    def why_not(self) -> str:
        """It is installed by bench/training/setup."""
        return "" if _program("rclone") else "there is no rclone: run bench/training/setup"

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        """A mount of the bucket."""
        with _s3(place) as (server, endpoint), _mount_point(place) as target, _cache(place) as cache:
            remote = (
                f":s3,provider=Rclone,access_key_id={_KEY},secret_access_key={_SECRET},endpoint='{endpoint}',"
                f"use_server_modtime=true:{BUCKET}"
            )
            command = [
                _program("rclone"), "mount", remote, str(target), "--config=/dev/null", "--read-only",
                "--vfs-cache-mode=full", f"--cache-dir={cache}", "--vfs-cache-max-age=24h",
                "--dir-cache-time=24h", "--attr-timeout=1h", "--poll-interval=0",
                "--vfs-fast-fingerprint", "--use-server-modtime",
            ]  # fmt: skip
            with _running(command, place.host) as daemon:
                _await_mount(target)
                yield Mounted(path=target, server=server, daemon=daemon)


@dataclass(frozen=True, kw_only=True)
class S3fs:
    """s3fs with a cache on the disk, and told that nothing changes."""

    name: str = S3FS
    part: float = 0.2

    def why_not(self) -> str:
        """It needs what gives it the data, too."""
        if not shutil.which("s3fs"):
            return "there is no s3fs: run bench/training/setup"
        return Rclone().why_not()

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        """A mount of the bucket."""
        with _s3(place) as (server, endpoint), _mount_point(place) as target, _cache(place) as cache:
            password = cache / "password"
            password.write_text(f"{_KEY}:{_SECRET}")
            password.chmod(0o600)
            options = (
                f"use_cache={cache / 'files'},passwd_file={password},url={endpoint},use_path_request_style,ro,"
                "max_stat_cache_size=1000000,stat_cache_expire=86400,enable_noobj_cache,listobjectsv2"
            )
            with _running(["s3fs", BUCKET, str(target), "-f", "-o", options], place.host) as daemon:
                _await_mount(target)
                yield Mounted(path=target, server=server, daemon=daemon)


def _program(name: str) -> str:
    """Where it is; "" if nowhere."""
    return shutil.which(name, path=TOOLS) or shutil.which(name) or ""


def libnfs_url(url: str) -> str:
    """Ours as libnfs writes it, whose ports are both arguments: `nfs://HOST:PORT/DIR?mountport=PORT`."""
    address, _, mount_port = url.partition("?")
    host, _, rest = address.removeprefix("nfs://").partition("/")
    name, _, port = host.rpartition(":")
    return f"nfs://{name}/{rest}?nfsport={port}&{mount_port}"


@contextmanager
def _s3(place: Place) -> Iterator[tuple[int, str]]:
    """A server of S3 beside the NAS, whose buckets are the export's folders: its process, and its URL for clients."""
    nas_host = place.site.nas_host
    (port,) = free_ports("127.0.0.1", count=1)
    command = [
        _program("rclone"), "serve", "s3", str(place.site.nas.export_folder()), "--config=/dev/null", "--read-only",
        f"--addr={nas_host.address}:{port}", f"--auth-key={_KEY},{_SECRET}", "--dir-cache-time=24h", "--etag-hash=",
    ]  # fmt: skip
    with _running(command, nas_host) as server:
        wait_until(lambda: _listens(nas_host, port), what="rclone serve s3", limit_s=20)
        if place.round_trip_us:
            with delayed(port, round_trip_us=place.round_trip_us, host=nas_host) as far:
                yield server, f"http://{nas_host.address}:{far}"
        else:
            yield server, f"http://{nas_host.address}:{port}"


def _listens(host: Host, port: int) -> bool:
    try:
        host.connect(port).close()
    except OSError:
        return False
    return True


@contextmanager
def _running(command: Sequence[str], host: Host) -> Iterator[int]:
    """A process in the foreground, in a namespace: nsenter becomes it."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*host.prefix, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process.pid
        except BaseException as error:
            log.seek(0)
            error.add_note(f"{command[0]} said: {log.read()[-3000:].decode(errors='replace')}")
            raise
        finally:
            end_process(process)


@contextmanager
def _mount_point(place: Place) -> Iterator[Path]:
    """A folder that nothing is mounted at afterwards. Only the one above is looked at: a mount may hang."""
    folder = Path(tempfile.mkdtemp(prefix="mount-", dir=place.disk))
    (folder / "mnt").mkdir()
    try:
        yield folder / "mnt"
    finally:
        remove_mounts(folder)
        (folder / "mnt").rmdir()
        folder.rmdir()


@contextmanager
def _cache(place: Place) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cache-", dir=place.disk, ignore_cleanup_errors=True) as name:
        yield Path(name)


def _await_mount(target: Path) -> None:
    wait_until(lambda: bool(mounts_below(target.parent)), what=f"a mount at {target}", limit_s=_MOUNTED_LIMIT_S)
