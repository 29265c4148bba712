"""Workers: real memcached servers, unmodified and set up as anybody may, on loopback.

A worker can be treated badly: killed, frozen, started anew without what it held; and what it holds can be read and
changed by whoever reaches its port, which is what :meth:`Worker.spoil` and its like do.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from csi.cli.worker import write_key
from tests.support.nas import free_ports
from tests.support.netns import Host
from tests.support.paths import program
from tests.support.processes import end_process, processes, stop_process, wait_until

_SECONDS_MAX = 20.0


class Worker:
    """A worker that runs inside a `with` block."""

    def __init__(
        self, *, memory_mib: int = 256, is_ours: bool = False, host: Host | None = None, tls: Path | None = None,
        tls_name: str = "",
    ) -> None:  # fmt: skip
        """It may be started and ended in between. ``is_ours``: `efc worker` starts it.

        ``host`` is the network namespace in which it runs, ``tls`` a folder of :func:`certificates` of its address: it
        speaks nothing but TLS then, and :meth:`questions` and the like cannot ask it. ``tls_name`` is what its
        certificate names if that is not its address.
        """
        self.address = host.address if host else "127.0.0.1"
        self.port = free_ports("127.0.0.1", count=1)[0]
        self._memory_mib, self._is_ours, self._host, self._tls = memory_mib, is_ours, host, tls
        self._tls_name = tls_name or self.address
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it."""
        self.end()

    @property
    def endpoint(self) -> str:
        """`HOST:PORT`."""
        return f"{self.address}:{self.port}"

    def start(self) -> None:
        """Starts it, empty."""
        command = ["memcached", "-u", "nobody", "-U", "0", "-I", "2m", "-m", str(self._memory_mib), "-l", self.endpoint]
        if self._is_ours:
            command = [str(program("efc")), "worker", f"--memory={self._memory_mib}MiB", f"--listen={self.endpoint}"]
        if self._tls is not None:
            names = (("certificate", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt"))
            command += [f"--tls-{option}={self._tls / name}" for option, name in names]
        self._server = subprocess.Popen([*(self._host.prefix if self._host else ()), *command])
        wait_until(self._answers, what=f"the worker at {self.endpoint}", limit_s=_SECONDS_MAX)
        if self._is_ours:  # its child sets memory aside
            wait_until(lambda: self.pid not in [one.parent_pid for one in processes()], what="its memory", limit_s=300)

    def kill(self) -> None:
        """SIGKILL; :meth:`start` makes the next one."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()
        self._server = None

    def end(self) -> None:
        """Ends it, if it runs."""
        if self._server is not None:
            end_process(self._server)
            self._server = None

    def freeze(self) -> None:
        """It goes on after :meth:`thaw`."""
        assert self._server is not None
        stop_process(self._server.pid)

    def thaw(self) -> None:
        """After :meth:`freeze`."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Process id of memcached."""
        assert self._server is not None
        return self._server.pid

    def user(self) -> int:
        """Whose process it is."""
        return Path(f"/proc/{self.pid}").stat().st_uid

    def questions(self) -> int:
        """How often it was asked for a value since it was started."""
        return int(self._stats()["cmd_get"])

    def spoil(self) -> int:
        """Flips one bit in the middle of each value; how many there were. A marker, which is empty, stays."""

        def spoiled(value: bytes) -> bytes:
            data = bytearray(value)
            if data:
                data[len(data) // 2] ^= 1
            return bytes(data)

        return self.replace(spoiled)

    def replace(self, other: Callable[[bytes], bytes]) -> int:
        """Puts another value in the place of each, as anybody may who reaches the port; how many there were."""
        with self._conversation() as conversation:
            found = list(conversation.values())
            for name, value, flags in found:
                conversation.store(name, other(value), flags)
        return len(found)

    def fill(self, count: int, size: int) -> None:
        """Stores so many values of random bytes under names that nobody asks for."""
        with self._conversation() as conversation:
            for number in range(count):
                conversation.store(b"rogue-%d" % number, os.urandom(size), b"0")

    def everything(self) -> list[tuple[bytes, bytes]]:
        """All names and values, as anybody can read them who reaches the port."""
        with self._conversation() as conversation:
            return [(name, value) for name, value, _ in conversation.values()]

    def _stats(self) -> dict[str, str]:
        with self._conversation() as conversation:
            return conversation.stats()

    def _answers(self) -> bool:
        try:
            return bool(self._stats())
        except OSError:
            return False

    @contextmanager
    def _conversation(self) -> Iterator[_Conversation]:
        with self._connection() as connection:
            yield _Conversation(connection)

    @contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        if self._host is not None:
            plain = self._host.connect(self.port, limit_s=_SECONDS_MAX)
        else:
            plain = socket.create_connection((self.address, self.port), timeout=_SECONDS_MAX)
        with plain:
            if self._tls is None:
                yield plain
                return
            context = ssl.create_default_context(cafile=self._tls / "ca.crt")
            context.load_cert_chain(self._tls / "tls.crt", self._tls / "tls.key")
            with context.wrap_socket(plain, server_hostname=self._tls_name) as sealed:
                yield sealed


class _Conversation:
    """memcached's protocol (doc/protocol.txt of its sources) over one connection, as a stranger speaks it."""

    def __init__(self, connection: socket.socket) -> None:
        self._send = connection.sendall
        stream = connection.makefile("rb")
        self._line, self._take = stream.readline, stream.read

    def stats(self) -> dict[str, str]:
        self._send(b"stats\r\n")
        stats = {}
        while not (text := self._line()).startswith(b"END"):
            _, name, value = text.decode().split(" ", 2)
            stats[name] = value.strip()
        return stats

    def values(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Name, value and flags of all that is there."""
        self._send(b"lru_crawler metadump all\r\n")
        names = []
        while not (text := self._line()).startswith(b"END"):
            names.append(text.split(b" ", 1)[0].removeprefix(b"key="))
        for name in names:
            self._send(b"mg %b v f b\r\n" % name if name.endswith(b"=") else b"mg %b v f\r\n" % name)
            head = self._line().split()
            if head[0] != b"VA":
                continue  # evicted meanwhile
            value = self._take(int(head[1]) + 2)[:-2]
            yield name, value, next((word[1:] for word in head[2:] if word.startswith(b"f")), b"0")

    def store(self, name: bytes, value: bytes, flags: bytes) -> None:
        self._send(b"ms %b %d F%b\r\n" % (name, len(value), flags) + value + b"\r\n")
        assert self._line().startswith((b"HD", b"SERVER_ERROR"))


def certificates(folder: Path, *addresses: str, names: Sequence[str] = ()) -> Path:
    """A new authority's `ca.crt`, and `tls.crt` with its `tls.key`, for these IP addresses and DNS names.

    Nodes may show it too.
    """
    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    _openssl(folder, f"req -x509 {new} -subj /CN=authority -keyout ca.key -out ca.crt")
    _openssl(folder, f"req {new} -subj /CN=worker -keyout tls.key -out tls.csr")
    alternatives = [*(f"IP:{address}" for address in addresses), *(f"DNS:{name}" for name in names)]
    (folder / "names").write_text(f"subjectAltName={','.join(alternatives)}\n")
    _openssl(folder, "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out tls.crt")
    return folder


def _openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=60)


def new_key(folder: Path) -> Path:
    """A key file."""
    path = folder / "workers.key"
    write_key(path)
    return path
