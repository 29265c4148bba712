"""``efc worker``: memcached as a worker, set up as the daemons want it; and ``efc worker key``, a data set's new key.

memcached takes this process over. What it could not work with is refused before that, in one sentence. The flags are
those that matter: values of 1 MiB and their seal fit (``-I``); chunks of 16 KiB, in which blocks of all sizes share one
class of memory (``efc/workers/src/slabs.rs`` says why); no UDP; no command that lists keys or empties the worker.

With ``--disk`` what memory has no room for goes to files (memcached's extstore). Each is a file without a name in the
directory that is given, which ends with the process: nothing is left behind, and two workers never share one.
"""

import argparse
import contextlib
import os
import pwd
import re
import resource
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from csi.base import workers
from csi.base.addresses import joined_address, parse_address
from csi.base.errors import Code, DriverError
from csi.cli.figures import size as shown_size

_THREADS_MAX = 8
_KEY_BYTES = 32
#: Lengths of values that make an item of the size of a header, and of the size of what is kept of a value in a file.
_HEADER_LENGTH, _PLACE_LENGTH = 40, 20
#: Pages of files in MiB, each written as a whole (in pieces of 16 MiB at most). A value lies in one piece, so smaller
#: ones waste space: of blocks of 1 MiB, with what goes with them, 7 are in 8 MiB, and 15 in 16.
_PAGE_MIB, _SMALL_PAGE_MIB, _PIECE_MIB_MAX = 16, 8, 16
_SMALL_DISK_MIB = 1024
#: memcached counts pages with 16 bits.
_PAGES_MAX = 60_000
#: Free pages below which memcached drops the oldest page; its default is a quarter of all.
_FREE_PAGES = 3
_PRIMING_SECONDS_MAX = 300.0
#: Items for which commands are sent at once: they fit into one record of TLS, and into what memcached reads at once
#: (16 KiB both). What does not fit memcached 1.6.18 may leave in OpenSSL's buffer, and wait at the socket for more.
_PRIMING_BATCH = 150
_UNPRIVILEGED = ("memcache", "nobody")
#: CAP_SETGID and CAP_SETUID, as bits (capabilities(7)).
_SETTING_IDS = 1 << 6 | 1 << 7
#: Where a container's limit stands: cgroup v2, v1.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def run(parsed: argparse.Namespace) -> int:
    """Becomes memcached; returns only for ``efc worker key``, or by an error."""
    if parsed.worker_command == "key":
        return write_key(parsed.file)
    program = _program()
    host, port = _listening_address(parsed.listen)
    tls = _tls(parsed, program)
    _check_memory(parsed.memory, disk=sum(size for _, size in parsed.disk))
    _check_descriptors(parsed.connections)
    if parsed.disk and "ext_path" not in _help(program):
        raise _refuse(f"{program} was built without extstore: take Debian's, or leave --disk out")
    disks = [(_nameless_file(directory, size), size) for directory, size in parsed.disk]
    arguments = memcached_arguments(parsed, host=host, port=port, tls=tls, disks=disks)
    if parsed.ready_file is not None:
        _remove(parsed.ready_file)
    _set_memory_aside(parsed, host=host, port=port)
    return os.execv(program, arguments)  # no shell is what is wanted


def write_key(file: Path) -> int:
    """Writes a new key into a new file that only its owner may read."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as key:
            os.fchmod(key.fileno(), 0o600)
            key.write(secrets.token_hex(_KEY_BYTES) + "\n")
            key.flush()
            os.fsync(key.fileno())
    except FileExistsError:
        message = f"{file} exists: a key is never replaced, as nobody could read what was encrypted with it"
        raise DriverError(Code.ALREADY_EXISTS, message) from None
    except OSError as error:
        raise DriverError(Code.FAILED_PRECONDITION, f"{file} cannot be written: {error.strerror}") from error
    return 0


def memcached_arguments(
    parsed: argparse.Namespace,
    *,
    host: str,
    port: int,
    tls: Sequence[str] = (),
    disks: Sequence[tuple[int, int]] = (),
) -> list[str]:
    """The command line of memcached; ``disks`` are descriptors of files, and how many MiB each may have."""
    threads = parsed.threads or min(_THREADS_MAX, len(os.sched_getaffinity(0)))
    settings = ["slab_chunk_max=16384", "slab_automove=0", *_disk_settings(disks, threads), *tls]
    memory = workers.item_memory_mib(parsed.memory, sum(size for _, size in disks))
    arguments = ["memcached", "-l", joined_address(host, port), "-U", "0", "-m", str(memory), "-I", "2m"]
    arguments += ["-t", str(threads), "-c", str(parsed.connections), "-F", "-X", "-o", ",".join(settings)]
    if tls:
        arguments.append("-Z")
    if os.geteuid() == 0:
        arguments += ["-u", _unprivileged_user() if _may_change_user() else "root"]
    return arguments


def _disk_settings(disks: Sequence[tuple[int, int]], threads: int) -> list[str]:
    """The settings of memcached's extstore; it takes sizes before files."""
    if not disks:
        return []
    total = sum(size for _, size in disks)
    page = _SMALL_PAGE_MIB if min(size for _, size in disks) < _SMALL_DISK_MIB else _PAGE_MIB
    while total // page > _PAGES_MAX:
        page *= 2
    return [
        f"ext_page_size={page}", f"ext_wbuf_size={min(page, _PIECE_MIB_MAX)}", f"ext_threads={threads}",
        f"ext_drop_under={_FREE_PAGES}", f"ext_compact_under={_FREE_PAGES + 1}",
        *(f"ext_path=/proc/self/fd/{descriptor}:{size}m" for descriptor, size in disks),
    ]  # fmt: skip


def _nameless_file(directory: Path, size: int) -> int:
    """The descriptor of a new file below ``directory`` that memcached, which inherits it, opens by that."""
    if size < workers.DISK_MIB_MIN:
        message = f"--disk {directory}={_size(size)} is too little: {workers.DISK_MIB_MIN}MiB or more"
        raise DriverError(Code.INVALID_ARGUMENT, message)
    try:
        found = os.statvfs(directory)
        descriptor, name = tempfile.mkstemp(prefix=".efc-worker-", dir=directory)
        os.unlink(name)
    except OSError as error:
        raise _refuse(f"--disk {directory}: no file can be made there: {error.strerror}") from error
    free = found.f_bavail * found.f_frsize // workers.MIB
    if free < size:
        raise _refuse(f"--disk {directory}={_size(size)}: only {shown_size(free * workers.MIB)} are free there")
    if os.geteuid() == 0 and _may_change_user():
        os.fchown(descriptor, pwd.getpwnam(_unprivileged_user()).pw_uid, -1)
    os.set_inheritable(descriptor, True)  # noqa: FBT003  # it takes no keyword
    return descriptor


def _refuse(message: str) -> DriverError:
    return DriverError(Code.FAILED_PRECONDITION, message)


def _program() -> str:
    program = shutil.which("memcached")
    if program is None:
        raise _refuse("memcached is not installed: apt-get install memcached (or what your system calls it)")
    return program


def _may_change_user() -> bool:
    """Whether root has its right to: in a container without capabilities root has nothing to drop."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return found is not None and int(found[1], 16) & _SETTING_IDS == _SETTING_IDS


def _unprivileged_user() -> str:
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise _refuse(
        f"there is no user {' or '.join(_UNPRIVILEGED)} for memcached to run as: start this as a user other than root"
    )


def _listening_address(listen: str) -> tuple[str, int]:
    host, port = parse_address(listen, noun="--listen")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)
    except OSError as error:
        raise _refuse(f"{listen} cannot be listened on: {error.strerror}") from error
    return host, port


def _tls(parsed: argparse.Namespace, program: str) -> list[str]:
    files = {"--tls-certificate": parsed.tls_certificate, "--tls-key": parsed.tls_key, "--tls-ca": parsed.tls_ca}
    missing = [name for name, file in files.items() if file is None]
    if len(missing) == len(files):
        return []
    if missing:
        message = f"{' and '.join(missing)} must be given too: nodes and workers authenticate each other"
        raise DriverError(Code.INVALID_ARGUMENT, message)
    if any("," in str(file) for file in files.values()):
        raise DriverError(Code.INVALID_ARGUMENT, "memcached accepts no TLS file with a comma in its path")
    if "--enable-ssl" not in _help(program):
        raise _refuse(f"{program} was built without TLS: take Debian's, or leave --tls-certificate and the others out")
    tls_context(parsed)
    return [
        f"ssl_chain_cert={parsed.tls_certificate.absolute()}", f"ssl_key={parsed.tls_key.absolute()}",
        f"ssl_ca_cert={parsed.tls_ca.absolute()}", "ssl_verify_mode=2", "ssl_min_version=3",
    ]  # fmt: skip


def tls_context(parsed: argparse.Namespace) -> ssl.SSLContext:
    """A client of this very worker, with the worker's own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    what = str(parsed.tls_ca)
    try:
        context.load_verify_locations(parsed.tls_ca)
        what = f"{parsed.tls_certificate} with {parsed.tls_key}"
        context.load_cert_chain(parsed.tls_certificate, parsed.tls_key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise _refuse(f"{what} cannot be used for TLS: {reason}") from error
    return context


def _help(program: str) -> str:
    return subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout


def _check_memory(memory: int, *, disk: int) -> None:
    if memory < workers.MEMORY_MIB_MIN:
        message = f"--memory {_size(memory)} is too little: {workers.MEMORY_MIB_MIN}MiB or more"
        raise DriverError(Code.INVALID_ARGUMENT, message)
    needed = workers.process_memory_mib(memory, disk)
    there = min(_memory_limits())
    if needed > there:
        with_disk = f" with --disk of {_size(disk)}" if disk else ""
        message = (
            f"--memory {_size(memory)}{with_disk} needs {shown_size(needed * workers.MIB)} with what memcached takes "
            f"beside values, and this machine or container has {shown_size(there * workers.MIB)}"
        )
        raise _refuse(message)


def _size(mebibytes: int) -> str:
    """As it is written on the command line: in the largest unit in which it is whole."""
    for unit, mebibytes_each in (("TiB", 1 << 20), ("GiB", 1 << 10)):
        if mebibytes and mebibytes % mebibytes_each == 0:
            return f"{mebibytes // mebibytes_each}{unit}"
    return f"{mebibytes}MiB"


def _memory_limits() -> Iterator[int]:
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // workers.MIB
    for file in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            yield int(file.read_text()) // workers.MIB


def _check_descriptors(connections: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() != 0 and hard != resource.RLIM_INFINITY and connections + 64 > hard:
        raise _refuse(f"--connections {connections} needs more open files than this user may have ({hard})")


def _set_memory_aside(parsed: argparse.Namespace, *, host: str, port: int) -> None:
    """Has a child of this process make memcached set memory aside for headers, once it listens."""
    context = tls_context(parsed) if parsed.tls_ca else None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # memcached inherits that, and has no child to wait for
    if os.fork() != 0:
        return
    status = 0
    try:
        headers = parsed.memory * workers.MIB // workers.BYTES_PER_HEADER
        prime(host, port, items=headers, context=context)
        places = sum(size for _, size in parsed.disk) * workers.MIB // workers.BYTES_PER_PLACE
        prime(host, port, items=places, context=context, length=_PLACE_LENGTH)
    except OSError as error:
        print(
            f"efc: no memory was set aside for headers, so the worker may refuse small files: {error}", file=sys.stderr
        )
        status = 1
    finally:
        if parsed.ready_file is not None:
            with contextlib.suppress(OSError):
                parsed.ready_file.touch()
        os._exit(status)


def _remove(file: Path) -> None:
    """Removes what a worker before this one has left, where another can be made."""
    try:
        file.touch()
        file.unlink()
    except OSError as error:
        raise _refuse(f"--ready-file {file} cannot be made: {error.strerror}") from error


def prime(host: str, port: int, *, items: int, context: ssl.SSLContext | None, length: int = _HEADER_LENGTH) -> None:
    """Sets so many items of ``length`` bytes, by default a header's, and deletes them: their memory stays theirs.

    The worker then holds nothing, and says so. Raises OSError.
    """
    key = f"efc{length:02}-{{:026d}}"
    with _connection(host, port, context) as worker:
        for command in (f"ms {key} {length} q\r\n{'-' * length}\r\n", f"md {key} q\r\n"):
            for begin in range(0, items, _PRIMING_BATCH):
                batch = range(begin, min(items, begin + _PRIMING_BATCH))
                worker.sendall("".join(map(command.format, batch)).encode() + b"mn\r\n")
                _await_end(worker)


def _await_end(worker: socket.socket) -> None:
    """Returns when commands that say nothing, and the one behind them, are done."""
    answer = b""
    while not answer.endswith(b"MN\r\n"):
        piece = worker.recv(4096)
        if not piece:
            raise ConnectionResetError("the connection was closed")
        answer += piece


@contextlib.contextmanager
def _connection(host: str, port: int, context: ssl.SSLContext | None) -> Iterator[socket.socket]:
    memcached, deadline = os.getppid(), time.monotonic() + _PRIMING_SECONDS_MAX
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
    while True:
        try:
            plain = socket.create_connection((wildcards.get(host, host), port), timeout=_PRIMING_SECONDS_MAX)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline or os.getppid() != memcached:
                raise
            time.sleep(0.05)
    with plain if context is None else context.wrap_socket(plain) as worker:
        yield worker
