"""``efc doctor``: what is wrong on this machine, what it costs, and how to fix it.

Every check is a function that returns findings and cannot hang: mounts are read from mountinfo and through the keeper,
never touched. In a container of a cluster it looks at what concerns that container (:mod:`csi.cli.node_checks`).
"""

import argparse
import asyncio
import json
import os
import platform
import re
import resource
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from csi.base import programs
from csi.base.errors import DriverError
from csi.base.text import printable
from csi.cli import node_checks
from csi.cli.finding import Finding
from csi.cli.mount_checks import check_mounts
from csi.cli.node_checks import Container
from csi.cli.unserved import own_mounts
from csi.config.sources import Source
from csi.node.keeper import Keeper
from csi.node.mount_status import condition_of
from csi.node.mounts import read_mounts
from csi.node.targets import KUBELET_ROOT, KubeletRoots

_FUSE_DEVICE = (10, 229)
_CAPABILITIES = {21: "CAP_SYS_ADMIN", 1: "CAP_DAC_OVERRIDE", 10: "CAP_NET_BIND_SERVICE", 19: "CAP_SYS_PTRACE"}
#: The first kernel with a feature, what it means to be without it, and how bad that is.
_KERNEL_FEATURES = (
    ((5, 10), "FUSE as a whole is only tested from 5.10 on", "fail"),
    (
        (6, 9),
        "what a daemon had not answered when it died is executed from its saved state (no FUSE_NOTIFY_RESEND)",
        "ok",
    ),
    ((6, 15), "pods with user namespaces cannot use volumes (option idmap)", "warn"),
    ((6, 16), "all cached names cannot be dropped at once (FUSE_NOTIFY_INC_EPOCH)", "warn"),
)
#: Of the kernel, as efcd needs them.
_PAGE_BYTES = 4096
_LOCKED_BYTES_MIN = 8 << 20
#: A little more than the 5 s after which a daemon says that the NAS does not answer.
_UNRESPONSIVE_SECONDS = 6.0
#: Fewest open files that a daemon needs, as efcd has it: with less, a busy node's requests fail with EIO.
_OPEN_FILES_MIN = 512


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc doctor``; returns 1 if a finding is a failure."""
    findings = list(_findings(parsed.run_dir, parsed.source))
    if parsed.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{_shown(finding.level)} {finding.check}: {printable(finding.message)}")
            if finding.mend:
                print(f"       -> {printable(finding.mend)}")
        print(_summary(findings))
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def _summary(findings: Sequence[Finding]) -> str:
    """The last line of the output: whether to read the others."""
    count = Counter(finding.level for finding in findings)
    if not count["fail"] and not count["warn"]:
        return f"{len(findings)} checks, all ok"
    first = next(finding for level in ("fail", "warn") for finding in findings if finding.level == level)
    return f"{count['fail']} fail, {count['warn']} warn, {count['ok']} ok; begin with: {first.message}"


def _shown(level: str) -> str:
    text = level.ljust(5)
    if not sys.stdout.isatty():
        return text
    return f"\033[{ {'ok': 32, 'warn': 33, 'fail': 31}[level] }m{text}\033[0m"


def _findings(run_dir: str, source: str | None) -> Iterator[Finding]:
    container = Container.own()
    for check in _checks(run_dir, container):
        yield from check()
    if source is not None:
        yield from check_source(source)


def _checks(run_dir: str, container: Container | None) -> Iterator[Callable[[], Iterator[Finding]]]:
    if container is None:
        yield from _OF_MACHINE
        yield lambda: check_run_dir(run_dir)
        yield lambda: check_mounts(run_dir, own_mounts())
        return
    yield lambda: node_checks.check_container(container)
    if container.keeper_run_dir is not None:
        yield from _OF_MACHINE
    if (here := container.run_dir) is not None:
        # Mounts come first: a NAS or keeper that does not answer is the reason for much else.
        yield lambda: check_mounts(here, own_mounts(), in_cluster=True)
        yield lambda: _check_shared_run_dir(here)
        if (plugin := container.plugin) is not None:
            yield lambda: _check_plugin(plugin)


def _check_shared_run_dir(run_dir: str) -> Iterator[Finding]:
    yield from check_run_dir(run_dir)
    yield from node_checks.check_propagation(run_dir, read_mounts(), who="the daemons' mounts do not reach pods")


def _check_plugin(plugin: argparse.Namespace) -> Iterator[Finding]:
    roots = [f"{root}/pods" for root in KubeletRoots(plugin.kubelet_root or [KUBELET_ROOT]).resolved]
    for root in roots:
        yield from node_checks.check_propagation(root, read_mounts(), who="volumes do not reach pods")
    yield from node_checks.check_sockets(plugin)
    if node_checks.unmounted(plugin.run_dir, read_mounts()):
        # A volume that is being mounted is mounted by then, or its daemon says what it waits for.
        time.sleep(_UNRESPONSIVE_SECONDS)
    conditions = _conditions(plugin.run_dir)
    yield from node_checks.check_records(plugin.run_dir, read_mounts(), roots=roots, conditions=conditions)
    yield from node_checks.check_allowed_sources(plugin.allowed_sources)


def _conditions(run_dir: str) -> dict[str, str]:
    """Key of each dataset that is not as it should be -> why, as far as the keeper says."""
    try:
        status = asyncio.run(Keeper(run_dir).status())
    except DriverError:
        return {}
    conditions = {os.path.basename(served.target): condition_of(served) for served in status.mounts}
    return {key: condition for key, condition in conditions.items() if condition}


def check_programs() -> Iterator[Finding]:
    """The Rust programs are installed."""
    for name in (programs.KEEPER, programs.MOUNT_HELPER, programs.NAS_CLIENT, "efcd"):
        try:
            yield Finding(check="programs", level="ok", message=programs.find(name))
        except DriverError as error:
            yield Finding(
                check="programs",
                level="fail",
                message=error.message,
                mend="make setup, or pip install the whole of EFC",
            )


def check_fuse_device() -> Iterator[Finding]:
    """/dev/fuse is there and can be opened."""
    mend = "modprobe fuse; in a container, pass /dev/fuse in"
    try:
        status = os.stat("/dev/fuse")
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        yield Finding(check="fuse", level="fail", message=f"/dev/fuse cannot be opened: {error.strerror}", mend=mend)
        return
    if not stat.S_ISCHR(status.st_mode) or (os.major(status.st_rdev), os.minor(status.st_rdev)) != _FUSE_DEVICE:
        yield Finding(check="fuse", level="fail", message="/dev/fuse is not the FUSE device", mend=mend)
    else:
        yield Finding(check="fuse", level="ok", message="/dev/fuse can be opened")


def check_kernel(release: str | None = None, page_bytes: int | None = None) -> Iterator[Finding]:
    """What this kernel's FUSE lacks, and what that costs; and whether its pages are those that daemons need."""
    release = platform.release() if release is None else release
    page_bytes = page_bytes or os.sysconf("SC_PAGE_SIZE")
    if page_bytes != _PAGE_BYTES:
        message = f"Linux {release} has pages of {page_bytes} bytes; no daemon starts"
        yield Finding(check="kernel", level="fail", message=message, mend=f"a kernel with pages of {_PAGE_BYTES} bytes")
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    lacking = False
    for first, meaning, level in _KERNEL_FEATURES:
        if version < first:
            lacking = True
            mend = "" if level == "ok" else f"Linux {first[0]}.{first[1]} or newer"
            yield Finding(check="kernel", level=level, message=f"Linux {release}: {meaning}", mend=mend)
    if not lacking:
        yield Finding(check="kernel", level="ok", message=f"Linux {release} has all that EFC uses")


def check_capabilities() -> Iterator[Finding]:
    """The capabilities that mounting, other users' files, privileged ports and /proc of callers need."""
    effective = int(re.findall(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[0], 16)
    missing = [name for bit, name in sorted(_CAPABILITIES.items()) if not effective >> bit & 1]
    if missing:
        needed = "CAP_SYS_ADMIN" in missing
        yield Finding(
            check="capabilities",
            level="fail" if needed else "warn",
            message=f"missing {', '.join(missing)}",
            mend="run as root; in a container, add them",
        )
    else:
        yield Finding(check="capabilities", level="ok", message="all privileges that mounting needs")


def check_fusectl(file_systems: str | None = None) -> Iterator[Finding]:
    """The kernel has fusectl, by which a hung mount is aborted; the keeper mounts it by itself when it needs it."""
    known = Path("/proc/filesystems").read_text() if file_systems is None else file_systems
    if "fusectl" in known.split():
        yield Finding(check="fusectl", level="ok", message="the kernel has it: mounts that hang can be aborted")
    else:
        message = "the kernel does not have it: efc umount --force and the keeper cannot abort a mount that hangs"
        yield Finding(check="fusectl", level="warn", message=message, mend="modprobe fuse")


def check_limits() -> Iterator[Finding]:
    """Memory that may be locked (the daemon's buffers), and open files."""
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY and locked < _LOCKED_BYTES_MIN:
        message = f"only {locked >> 10} KiB of memory may be locked: the daemon's buffers may be swapped out"
        yield Finding(
            check="limits",
            level="warn",
            message=message,
            mend="ulimit -l unlimited, or LimitMEMLOCK=infinity in the service",
        )
    else:
        yield Finding(check="limits", level="ok", message="memory can be locked")
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)  # the daemon raises the soft limit by itself
    if open_files != resource.RLIM_INFINITY and open_files < _OPEN_FILES_MIN:
        yield Finding(
            check="limits",
            level="warn",
            message=f"a daemon may have only {open_files} open files: on a busy node requests fail with EIO",
            mend=f"ulimit -Hn {_OPEN_FILES_MIN * 8}, or LimitNOFILE= in the service of efc-keeper or of the runtime",
        )
    else:
        yield Finding(check="limits", level="ok", message="enough files can be open")


def check_run_dir(run_dir: str) -> Iterator[Finding]:
    """Nobody but its owner may get at the keeper's socket."""
    try:
        status = os.stat(run_dir)
    except FileNotFoundError:
        yield Finding(check="run-dir", level="ok", message=f"{run_dir} does not exist yet; it is made when needed")
        return
    if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022:
        mend = f"chown root {run_dir} && chmod 700 {run_dir}"
        yield Finding(check="run-dir", level="fail", message=f"others may write in {run_dir}", mend=mend)
    else:
        yield Finding(check="run-dir", level="ok", message=f"{run_dir} is accessible to its owner only")


#: Checks of the place where mounts and daemons are made: a machine without Kubernetes, or the keeper's container.
_OF_MACHINE = (check_programs, check_fuse_device, check_kernel, check_capabilities, check_fusectl, check_limits)


def check_source(url: str) -> Iterator[Finding]:
    """The NAS answers, exports the directory, and lets us in."""
    try:
        source = Source.parse(url).canonical()
        command = [programs.find(programs.NAS_CLIENT), "stat", "--timeout-ms", "10000", "--", source, "."]
        finished = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except DriverError as error:
        yield Finding(check="source", level="fail", message=error.message, mend="see docs/CONFIGURATION.md, Sources")
        return
    except subprocess.TimeoutExpired:
        yield Finding(
            check="source",
            level="fail",
            message=f"{url} does not answer within 20 s",
            mend="check network and firewall",
        )
        return
    if finished.returncode == 0:
        yield Finding(check="source", level="ok", message=f"{source} can be read")
        return
    try:
        message = str(json.loads(finished.stderr.decode().strip().splitlines()[-1])["message"])
    except (ValueError, LookupError):
        message = finished.stderr.decode(errors="replace").strip()[:500]
    yield Finding(
        check="source",
        level="fail",
        message=message,
        mend="check the name, the port, and the NAS's list of clients (exports)",
    )
