"""Records, locks, child processes, the keeper's client and the sharing of daemons."""

import asyncio
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.base.children import Children
from csi.base.errors import Code, DriverError, from_child
from csi.base.locks import KeyedLocks
from csi.config.pods import Pod
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper, KeeperUnreachableError
from csi.node.mounts import Mounts
from csi.node.records import Publication, Publications


def publication(target: str = "/t", /, **changes: object) -> Publication:
    fields: dict[str, object] = {
        "volume_id": "v", "target": target, "source": "nfs://nas/data", "path": "p", "key": "k",
        "options": {"soft": True},
        "read_only": False, "access_mode": 1,
    }  # fmt: skip
    return Publication(**(fields | changes))  # type: ignore[arg-type]


def test_records_outlive_the_process_but_not_the_boot(tmp_path: Path) -> None:
    first = Publications(str(tmp_path), boot_id="boot-1")
    first.load()
    odd = publication("/var/../\n odd \udcff")
    first.put(publication())
    first.put(odd)
    again = Publications(str(tmp_path), boot_id="boot-1")
    assert again.load() == []
    assert again.get("/t") == publication()
    assert again.get(odd.target) == odd
    assert again.of_volume("v") != []
    again.remove("/t")
    again.remove("/t")
    assert again.get("/t") is None
    rebooted = Publications(str(tmp_path), boot_id="boot-2")
    assert len(rebooted.load()) == 1
    assert list(rebooted) == []


@pytest.mark.parametrize("field", ["target", "volume_id"])
def test_half_a_character_is_no_text(tmp_path: Path, field: str) -> None:
    """JSON can write it, and whoever prints or hashes it fails: the node plugin would not start any more."""
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    (file,) = (tmp_path / "csi" / "published").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: "/half \ud800"}))
    assert list(publications.readable()) == []
    assert publications.load() == [file]
    assert list(publications) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"boot_id": "b"}', b"\xff", b'{"boot_id": "b", "x": 1}']
)
def test_damaged_records_are_set_aside(tmp_path: Path, content: bytes) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    (file,) = (tmp_path / "csi" / "published").iterdir()
    file.write_bytes(content)
    (file.parent / "stray.new").write_bytes(b"half")
    assert len(publications.load()) == 2
    assert list(publications) == []
    assert list(file.parent.iterdir()) == []
    assert [kept.read_bytes() for kept in (tmp_path / "csi" / "damaged").iterdir()] == [content]


def test_a_record_has_the_form_that_the_first_release_reads(tmp_path: Path) -> None:
    """It throws away what has one key more, and a pod loses its volume after a downgrade."""
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    (file,) = (tmp_path / "csi" / "published").iterdir()
    names = ["volume_id", "target", "source", "path", "key", "options", "read_only", "access_mode", "boot_id"]
    assert list(json.loads(file.read_bytes())) == names


def test_pods_have_files_of_their_own(tmp_path: Path) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    web = Pod(namespace="team-a", name="web-0")
    for target in ("/t", "/other", "/nobody"):
        publications.put(publication(target))
    publications.note_pod("/t", web)
    publications.note_pod("/other", Pod(namespace="team-b", name="db"))
    publications.note_pod("/nobody", None)
    again = Publications(str(tmp_path), boot_id="b")
    assert again.load() == []
    assert [again.pod_of(target) for target in ("/t", "/nobody")] == [web, None]
    files = {path.name: path for path in (tmp_path / "csi" / "pods").iterdir()}
    assert len(files) == 2
    again.remove("/t")
    assert again.pod_of("/t") is None
    (file,) = (tmp_path / "csi" / "pods").iterdir()
    for content in (b"", b"[", b"[]", b'{"target": "/other"}', file.read_bytes().replace(b"/other", b"/t")):
        file.write_bytes(content)
        assert again.pod_of("/other") is None, "as if nobody had noted it"
    file.unlink()
    file.mkdir()
    assert again.pod_of("/other") is None
    again.remove("/other")
    assert again.get("/other") is None


def test_the_pod_of_a_record_that_another_release_removed_is_forgotten(tmp_path: Path) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    publications.note_pod("/t", Pod(namespace="team-a", name="web-0"))
    publications._folder.remove("/t")
    publications.load()
    assert list((tmp_path / "csi" / "pods").iterdir()) == []


def test_a_pod_that_cannot_be_noted_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    (tmp_path / "csi" / "pods").rmdir()
    publications.note_pod("/t", Pod(namespace="team-a", name="web-0"))
    assert "team-a/web-0" in caplog.text
    publications.remove("/t")


def test_what_a_later_release_wrote_is_kept(tmp_path: Path) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    (file,) = (tmp_path / "csi" / "published").iterdir()
    later = {"version": 2, "tier": {"disk": [1]}} | json.loads(file.read_bytes())
    del later["access_mode"], later["options"]
    file.write_text(json.dumps(later))
    assert publications.load() == []
    assert publications.get("/t") == publication(access_mode=0, options={})
    publications.put(publication())
    written = json.loads(file.read_bytes())
    assert (written["version"], written["tier"], written["access_mode"]) == (2, {"disk": [1]}, 1)
    publications.remove("/t")
    publications.put(publication())
    assert "tier" not in json.loads(file.read_bytes())


@pytest.mark.parametrize(
    "change",
    [{"read_only": None}, {"read_only": 1}, {"options": {"soft": []}}, {"target": 5}, {"key": "../../x"}, {"path": 1}],
)
def test_a_record_of_wrong_types_is_set_aside(tmp_path: Path, change: dict[str, object]) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    publications.put(publication("/other"))
    file = publications._folder.file_of("/t")
    file.write_text(json.dumps(json.loads(file.read_bytes()) | change))
    assert list(publications.readable()) == [publication("/other")]
    assert publications.load() == [file]
    assert list(publications) == [publication("/other")]


def test_a_folder_and_a_deep_record_stop_nobody(tmp_path: Path) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication("/other"))
    publications._folder.file_of("/folder").mkdir()
    publications._folder.file_of("/deep").write_bytes(b"[" * 100_000)
    publications._folder.file_of("/large").write_bytes(b" " * (1 << 20))
    assert list(publications.readable()) == [publication("/other")]
    assert len(publications.load()) == 3
    assert list(publications) == [publication("/other")]
    assert publications.load() == []


def test_few_damaged_records_are_kept(tmp_path: Path) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    for number in range(40):
        publications._folder.make()
        publications._folder.file_of(str(number)).write_bytes(b"{")
    assert len(publications.load()) == 40
    assert len(list((tmp_path / "csi" / "damaged").iterdir())) == 32


def test_a_record_counts_only_under_its_own_name(tmp_path: Path) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())
    (file,) = (tmp_path / "csi" / "published").iterdir()
    file.rename(file.with_name("0" * 32 + ".json"))
    assert len(publications.load()) == 1


def test_a_full_disk_leaves_no_half_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()

    def full(path: Path, text: str) -> None:
        with path.open("w") as file:
            file.write(text[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(DriverError, match="No space left"):
            publications.put(publication())
        publications.note_pod("/t", Pod(namespace="n", name="p"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_cannot_be_removed_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next unpublish would not know which daemon has one user less."""
    publications = Publications(str(tmp_path), boot_id="b")
    publications.load()
    publications.put(publication())

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        with pytest.raises(DriverError, match="Read-only"):
            publications.remove("/t")
    assert publications.get("/t") == publication()
    publications.remove("/t")
    assert publications.get("/t") is None


def test_same_publication() -> None:
    assert publication().is_same(publication(key="other-release"))
    for name, value in {"read_only": True, "path": "q", "options": {}, "volume_id": "w", "access_mode": 5}.items():
        assert not publication().is_same(publication(**{name: value}))


def test_locks() -> None:
    locks = KeyedLocks("target")
    with locks.hold("a"), locks.hold("b"):
        with pytest.raises(DriverError) as caught, locks.hold("a"):
            pass
        assert caught.value.code is Code.ABORTED
    with locks.hold("a"):
        pass


async def test_child_output_and_status() -> None:
    children = Children()
    finished = await children.run(
        ["/bin/sh", "-c", "cat; echo err >&2; exit 3"], deadline_seconds=5, stdin=b"x" * 200_000
    )
    assert (finished.exit_status, len(finished.stdout), finished.stderr) == (3, 200_000, b"err\n")
    killed = await children.run(["/bin/sh", "-c", "kill -9 $$"], deadline_seconds=5)
    assert killed.exit_status == -9
    with pytest.raises(DriverError, match="cannot start"):
        await children.run(["/does/not/exist"], deadline_seconds=5)


async def test_child_gets_nothing_of_ours() -> None:
    finished = await Children().run(["/bin/sh", "-c", "env; ls /proc/self/fd"], deadline_seconds=5)
    assert b"PATH=/usr/sbin" in finished.stdout
    assert b"HOME" not in finished.stdout
    descriptors = {int(line) for line in finished.stdout.split() if line.isdigit()}
    inherited = {number for number in range(3, 1024) if is_inheritable(number)}
    # 0, 1, 2, and the one by which ls reads the folder.
    assert len(descriptors - inherited) == 4


def is_inheritable(descriptor: int) -> bool:
    """Whoever started the tests may have left some open to us."""
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


async def test_deadline_kills_the_whole_group() -> None:
    children = Children()
    began = time.monotonic()
    with pytest.raises(DriverError) as caught:
        await children.run(["/bin/sh", "-c", "sleep 77 & sleep 77"], deadline_seconds=0.2, slot="s")
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 60, "it waited for its child to end by itself"
    for _ in range(100):
        if not children.is_busy("s"):
            break
        await asyncio.sleep(0.02)
    assert not children.is_busy("s")


async def test_one_child_for_a_slot() -> None:
    children = Children()
    running = asyncio.create_task(children.run(["/bin/sleep", "60"], deadline_seconds=60, slot="s"))
    await asyncio.sleep(0.05)
    with pytest.raises(DriverError) as caught:
        await children.run(["/bin/true"], deadline_seconds=5, slot="s")
    assert caught.value.code is Code.ABORTED
    assert (await children.run(["/bin/true"], deadline_seconds=5, slot="other")).exit_status == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_hung_child_keeps_its_slot() -> None:
    """A stopped process stands for one in uninterruptible sleep, as far as a test can have one: it is not reaped."""
    children = Children()
    task = asyncio.create_task(children.run(["/bin/sleep", "60"], deadline_seconds=60, slot="s"))
    await asyncio.sleep(0.05)
    assert children.is_busy("s")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children.is_busy("s")  # the reaper has not run yet
    await asyncio.sleep(0.2)
    assert not children.is_busy("s")


async def test_a_lack_of_descriptors_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call that meets it gives back what it had got: else there would never be enough again."""
    children, before = Children(), open_descriptors()
    for spare in (0, 1, 2):
        with few_descriptors(spare), pytest.raises(DriverError) as caught:
            await children.run(["/bin/true"], deadline_seconds=5)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert open_descriptors() == before

    started: list[int] = []

    def none_left(process_id: int) -> int:
        started.append(process_id)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", none_left)
        with pytest.raises(DriverError) as caught:
            await children.run(["/bin/sleep", "4711"], deadline_seconds=5, slot="s")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert (children.count, children.is_busy("s"), open_descriptors()) == (0, False, before)
    with pytest.raises(ChildProcessError):
        os.waitpid(started[0], os.WNOHANG)  # noqa: ASYNC222 - waits for nothing
    assert (await children.run(["/bin/true"], deadline_seconds=5, slot="s")).exit_status == 0


@contextlib.contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Lets this process have so many more than it has, and no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 1 + spare, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(spare):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def open_descriptors() -> set[int]:
    numbers = {int(name) for name in os.listdir("/proc/self/fd")}
    return {number for number in numbers if os.path.lexists(f"/proc/self/fd/{number}")}


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        (b'{"code":"NOT_FOUND","errno":"ENOENT","message":"m"}', Code.NOT_FOUND),
        (b'warning\n{"errno":"ENOTCONN","message":"m"}\n', Code.UNAVAILABLE),
        (b'{"errno":"EWHAT","message":"m"}', Code.INTERNAL),
        (b'{"code":"NEW","message":"m"}', Code.INTERNAL),
        (b"", Code.INTERNAL),
        (b"panicked", Code.INTERNAL),
        (b"[]", Code.INTERNAL),
    ],
)
def test_errors_of_programs(stderr: bytes, code: Code) -> None:
    error = from_child(program="p", exit_status=1, stderr=stderr)
    assert error.code is code
    assert error.message


class ScriptedKeeper:
    """A keeper's socket that answers each connection with ``reply``, after ``first`` have been given."""

    def __init__(self, run_dir: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(str(run_dir / "keeper.sock"))
        self.socket.listen(64)
        self.socket.settimeout(0)
        self.requests: list[efc_pb2.KeeperRequest] = []
        self.reply: bytes | None = efc_pb2.KeeperReply(mount=efc_pb2.MountReply()).SerializeToString()
        self.first: list[bytes] = []
        self.delay_seconds = 0.0

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self.socket)
            with connection:
                self.requests.append(efc_pb2.KeeperRequest.FromString(await loop.sock_recv(connection, 1 << 20)))
                await asyncio.sleep(self.delay_seconds)
                reply = self.first.pop(0) if self.first else self.reply
                if reply is not None:
                    await loop.sock_sendall(connection, reply)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ScriptedKeeper]:
    keeper = ScriptedKeeper(tmp_path)
    yield keeper
    keeper.socket.close()


async def ask(scripted: ScriptedKeeper, run_dir: Path) -> efc_pb2.MountStatus:
    serving = asyncio.create_task(scripted.serve())
    try:
        return await Keeper(str(run_dir)).mount(target="/t", config=efc_pb2.DaemonConfig(threads=3), limit_seconds=0.5)
    finally:
        serving.cancel()


async def test_keeper_answers(scripted: ScriptedKeeper, tmp_path: Path) -> None:
    reply = efc_pb2.KeeperReply(mount=efc_pb2.MountReply(status=efc_pb2.MountStatus(pid=7)))
    scripted.reply = reply.SerializeToString()
    assert (await ask(scripted, tmp_path)).pid == 7
    (request,) = scripted.requests
    assert (request.mount.target, request.mount.config.threads, request.mount.time_limit_ms) == ("/t", 3, 500)


async def test_a_status_of_several_messages(scripted: ScriptedKeeper, tmp_path: Path) -> None:
    def page(target: str, last: str) -> bytes:
        mounts = [efc_pb2.MountStatus(target=target)]
        return efc_pb2.KeeperReply(status=efc_pb2.StatusReply(mounts=mounts, last=last)).SerializeToString()

    scripted.first = [page("/a", "/a"), page("/b", "")]
    serving = asyncio.create_task(scripted.serve())
    try:
        status = await Keeper(str(tmp_path)).status()
    finally:
        serving.cancel()
    assert [mount.target for mount in status.mounts] == ["/a", "/b"]
    assert [request.status.after for request in scripted.requests] == ["", "/a"]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (
            efc_pb2.KeeperReply(error=efc_pb2.Error(code="PERMISSION_DENIED", message="m")).SerializeToString(),
            Code.PERMISSION_DENIED,
        ),
        (efc_pb2.KeeperReply(status=efc_pb2.StatusReply()).SerializeToString(), Code.INTERNAL),
        (b"\xff\xff\xff", Code.INTERNAL),
        (None, Code.UNAVAILABLE),
    ],
)
async def test_keeper_errors(scripted: ScriptedKeeper, tmp_path: Path, reply: bytes | None, code: Code) -> None:
    scripted.reply = reply
    with pytest.raises(DriverError) as caught:
        await ask(scripted, tmp_path)
    assert caught.value.code is code


async def test_no_keeper_and_a_silent_one(tmp_path: Path) -> None:
    with pytest.raises(KeeperUnreachableError, match="No such file"):
        await Keeper(str(tmp_path)).status()
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with silent:
        silent.bind(str(tmp_path / "keeper.sock"))
        silent.listen(1)
        with pytest.raises(KeeperUnreachableError, match=r"did not answer within 0\.1 s"):
            await Keeper(str(tmp_path)).status(limit_seconds=0.1)
    with pytest.raises(KeeperUnreachableError, match="refused"):
        await Keeper(str(tmp_path)).status()


class CountingKeeper(Keeper):
    """Mounts nothing, counts, and can fail."""

    def __init__(self) -> None:
        super().__init__("/none")
        self.mounts = 0
        self.unmounts = 0
        self.failure: DriverError | None = None

    async def mount(self, **_: object) -> efc_pb2.MountStatus:
        self.mounts += 1
        await asyncio.sleep(0.02)
        if self.failure is not None:
            raise self.failure
        return efc_pb2.MountStatus(pid=1)

    async def unmount(self, **_: object) -> None:
        self.unmounts += 1
        await asyncio.sleep(0.02)


CONFIG = efc_pb2.DaemonConfig()


async def test_side_by_side_launches_are_one(tmp_path: Path) -> None:
    keeper = CountingKeeper()
    daemons = Daemons(run_dir=str(tmp_path), keeper=keeper, mounts=Mounts(children=Children()), idle_grace_seconds=0.05)
    targets = await asyncio.gather(*[daemons.acquire("k", config=CONFIG, user=f"/t{number}") for number in range(50)])
    assert set(targets) == {f"{tmp_path}/mnt/k"}
    assert keeper.mounts == 1
    for number in range(49):
        daemons.give_up("k", user=f"/t{number}")
    await asyncio.sleep(0.15)
    assert keeper.unmounts == 0
    daemons.give_up("k", user="/t49")
    await asyncio.sleep(0.15)
    assert keeper.unmounts == 1
    assert daemons.known() == set()


async def test_a_user_within_the_grace_keeps_the_daemon(tmp_path: Path) -> None:
    keeper = CountingKeeper()
    daemons = Daemons(run_dir=str(tmp_path), keeper=keeper, mounts=Mounts(children=Children()), idle_grace_seconds=0.1)
    await daemons.acquire("k", config=CONFIG, user="/a")
    daemons.give_up("k", user="/a")
    await daemons.acquire("k", config=CONFIG, user="/b")
    await asyncio.sleep(0.25)
    assert keeper.unmounts == 0


async def test_a_user_during_the_release_waits_for_it(tmp_path: Path) -> None:
    keeper = CountingKeeper()
    daemons = Daemons(run_dir=str(tmp_path), keeper=keeper, mounts=Mounts(children=Children()), idle_grace_seconds=0)
    await daemons.acquire("k", config=CONFIG, user="/a")
    daemons.give_up("k", user="/a")
    await asyncio.sleep(0.005)
    await daemons.acquire("k", config=CONFIG, user="/b")
    assert (keeper.mounts, keeper.unmounts) == (2, 1)
    assert daemons.known() == {"k"}


async def test_a_failed_launch_leaves_nothing(tmp_path: Path) -> None:
    keeper = CountingKeeper()
    keeper.failure = DriverError(Code.NOT_FOUND, "no such export")
    daemons = Daemons(run_dir=str(tmp_path), keeper=keeper, mounts=Mounts(children=Children()), idle_grace_seconds=0.01)
    results = await asyncio.gather(
        *[daemons.acquire("k", config=CONFIG, user=f"/t{number}") for number in range(3)], return_exceptions=True
    )
    assert [type(result) for result in results] == [DriverError] * 3
    assert keeper.mounts == 1
    await asyncio.sleep(0.1)
    assert daemons.known() == set()


async def test_a_run_directory_that_takes_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnt").touch()
    keeper = CountingKeeper()
    daemons = Daemons(run_dir=str(tmp_path), keeper=keeper, mounts=Mounts(children=Children()), idle_grace_seconds=60)
    with pytest.raises(DriverError, match=f"cannot make {tmp_path}/mnt/k: Not a directory"):
        await daemons.acquire("k", config=CONFIG, user="/a")
    (tmp_path / "mnt").unlink()
    await daemons.acquire("k", config=CONFIG, user="/a")


async def test_a_failed_repetition_does_not_release_what_is_in_use(tmp_path: Path) -> None:
    keeper = CountingKeeper()
    daemons = Daemons(run_dir=str(tmp_path), keeper=keeper, mounts=Mounts(children=Children()), idle_grace_seconds=0)
    await daemons.acquire("k", config=CONFIG, user="/a")
    keeper.failure = DriverError(Code.UNAVAILABLE, "the keeper restarts")
    with pytest.raises(DriverError):
        await daemons.acquire("k", config=CONFIG, user="/a")
    await asyncio.sleep(0.1)
    assert keeper.unmounts == 0


def test_signal_of_a_child_is_not_ours() -> None:
    """Children ignore nothing that we ignore: SIGPIPE would let them write into the void for ever."""
    finished = asyncio.run(Children().run(["/bin/sh", "-c", "grep SigIgn /proc/self/status"], deadline_seconds=5))
    ignored = int(finished.stdout.split()[1], 16)
    assert not ignored >> (signal.SIGPIPE - 1) & 1
