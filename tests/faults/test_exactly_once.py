"""A call is executed by the NAS, its daemon is killed before it hears of it, and the successor gets the request again.

The application sees what it would have seen; the NAS has it once; and what another client did in between stays. Each
with the server's cache of replies and without: with it the successor's copy of the call finds the first one's answer,
without it the objects must be told apart. And each as on the running kernel, which delivers the request again, and as
on Linux 5.10, where it is replayed from the saved state.
"""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.proxy import Procedure, Proxy
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.processes import wait_until

CACHES = {"replies cached": "", "no cache": "DRC_Disabled = true;"}
MASKS = ["running", "5.10"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A folder of the test's own on a mount, `target`, through a proxy, and the NAS's own view of that folder."""

    keeper: Keeper
    proxy: Proxy
    target: Path
    mount: Path
    behind: Path
    server: Nas
    has_cache: bool

    def kill_daemon(self) -> None:
        """SIGKILL; returns when the next one serves."""
        self.keeper.replace_daemon(self.target)

    def dies_after(
        self,
        procedure: Procedure,
        action: Callable[[], Any],
        *,
        first: Callable[[], object] = lambda: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Any:
        """`action` makes a call, executed after `first`; then `meanwhile`; then the daemon dies unanswered."""
        with self.proxy.held(procedure, reply=True, first=first) as hold:
            outcome = Outcome(action)
            hold.wait()
            meanwhile()
            self.kill_daemon()
        return outcome.result()

    def dies_before(
        self, procedure: Procedure, action: Callable[[], Any], *, meanwhile: Callable[[], object] = lambda: None
    ) -> Any:
        """`action` makes a call of `procedure`, which never reaches the server; then the same."""
        with self.proxy.held(procedure, reply=False) as hold:
            outcome = Outcome(action)
            hold.wait()
            meanwhile()
            self.kill_daemon()
            return outcome.result()


class Outcome(threading.Thread):
    """What a system call returns or raises."""

    def __init__(self, action: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._action = action
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._action()
        except BaseException as error:
            self._error = error

    def result(self, limit_s: float = 20) -> Any:
        """Waits for it."""
        self.join(limit_s)
        assert not self.is_alive(), "the call does not end"
        if self._error is not None:
            raise self._error
        return self._value


@pytest.fixture(scope="module", params=CACHES)
def server(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[Nas]:
    """With a cache of replies, and without."""
    with Nas(options=CACHES[request.param]) as nas:
        yield nas


@pytest.fixture(params=MASKS)
def scene(server: Nas, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with Proxy(server.port) as proxy, Keeper() as keeper:
        url = server.url_of("export", port=proxy.port)
        # Names and attributes are trusted for long, so that a call is not preceded by questions.
        # Writes are calls of their requests.
        options = [
            "connections=2",
            "entry-ttl=60s",
            "attr-ttl=60s",
            "write-behind=0s",
            f"fuse-features={request.param}",
        ]
        with keeper.mounted(url, options=options) as mount:
            name = f"{request.node.originalname}-{request.param}-{uuid.uuid4().hex[:8]}"
            (mount / name).mkdir(exist_ok=True)
            yield Scene(
                keeper=keeper,
                proxy=proxy,
                target=mount,
                mount=mount / name,
                behind=server.export_folder() / name,
                server=server,
                has_cache=not server.options,
            )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- what is made


def test_mkdir(scene: Scene) -> None:
    scene.dies_after(Procedure.MKDIR, lambda: (scene.mount / "made").mkdir())
    assert names(scene.behind) == ["made"]
    with pytest.raises(FileExistsError):
        (scene.mount / "made").mkdir()


def test_mkdir_of_two_has_one_winner(scene: Scene) -> None:
    with pytest.raises(FileExistsError):
        scene.dies_before(
            Procedure.MKDIR, lambda: (scene.mount / "lock").mkdir(), meanwhile=lambda: (scene.behind / "lock").mkdir()
        )


def test_mkdir_that_had_lost_has_lost(scene: Scene) -> None:
    """The other was first, and the daemon dies before it hears of it."""
    with pytest.raises(FileExistsError):
        scene.dies_after(
            Procedure.MKDIR, lambda: (scene.mount / "lock").mkdir(), first=lambda: (scene.behind / "lock").mkdir()
        )


def exclusively(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)


@pytest.mark.parametrize("procedure", [Procedure.CREATE, Procedure.SETATTR])
def test_exclusive_create(scene: Scene, procedure: Procedure) -> None:
    """SETATTR: the second half, after which the server no longer knows the verifier."""
    name = procedure.name
    descriptor = scene.dies_after(procedure, lambda: exclusively(scene.mount / name))
    os.write(descriptor, b"content")
    os.close(descriptor)
    assert (scene.behind / name).read_bytes() == b"content"
    assert stat.S_IMODE((scene.behind / name).stat().st_mode) == 0o640
    with pytest.raises(FileExistsError):
        exclusively(scene.mount / name)


def test_exclusive_create_of_two_has_one_winner(scene: Scene) -> None:
    with pytest.raises(FileExistsError):
        scene.dies_before(
            Procedure.CREATE,
            lambda: exclusively(scene.mount / "lock"),
            meanwhile=lambda: (scene.behind / "lock").write_text("the other's"),
        )
    assert (scene.behind / "lock").read_text() == "the other's"


def test_create(scene: Scene) -> None:
    scene.dies_after(Procedure.CREATE, lambda: (scene.mount / "file").write_text("content"))
    assert (scene.behind / "file").read_text() == "content"


def test_symlink(scene: Scene) -> None:
    """Ganesha sets no times of a symbolic link that it makes: without its cache nothing tells whose it is."""
    with nullcontext() if scene.has_cache else pytest.raises(FileExistsError):
        scene.dies_after(Procedure.SYMLINK, lambda: (scene.mount / "link").symlink_to("target"))
    assert (scene.behind / "link").readlink() == Path("target")


def test_symlink_of_two_has_one_winner(scene: Scene) -> None:
    with pytest.raises(FileExistsError):
        scene.dies_before(
            Procedure.SYMLINK,
            lambda: (scene.mount / "lock").symlink_to("target"),
            meanwhile=lambda: (scene.behind / "lock").symlink_to("target"),
        )


def test_mknod(scene: Scene) -> None:
    scene.dies_after(Procedure.MKNOD, lambda: os.mkfifo(scene.mount / "fifo"))
    assert (scene.behind / "fifo").is_fifo()


def test_link(scene: Scene) -> None:
    (scene.mount / "file").write_text("content")
    scene.dies_after(Procedure.LINK, lambda: (scene.mount / "second").hardlink_to(scene.mount / "file"))
    assert (scene.behind / "second").stat().st_nlink == 2


def test_link_of_two_has_one_winner(scene: Scene) -> None:
    (scene.mount / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        scene.dies_before(
            Procedure.LINK,
            lambda: (scene.mount / "lock").hardlink_to(scene.mount / "mine"),
            meanwhile=lambda: (scene.behind / "lock").write_text("the other's"),
        )
    assert (scene.behind / "lock").read_text() == "the other's"


# ---------------------------------------------------------------- what is removed or moved


def test_unlink(scene: Scene) -> None:
    (scene.mount / "file").write_text("content")
    scene.dies_after(Procedure.REMOVE, lambda: (scene.mount / "file").unlink())
    assert names(scene.behind) == []


def test_unlink_spares_a_newer_file(scene: Scene) -> None:
    (scene.mount / "file").write_text("old")
    scene.dies_after(
        Procedure.REMOVE,
        lambda: (scene.mount / "file").unlink(),
        meanwhile=lambda: (scene.behind / "file").write_text("newer"),
    )
    assert (scene.behind / "file").read_text() == "newer"


def test_unlink_that_never_left(scene: Scene) -> None:
    (scene.mount / "file").write_text("content")
    scene.dies_before(Procedure.REMOVE, lambda: (scene.mount / "file").unlink())
    assert names(scene.behind) == []


def test_unlink_of_an_open_file(scene: Scene) -> None:
    with (scene.mount / "file").open("w+") as file:
        file.write("content")
        file.flush()
        scene.dies_after(
            Procedure.RENAME,
            lambda: (scene.mount / "file").unlink(),
            meanwhile=lambda: (scene.behind / "file").write_text("newer"),
        )
        file.seek(0)
        assert file.read() == "content"
    assert (scene.behind / "file").read_text() == "newer"
    wait_until(lambda: names(scene.behind) == ["file"], what="the silly name to go")


def test_rmdir(scene: Scene) -> None:
    (scene.mount / "made").mkdir()
    scene.dies_after(Procedure.RMDIR, lambda: (scene.mount / "made").rmdir())
    assert names(scene.behind) == []


def test_rmdir_spares_a_newer_directory(scene: Scene) -> None:
    (scene.mount / "made").mkdir()
    scene.dies_after(
        Procedure.RMDIR, lambda: (scene.mount / "made").rmdir(), meanwhile=lambda: (scene.behind / "made").mkdir()
    )
    assert names(scene.behind) == ["made"]


def test_rename(scene: Scene) -> None:
    (scene.mount / "from").write_text("content")
    (scene.mount / "to").write_text("replaced")
    scene.dies_after(Procedure.RENAME, lambda: (scene.mount / "from").rename(scene.mount / "to"))
    assert names(scene.behind) == ["to"]
    assert (scene.behind / "to").read_text() == "content"


def test_rename_spares_a_newer_file(scene: Scene) -> None:
    (scene.mount / "from").write_text("content")
    scene.dies_after(
        Procedure.RENAME,
        lambda: (scene.mount / "from").rename(scene.mount / "to"),
        meanwhile=lambda: (scene.behind / "from").write_text("newer"),
    )
    assert (scene.behind / "to").read_text() == "content"
    assert (scene.behind / "from").read_text() == "newer"


def test_rename_over_an_open_file(scene: Scene) -> None:
    (scene.mount / "from").write_text("content")
    with (scene.mount / "to").open("w+") as file:
        file.write("replaced")
        file.flush()
        scene.dies_after(Procedure.RENAME, lambda: (scene.mount / "from").rename(scene.mount / "to"))
        file.seek(0)
        assert file.read() == "replaced"
    assert (scene.behind / "to").read_text() == "content"
    wait_until(lambda: names(scene.behind) == ["to"], what="the silly name to go")


def test_rename_of_two_has_one_winner(scene: Scene) -> None:
    (scene.mount / "job").write_text("job")
    with pytest.raises(FileNotFoundError):
        scene.dies_before(
            Procedure.RENAME,
            lambda: (scene.mount / "job").rename(scene.mount / "mine"),
            meanwhile=lambda: (scene.behind / "job").rename(scene.behind / "the other's"),
        )
    assert names(scene.behind) == ["the other's"]


# ---------------------------------------------------------------- two copies on their way at once

COPIES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "unlink": (lambda folder: (folder / "file").unlink(), ["directory", "other"]),
    "rmdir": (lambda folder: (folder / "directory").rmdir(), ["file", "other"]),
    "rename": (lambda folder: (folder / "file").rename(folder / "other"), ["directory", "other"]),
}


@pytest.mark.parametrize("operation", COPIES)
def test_both_copies_wait_in_a_stopped_server(scene: Scene, operation: str) -> None:
    """A server executes what it has received from a daemon that is gone: here beside what the successor asks."""
    action, left = COPIES[operation]
    (scene.mount / "directory").mkdir()
    (scene.mount / "other").write_text("other")
    (scene.mount / "file").write_text("file")
    for path in scene.mount.iterdir():
        path.stat()
    count = len(scene.proxy.calls)
    scene.server.pause()
    try:
        outcome = Outcome(lambda: action(scene.mount))
        wait_until(lambda: len(scene.proxy.calls) > count, what="the call")
        arrived = scene.proxy.arrived
        scene.kill_daemon()
        wait_until(lambda: scene.proxy.arrived > arrived, what="the successor's first call")
    finally:
        scene.server.resume()
    outcome.result()
    assert names(scene.behind) == left
    for path in scene.behind.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()


# ---------------------------------------------------------------- what is appended


def test_append(scene: Scene) -> None:
    lines = [b"line %03d\n" % number for number in range(20)]
    with (scene.mount / "log").open("ab", buffering=0) as log:
        for number, line in enumerate(lines):
            if number in (7, 13):
                scene.dies_after(Procedure.WRITE, lambda: log.write(line))  # noqa: B023
            else:
                log.write(line)
    assert (scene.behind / "log").read_bytes() == b"".join(lines)


def test_append_that_never_left_spares_another(scene: Scene) -> None:
    with (scene.mount / "log").open("ab", buffering=0) as log:
        log.write(b"first\n")

        def other() -> None:
            with (scene.behind / "log").open("ab") as log:
                log.write(b"other\n")

        scene.dies_before(Procedure.WRITE, lambda: log.write(b"mine\n"), meanwhile=other)
    assert (scene.behind / "log").read_bytes() == b"first\nother\nmine\n"
