"""PostgreSQL with its data on the folder: pgbench, a kill of the whole server, recovery, and amcheck of everything."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.foreign.places import Place, run
from tests.support.processes import wait_until

USER = "postgres"
SECONDS = 8


def _programs() -> Path:
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


class Server:
    """One server on a folder, with its socket beside it on this machine's own disk."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.data, self.sockets = folder / "data", sockets
        self.bin = _programs()
        self._process: subprocess.Popen[bytes] | None = None
        self.log = sockets / "log"

    def run(self, program: str, *arguments: str | Path) -> str:
        environment = {"PGHOST": str(self.sockets), "PGUSER": USER, "PGDATABASE": "postgres"}
        return run(self.bin / program, *arguments, cwd=self.sockets, user=USER, environment=environment)

    def make(self) -> None:
        self.run("initdb", "--pgdata", self.data, "--auth=trust", "--data-checksums", "--no-sync")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, "-k", self.sockets, "-c", "listen_addresses=",
                 "-c", "shared_buffers=32MB", "-c", "checkpoint_timeout=30s", "-c", "max_wal_size=64MB"],
                stdout=log, stderr=log, user=USER, group=USER, extra_groups=[], start_new_session=True, cwd="/",
            )  # fmt: skip

        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            asked = subprocess.run([self.bin / "pg_isready", "-q", "-h", self.sockets], check=False)
            return asked.returncode == 0

        wait_until(ready, what="PostgreSQL to accept connections", limit_s=120, interval_s=0.2)

    def crash(self) -> None:
        """SIGKILL of all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}").glob("children"):
            for pid in child.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        self._process.wait(60)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(60)


def test_postgresql(place: Place, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)

    def work(folder: Path) -> None:
        sockets = tmp_path / "sockets"
        shutil.rmtree(sockets, ignore_errors=True)
        sockets.mkdir()
        shutil.chown(sockets, USER, USER)
        shutil.chown(folder, USER, USER)
        server = Server(folder, sockets)
        server.make()
        server.start()
        try:
            server.run("pgbench", "--initialize", "--quiet", "--scale=2")
            server.run("pgbench", "--client=4", "--jobs=2", f"--time={SECONDS}", "--no-vacuum")
            before = int(server.run("psql", "-Atc", "SELECT count(*) FROM pgbench_history"))
            server.crash()
            (server.data / "postmaster.pid").unlink()
            server.start()
            assert int(server.run("psql", "-Atc", "SELECT count(*) FROM pgbench_history")) == before
            sums = "(SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)"
            assert server.run("psql", "-Atc", f"SELECT {sums}").strip() == "t"
            server.run("psql", "-c", "CREATE EXTENSION amcheck")
            server.run("pg_amcheck", "--all", "--heapallindexed", "--install-missing")
            server.run("psql", "-c", "VACUUM FULL")
        finally:
            server.stop()
        server.run("pg_checksums", "--check", "--pgdata", server.data)

    place.work(work)
