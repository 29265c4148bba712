"""Containers, as far as a volume is concerned: processes in mount namespaces of their own, with mounts that they got.

Nothing that happens to mounts outside reaches one (private propagation, as without HostToContainer), and of EFC it has
only what was bound for it. It does what it is told over a pipe, so that no process of the test has a file of a mount
open.

`python -m tests.support.containers JSON` is the process.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.id_mapped import become_pod, unshare_mounts
from tests.support.mounts import all_mounts, detach
from tests.support.paths import ROOT

_POLL_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Bind:
    """`source` (a directory or a file) at `place`, remounted with `options`."""

    source: str
    place: str
    options: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Polled:
    """What opening a file again and again has come to; times are of time.monotonic(), which processes share."""

    opens: int
    errors: dict[str, int]
    last_error_at: float
    last_open_at: float


@dataclass(kw_only=True)
class Container:
    """Runs inside a `with` block. With `first_id` it is a pod with a user namespace, its one mount id-mapped."""

    binds: Sequence[Bind]
    first_id: int | None = None
    tmpfs_at: str | None = None
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        spec = {"binds": [asdict(bind) for bind in self.binds], "first_id": self.first_id, "tmpfs_at": self.tmpfs_at}
        command = [sys.executable, "-m", "tests.support.containers", json.dumps(spec)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate(timeout=20)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def read(self, path: Path | str) -> str:
        """A file's content. Raises OSError, as all of these."""
        return str(self._do("read", str(path)))

    def write(self, path: Path | str, text: str) -> None:
        """A new file."""
        self._do("write", str(path), text)

    def names(self, path: Path | str) -> list[str]:
        """A directory's entries."""
        return list(self._do("names", str(path)))

    def change_directory(self, path: Path | str) -> None:
        """To have it as its working directory from now on."""
        self._do("change_directory", str(path))

    def hold(self, path: Path | str) -> None:
        """Opens a file for reading and keeps it open."""
        self._do("hold", str(path))

    def read_held(self) -> str:
        """The content of what is held, from its beginning."""
        return str(self._do("read_held"))

    def poll(self, path: Path | str, text: str) -> None:
        """Opens `path` again and again from now on, and compares it with `text`."""
        self._do("poll", str(path), text)

    def polled(self) -> Polled:
        """What that has come to so far."""
        return Polled(**self._do("polled"))

    def mounts(self) -> list[tuple[str, str, frozenset[str]]]:
        """(place, root in the file system, options) of its mounts of EFC."""
        return [(place, root, frozenset(options)) for place, root, options in self._do("mounts")]

    def _do(self, *words: str) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the container ended with status {self._process.wait(10)}"
        answer = json.loads(line)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return answer["result"]


# ------------------------------------------------------------ inside


class _Inside:
    def __init__(self) -> None:
        self.held = -1
        self.lock = threading.Lock()
        self.report: dict[str, Any] = {"opens": 0, "errors": {}, "last_error_at": 0.0, "last_open_at": 0.0}

    def read(self, path: str) -> str:
        return Path(path).read_text()

    def write(self, path: str, text: str) -> None:
        Path(path).write_text(text)

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def change_directory(self, path: str) -> None:
        os.chdir(path)

    def hold(self, path: str) -> None:
        self.held = os.open(path, os.O_RDONLY)

    def read_held(self) -> str:
        os.posix_fadvise(self.held, 0, 0, os.POSIX_FADV_DONTNEED)  # what is cached outlives everybody
        return os.pread(self.held, 1 << 20, 0).decode()

    def mounts(self) -> list[tuple[str, str, list[str]]]:
        found = [mount for mount in all_mounts() if mount.kind == "fuse.efc"]
        return [(str(mount.target), mount.root, sorted(mount.options)) for mount in found]

    def poll(self, path: str, text: str) -> None:
        threading.Thread(target=self._poll, args=(path, text), daemon=True).start()

    def _poll(self, path: str, text: str) -> None:
        while True:
            try:
                outcome = "" if Path(path).read_text() == text else "wrong content"
            except OSError as error:
                outcome = errno.errorcode[error.errno or 0]
            with self.lock:
                if outcome:
                    self.report["errors"][outcome] = self.report["errors"].get(outcome, 0) + 1
                    self.report["last_error_at"] = time.monotonic()
                else:
                    self.report["opens"] += 1
                    self.report["last_open_at"] = time.monotonic()
            time.sleep(_POLL_S)

    def polled(self) -> dict[str, Any]:
        with self.lock:
            return dict(self.report)


def _set_up(spec: dict[str, Any]) -> None:
    binds = [Bind(**bind) for bind in spec["binds"]]
    if spec["first_id"] is not None:
        (bind,) = binds
        become_pod(Path(bind.source), at=Path(bind.place), first_id=spec["first_id"])
        return
    unshare_mounts()
    others = [mount.target for mount in all_mounts() if mount.kind == "fuse.efc"]
    for bind in binds:
        subprocess.run(["mount", "--rbind", bind.source, bind.place], check=True)
        subprocess.run(["mount", "--make-private", bind.place], check=True)
        if bind.options:
            subprocess.run(["mount", "-o", ",".join(["remount", "bind", *bind.options]), bind.place], check=True)
    if spec["tmpfs_at"]:
        subprocess.run(["mount", "-t", "tmpfs", "none", spec["tmpfs_at"]], check=True)
    for target in others:
        detach(target)


def main() -> None:
    """Sets up, says so, and obeys line by line."""
    _set_up(json.loads(sys.argv[1]))
    os.chdir("/")
    inside = _Inside()
    print(json.dumps({"result": None}), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        operation: Callable[..., Any] = getattr(inside, name)
        try:
            answer = {"result": operation(*arguments)}
        except OSError as error:
            answer = {"errno": error.errno}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
