"""Workers: real memcached servers, unmodified and set up as anybody may, on loopback.

A worker can be treated badly: killed, frozen, started anew without what it held; and what it holds can be read and
changed by whoever reaches its port, which is what :meth:`Worker.spoil` does.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from csi.cli.worker import write_key
from tests.support.nas import free_ports
from tests.support.paths import program
from tests.support.processes import end_process, wait_until

_SECONDS_MAX = 20.0


class Worker:
    """A worker that runs inside a `with` block."""

    def __init__(self, *, memory_mib: int = 256, is_ours: bool = False) -> None:
        """It may be started and ended in between. ``is_ours``: `efc worker` starts it."""
        self.port = free_ports("127.0.0.1", count=1)[0]
        self._memory_mib, self._is_ours = memory_mib, is_ours
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
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, empty."""
        command = ["memcached", "-u", "nobody", "-U", "0", "-I", "2m", "-m", str(self._memory_mib), "-l", self.endpoint]
        if self._is_ours:
            command = [str(program("efc")), "worker", f"--memory={self._memory_mib}MiB", f"--listen={self.endpoint}"]
        self._server = subprocess.Popen(command)
        wait_until(self._answers, what=f"the worker at {self.endpoint}", limit_s=_SECONDS_MAX)

    def end(self) -> None:
        """Kills it, if it runs."""
        if self._server is not None:
            end_process(self._server)
            self._server = None

    def freeze(self) -> None:
        """It goes on after :meth:`thaw`."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """After :meth:`freeze`."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def user(self) -> int:
        """Whose process it is."""
        return Path(f"/proc/{self._stats()['pid']}").stat().st_uid

    def questions(self) -> int:
        """How often it was asked for a value since it was started."""
        return int(self._stats()["cmd_get"])

    def spoil(self) -> int:
        """Flips one byte in the middle of each value; how many there were."""
        with self._conversation() as (send, line, take):
            send(b"lru_crawler metadump all\r\n")
            names = []
            while not (text := line()).startswith(b"END"):
                names.append(text.split(b" ", 1)[0].removeprefix(b"key="))
            for name in names:
                send(b"mg %b v f b\r\n" % name if name.endswith(b"=") else b"mg %b v f\r\n" % name)
                head = line().split()
                assert head[0] == b"VA", head
                data = bytearray(take(int(head[1]) + 2)[:-2])
                data[len(data) // 2] ^= 1
                flags = next((word[1:] for word in head[2:] if word.startswith(b"f")), b"0")
                send(b"ms %b %d F%b\r\n" % (name, len(data), flags) + data + b"\r\n")
                assert line().startswith(b"HD")
        return len(names)

    def _stats(self) -> dict[str, str]:
        with self._conversation() as (send, line, _):
            send(b"stats\r\n")
            stats = {}
            while not (text := line()).startswith(b"END"):
                _, name, value = text.decode().split(" ", 2)
                stats[name] = value.strip()
        return stats

    def _answers(self) -> bool:
        try:
            return bool(self._stats())
        except OSError:
            return False

    @contextmanager
    def _conversation(self) -> Iterator[tuple]:  # type: ignore[type-arg]
        with socket.create_connection(("127.0.0.1", self.port), timeout=_SECONDS_MAX) as connection:
            stream = connection.makefile("rb")
            yield connection.sendall, stream.readline, stream.read


def new_key(folder: Path) -> Path:
    """A key file."""
    path = folder / "workers.key"
    write_key(path)
    return path
