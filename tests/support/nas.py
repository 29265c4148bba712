"""A real NAS: nfs-ganesha with its VFS back end, on loopback (or inside a network namespace), on ports of its own.

It needs no rpcbind, no D-Bus and no kernel server, keeps everything in one folder, and can be treated badly: stopped,
killed, started anew on the same ports, frozen in the middle of a request. `Attr_Expiration_Time = 0`, so that what a
test changes behind the server's back in an export's folder is seen at once.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.paths import RESULTS, SUPPORT
from tests.support.processes import SLOWNESS, TimeLimitError, cpu_s, end_process, stop_process, wait_until

NFS_PROGRAM = 100003
MOUNT_PROGRAM = 100005


@dataclass(frozen=True, kw_only=True)
class Export:
    """One exported folder. `path` is made inside the server's own folder when it is None."""

    name: str = "export"
    path: Path | None = None
    access: str = "RW"  # RW, RO, or None: mounting is refused
    squash: str = "No_Root_Squash"  # Root_Squash and All_Squash map to uid and gid 65534
    options: str = ""  # further lines of the EXPORT block


@dataclass(kw_only=True)
class Nas:
    """A server that runs inside a `with` block.

    `command_prefix` is put before the server's command line, for example to enter a network namespace; `address` must
    be one of that namespace. Logs stay in `folder` until the block ends; after an exception they are kept.
    """

    exports: Sequence[Export] = (Export(),)
    address: str = "127.0.0.1"
    command_prefix: Sequence[str] = ()
    options: str = ""  # further lines of the NFS_CORE_PARAM block
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="efc-nas-")))
    port: int = 0  # TCP port of NFS; a free one when it is 0
    mount_port: int = 0  # TCP port of the MOUNT protocol; likewise
    _server: subprocess.Popen[bytes] | None = None
    _started_at: int = 0  # seconds since the epoch

    def __enter__(self) -> Self:
        for export in self.exports:
            self.export_folder(export.name).mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self._first_start()
            on_error.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            error.add_note(f"log of the NFS server: {self._keep_log()}")
        self.close()

    def close(self) -> None:
        """Ends the server and removes its folder, exports in it included."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ what clients need

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._server is None:
            raise LookupError("the NFS server does not run")
        return self._server.pid

    @property
    def url(self) -> str:
        """URL of the first export."""
        return self.url_of(self.exports[0].name)

    def url_of(self, path: str, *, port: int = 0, mount_port: int = 0) -> str:
        """URL of an export or of a directory below one; other ports when a proxy stands in between."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"nfs://{host}:{port or self.port}/{path.lstrip('/')}?mountport={mount_port or self.mount_port}"

    def export_folder(self, name: str = "") -> Path:
        """The server's side of an export (of the first one when no name is given)."""
        for export in self.exports:
            if export.name == (name or self.exports[0].name):
                return export.path or self.folder / "exports" / export.name
        raise KeyError(name)

    def cpu_s(self) -> float:
        """CPU seconds that the running server has used."""
        return cpu_s(self.pid)

    # ------------------------------------------------------------ its life

    def start(self) -> None:
        """Starts the server on its ports and returns when it answers. Raises TimeLimitError with the log otherwise.

        Ganesha's write verifier is the second in which it started: a second start within it would look like none, and
        what the first had not committed would be lost without a client's knowledge. No real server reboots so fast.
        """
        while int(time.time()) == self._started_at:
            time.sleep(0.02)
        config = self.folder / "ganesha.conf"
        config.write_text(self._config())
        command = [
            *self.command_prefix,
            "ganesha.nfsd", "-F", "-f", str(config), "-L", str(self.log), "-p", str(self.folder / "ganesha.pid"),
        ]  # fmt: skip
        environment = dict(os.environ, LD_PRELOAD=str(self._rpcbind_stub()))
        self._server = server = subprocess.Popen(
            command, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            wait_until(lambda: server.poll() is not None or self.answers(), what="the NFS server to answer", limit_s=30)
            if server.poll() is not None:
                raise TimeLimitError(f"the NFS server ended with status {server.returncode}")
        except TimeLimitError as error:
            self.kill()
            raise TimeLimitError(f"{error}\n{self.log.read_text()[-2000:]}") from None
        self._started_at = int(time.time())  # or a little earlier

    def stop(self) -> None:
        """Ends the server cleanly; nothing happens when none runs."""
        if self._server is not None:
            end_process(self._server)
        self._server = None

    def kill(self) -> None:
        """SIGKILL: what it had not committed is lost."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)
        self._server = None

    def restart(self, *, crash: bool = False) -> None:
        """Ends it (SIGKILL if `crash`) and starts it on the same ports: handles stay valid, write verifiers change."""
        if crash:
            self.kill()
        else:
            self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered. `stop` and `kill` work all the same."""
        stop_process(self.pid)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def answers(self) -> bool:
        """Whether both protocols answer their NULL procedure within a second."""
        if self.command_prefix:
            return "NFS SERVER INITIALIZED" in self.log.read_text() if self.log.exists() else False
        return answers_null(self.address, self.port, program=NFS_PROGRAM) and answers_null(
            self.address, self.mount_port, program=MOUNT_PROGRAM
        )

    @property
    def log(self) -> Path:
        """The server's log of all its starts."""
        return self.folder / "ganesha.log"

    # ------------------------------------------------------------ inside

    def _first_start(self) -> None:
        given = self.port, self.mount_port
        for attempts_left in (2, 1, 0):
            free = free_ports(self.address, count=2, anywhere=bool(self.command_prefix))
            self.port, self.mount_port = given[0] or free[0], given[1] or free[1]
            try:
                self.start()
            except TimeLimitError:
                if not attempts_left:
                    raise
            else:
                return

    def _keep_log(self) -> Path:
        kept = RESULTS / "logs" / f"{self.folder.name}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            shutil.copy(self.log, kept)
        return kept

    def _rpcbind_stub(self) -> Path:
        library = self.folder / "no_rpcbind.so"
        if not library.exists():
            source = SUPPORT / "no_rpcbind.c"
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
        return library

    def _config(self) -> str:
        exports = "".join(
            f"""
EXPORT {{
    Export_Id = {number};
    Path = "{self.export_folder(export.name)}";
    Pseudo = "/{export.name}";
    Access_Type = {export.access};
    Squash = {export.squash};
    Anonymous_Uid = 65534;
    Anonymous_Gid = 65534;
    Attr_Expiration_Time = 0;
    {export.options}
    FSAL {{ Name = VFS; }}
}}"""
            for number, export in enumerate(self.exports, start=1)
        )
        return f"""
NFS_CORE_PARAM {{
    Protocols = 3;
    NFS_Port = {self.port};
    MNT_Port = {self.mount_port};
    Bind_addr = {self.address};
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Enable_UDP = false;
    mount_path_pseudo = true;
    # It answers every call. Left to itself it drops some about a file that is being removed, whatever its manual says.
    Drop_IO_Errors = false;
    Drop_Inval_Errors = false;
    Drop_Delay_Errors = false;
    {self.options}
}}
MDCACHE {{ Entries_HWMark = 100000; }}
EXPORT_DEFAULTS {{ SecType = sys; PrivilegedPort = false; Protocols = 3; Transports = TCP; }}
LOG {{ Default_Log_Level = EVENT; }}
{exports}
"""


def answers_null(address: str, port: int, *, program: int) -> bool:
    """Whether an RPC program, version 3, answers NULL (RFC 5531, section 12.1) within a second (times SLOWNESS)."""
    call = struct.pack(">10I", 1, 0, 2, program, 3, 0, 0, 0, 0, 0)
    try:
        with socket.create_connection((address, port), timeout=SLOWNESS) as connection:
            connection.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
            return len(connection.recv(28)) == 28
    except OSError:
        return False


def free_ports(address: str, *, count: int, anywhere: bool = False) -> list[int]:
    """Ports nobody listens on: below the range from which the kernel takes those of outgoing connections."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port in found:
            continue
        with socket.socket(family) as listener:
            try:
                listener.bind(("" if anywhere else address, port))
            except OSError:
                continue
        found.append(port)
    return found
