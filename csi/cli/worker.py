"""``efc worker``: memcached as a worker, set up as the daemons want it; and ``efc worker key``, a data set's new key.

memcached takes this process over. What it could not work with is refused before that, in one sentence. The flags are
those that matter: values of 1 MiB and their seal fit (``-I``); chunks of 16 KiB, in which blocks of all sizes share one
class of memory (``efc/workers/src/slabs.rs`` says why); no UDP; no command that lists keys or empties the worker.
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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from csi.base.addresses import parse_address
from csi.base.errors import Code, DriverError

_MEMORY_MIB_MIN = 64
_MIB = 1 << 20
#: Beside values: connections' buffers, the hash table, threads.
_OVERHEAD_MIB = 64
_THREADS_MAX = 8
_KEY_BYTES = 32
#: Bytes of values for each header of a value of several chunks that memory is set aside for: two chunks.
_BYTES_PER_HEADER = 32 << 10
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
    _check_memory(parsed.memory)
    _check_descriptors(parsed.connections)
    arguments = memcached_arguments(parsed, host=host, port=port, tls=tls)
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
        message = f"{file} exists: a key is never replaced, as nobody could read what was sealed with it"
        raise DriverError(Code.ALREADY_EXISTS, message) from None
    except OSError as error:
        raise DriverError(Code.FAILED_PRECONDITION, f"{file} cannot be written: {error.strerror}") from error
    return 0


def memcached_arguments(parsed: argparse.Namespace, *, host: str, port: int, tls: Sequence[str] = ()) -> list[str]:
    """The command line of memcached."""
    settings = ["slab_chunk_max=16384", "slab_automove=0", *tls]
    listen = f"[{host}]" if ":" in host else host
    arguments = ["memcached", "-l", f"{listen}:{port}", "-U", "0", "-m", str(parsed.memory), "-I", "2m"]
    threads = parsed.threads or min(_THREADS_MAX, len(os.sched_getaffinity(0)))
    arguments += ["-t", str(threads), "-c", str(parsed.connections), "-F", "-X", "-o", ",".join(settings)]
    if tls:
        arguments.append("-Z")
    if os.geteuid() == 0:
        arguments += ["-u", _unprivileged_user() if _may_change_user() else "root"]
    return arguments


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
        f"there is no user {' or '.join(_UNPRIVILEGED)} for memcached to run as: start this as one that is not root"
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
        message = f"{' and '.join(missing)} must be given too: nodes and workers show each other who they are"
        raise DriverError(Code.INVALID_ARGUMENT, message)
    if any("," in str(file) for file in files.values()):
        raise DriverError(Code.INVALID_ARGUMENT, "memcached takes no files for TLS with a comma in their paths")
    if "--enable-ssl" not in subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout:
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


def _check_memory(memory: int) -> None:
    if memory < _MEMORY_MIB_MIN:
        raise DriverError(Code.INVALID_ARGUMENT, f"--memory {memory}MiB is too little: {_MEMORY_MIB_MIN}MiB or more")
    needed = memory + memory // 50 + _OVERHEAD_MIB
    there = min(_memory_limits())
    if needed > there:
        message = (
            f"--memory {memory}MiB needs {needed} MiB with what memcached takes beside values, "
            f"and this machine or container has {there} MiB"
        )
        raise _refuse(message)


def _memory_limits() -> Iterator[int]:
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB
    for file in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            yield int(file.read_text()) // _MIB


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
        prime(host, port, items=parsed.memory * _MIB // _BYTES_PER_HEADER, context=context)
    except OSError as error:
        print(
            f"efc: no memory was set aside for headers, so the worker may refuse small files: {error}", file=sys.stderr
        )
        status = 1
    finally:
        os._exit(status)


def prime(host: str, port: int, *, items: int, context: ssl.SSLContext | None) -> None:
    """Sets so many items of the size of a header, and deletes them: memory of a size stays memory of that size.

    The worker then holds nothing, and says so. Raises OSError.
    """
    with _connection(host, port, context) as worker:
        for command in ("ms efc-{:028d} 40 q\r\n" + "-" * 40 + "\r\n", "md efc-{:028d} q\r\n"):
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
