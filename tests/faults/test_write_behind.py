"""Data that is held back: what it outlives, who sees it, and who hears when the NAS refuses it."""

# ruff: noqa: F811 - a fixture of another module
from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.test_uncommitted import KIB, Scene, scene  # noqa: F401 - the fixture
from tests.faults.writer import Writer
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.scripted_nas import Call, ScriptedNas, u32, wcc

pytestmark = pytest.mark.timeout(180)

#: Nothing is sent because it is old.
HELD = ["write-behind=60s"]
#: Methods of the scene, or of its NAS.
EVENTS: dict[str, list[str]] = {
    "daemon": ["daemon_dies"],
    "daemon, daemon": ["daemon_dies", "daemon_dies"],
    "keeper, daemon": ["keeper_dies", "daemon_dies"],
    "daemon, server, daemon": ["daemon_dies", "server_dies", "daemon_dies"],
    "frozen NAS, daemon, upgrade": ["pause", "daemon_dies", "upgrade", "resume"],
    "upgrade, server": ["upgrade", "server_dies"],
}


def unsent_bytes(scene: Scene) -> int:
    """As the daemon says."""
    return int(scene.keeper.status(scene.mount)["stats"]["writing"]["unsent_bytes"])


@pytest.mark.parametrize("scene", [HELD], indirect=True)
@pytest.mark.parametrize("events", EVENTS)
def test_it_outlives_what_may_die(scene: Scene, events: str) -> None:
    with Writer(scene.mount) as writer:
        writer.open("small")
        writer.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in range(40):
            scene.write(writer, "small", number * 4 * KIB - number * 10, number, 4 * KIB)
            scene.write(writer, "log", -1, number, 100)
        assert (scene.behind / "small").stat().st_size == 0
        assert unsent_bytes(scene) == 40 * (4 * KIB + 100)
        for event in EVENTS[events]:
            getattr(scene if hasattr(scene, event) else scene.nas, event)()
        scene.write(writer, "small", 0, 99, 10)
        if "server" not in events:  # what it has lost it gets again at the next COMMIT
            assert (scene.mount / "small").read_bytes() == scene.files["small"]
        writer.sync("small")
        writer.close("log")
        assert unsent_bytes(scene) == 0
        scene.check()


@pytest.mark.parametrize("scene", [HELD], indirect=True)
def test_the_end_of_a_process_is_a_close(scene: Scene) -> None:
    for number in range(100):
        subprocess.run(["sh", "-c", f"echo {number} > {scene.mount}/file"], check=True, timeout=60)
        assert (scene.behind / "file").read_text() == f"{number}\n"


@pytest.mark.parametrize("scene", [HELD], indirect=True)
def test_times_and_modes_that_are_set_before_the_close_stay(scene: Scene) -> None:
    path = scene.mount / "file"
    with path.open("wb") as file:
        file.write(b"data")
        file.flush()
        os.utime(file.fileno(), (1_000_000, 2_000_000))
        os.fchmod(file.fileno(), 0o4751)
        file.write(b"")
    found = (scene.behind / "file").stat()
    assert (found.st_mtime, found.st_mode & 0o7777, found.st_size) == (2_000_000, 0o4751, 4)


def test_no_size_falls_under_its_writer(keeper: Keeper, nas: Nas) -> None:
    """Whoever looks at the file beside its writer sees it grow, by whatever call."""
    with keeper.mounted(nas.url_of("export"), options=["write-behind=20ms"]) as mount:
        path, is_over, fell = mount / "growing", threading.Event(), []
        path.touch()

        def look() -> None:
            largest, number = 0, 0
            while not is_over.is_set():
                number += 1
                link = mount / f"link-{number}"
                sizes = [path.stat().st_size, _listed(mount, "growing")]
                with path.open("rb") as reader:
                    sizes.append(reader.seek(0, os.SEEK_END))
                os.link(path, link)
                sizes.append(link.stat().st_size)
                link.unlink()
                for size in sizes:
                    if size < largest:
                        fell.append((largest, size))
                    largest = max(largest, size)

        watcher = threading.Thread(target=look)
        watcher.start()
        with path.open("r+b", buffering=0) as file:
            for number in range(1500):
                assert file.write(bytes([number % 256]) * 1000) == 1000
                assert os.fstat(file.fileno()).st_size == (number + 1) * 1000
        is_over.set()
        watcher.join(60)
        assert fell == []
        expected = b"".join(bytes([number % 256]) * 1000 for number in range(1500))
        assert path.read_bytes() == (nas.export_folder() / "growing").read_bytes() == expected


def _listed(folder: Path, name: str) -> int:
    with os.scandir(folder) as entries:
        return next(entry.stat().st_size for entry in entries if entry.name == name)


class RefusingNas(ScriptedNas):
    """A server that refuses WRITEs with this status, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.hook = self._refuse

    def _refuse(self, call: Call) -> bytes:
        if call.procedure == "WRITE" and self.status:
            return call.answer(u32(self.status) + wcc(None))
        return call.reply


@pytest.fixture
def refusing() -> Iterator[tuple[RefusingNas, Keeper, Path]]:
    with RefusingNas() as nas, Keeper() as keeper, keeper.mounted(nas.url, options=HELD) as path:
        nas.add(nas.root, "file", data=bytes(100))
        yield nas, keeper, path


#: What the NAS says (RFC 1813), and what applications hear.
REFUSALS = {5: errno.EIO, 13: errno.EACCES, 28: errno.ENOSPC, 69: errno.EDQUOT, 70: errno.ESTALE}


@pytest.mark.parametrize("deaths", [0, 1], ids=["one daemon", "killed in between"])
@pytest.mark.parametrize("status", REFUSALS)
def test_every_open_hears_what_was_refused(
    refusing: tuple[RefusingNas, Keeper, Path], status: int, deaths: int
) -> None:
    nas, keeper, path = refusing
    heard = REFUSALS[status]
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer(path)) for _ in range(3)]
        for number, writer in enumerate(writers):
            writer.open("file", os.O_RDWR)
            writer.write("file", number * 10, number, 10)
        nas.status = status
        for _ in range(deaths):
            keeper.replace_daemon(path)  # the next one sends at once
        assert writers[0].errno_of("sync", "file") == heard
        nas.status = 0
        assert writers[0].errno_of("sync", "file") == 0, "once"
        for _ in range(deaths):
            keeper.replace_daemon(path)
        assert writers[1].errno_of("write", "file", 0, 7, 10) == heard
        assert writers[1].errno_of("write", "file", 0, 7, 10) == 0
        assert writers[1].errno_of("close", "file") == 0
        assert writers[2].errno_of("close", "file") == heard
