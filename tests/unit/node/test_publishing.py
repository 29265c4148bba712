"""Publishing against mounts that exist only in memory: idempotent, exclusive, and nothing left after a failure.

The real mounts are tested with the real keeper in tests/csi; what is tried here are orders and crashes that cannot be
had there at will.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from csi._proto import csi_pb2, efc_pb2
from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.base.statvfs import Statvfs
from csi.config.mount_options import MountOptions, parse, parse_list
from csi.config.sources import Source
from csi.config.volumes import NodeVolume
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper, KeeperStatus, options_unknown_to
from csi.node.mount_status import condition_of, store_of, suggestion_of, unknown_of, workers_of
from csi.node.mounts import FILE_SYSTEM_TYPE, Mount, Mounts, top
from csi.node.publishing import Publisher
from csi.node.records import Publications
from csi.node.reports import Reports
from csi.node.targets import KubeletRoots

_Mode = csi_pb2.VolumeCapability.AccessMode
SIZES = Statvfs(bytes_total=10, bytes_free=5, bytes_available=4, files_total=3, files_free=2)


class MemoryKeeper(Keeper):
    """Mounts datasets into the table; every mount has a device of its own."""

    def __init__(self, table: list[Mount]) -> None:
        super().__init__("/none")
        self.table = table
        self.failure: DriverError | None = None
        self.answers_status = False
        self.config = efc_pb2.DaemonConfig()
        self.state = efc_pb2.MountStatus.SERVING
        self.devices = 0

    async def mount(
        self, *, target: str, config: efc_pb2.DaemonConfig, limit_seconds: float = 0
    ) -> efc_pb2.MountStatus:
        await asyncio.sleep(0)
        self.config = config
        if self.failure is not None:
            raise self.failure
        if not any(mount.target == target for mount in self.table):
            self.devices += 1
            self.table.append(mounted(target, device=f"0:{self.devices}", root="/"))
        return efc_pb2.MountStatus(target=target, config=config, state=self.state)

    async def unmount(self, *, target: str, force: bool = False) -> None:
        self.table[:] = [mount for mount in self.table if mount.target != target]

    async def status(self, target: str = "", *, limit_seconds: float = 0) -> KeeperStatus:
        if self.failure is not None and not self.answers_status:
            raise self.failure
        found = [
            efc_pb2.MountStatus(target=mount.target, state=self.state, config=self.config)
            for mount in self.table
            if mount.target == target
        ]
        return KeeperStatus(pid=1, version="", mounts=found)


class MemoryMounts(Mounts):
    """Binds within the table. ``failure`` is raised instead, or after the bind was made (a helper killed too late)."""

    def __init__(self, table: list[Mount]) -> None:
        super().__init__(children=Children())
        self.table = table
        self.failure: DriverError | None = None
        self.fails_late = False
        self.binds = 0
        self.gate: asyncio.Event | None = None

    def all(self) -> list[Mount]:
        return list(self.table)

    def at(self, target: str) -> Mount | None:
        return top(self.table, target)

    async def bind(self, *, root: str, path: str, beneath: str, target: str, read_only: bool) -> None:
        assert target.startswith(beneath)
        self.binds += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None and not self.fails_late:
            raise self.failure
        if not os.path.lexists(target):
            os.mkdir(target)
        if os.path.islink(target) or not os.path.isdir(target):
            raise DriverError(Code.FAILED_PRECONDITION, "no directory")
        device = next(mount.device for mount in self.table if mount.target == root)
        self.table.append(mounted(target, device=device, root=f"/{path}", read_only=read_only))
        if self.failure is not None:
            raise self.failure

    async def unmount(self, target: str, *, beneath: str = "", detach: bool | None = None) -> None:
        self.table[:] = [mount for mount in self.table if mount.target != target]

    async def remove(self, target: str, *, beneath: str) -> None:
        assert target.startswith(beneath)
        await self.unmount(target)
        try:
            os.rmdir(target)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            raise DriverError(Code.FAILED_PRECONDITION, "it holds files that are not the volume's") from None

    async def statvfs(self, target: str, *, beneath: str = "", deadline_seconds: float = 6.0) -> Statvfs:
        if self.failure is not None:
            raise self.failure
        return SIZES


def mounted(target: str, *, device: str, root: str, read_only: bool = False, kind: str = FILE_SYSTEM_TYPE) -> Mount:
    return Mount(
        device=device, root=root, target=target, read_only=read_only, file_system_type=kind, source="nfs://nas/data"
    )


@dataclasses.dataclass
class Node:
    """A node that can be restarted: the table and the folder stay."""

    folder: Path
    #: As kubelet names its directory.
    kubelet: str = "kubelet"

    def __post_init__(self) -> None:
        self.table: list[Mount] = []
        (self.folder / "kubelet").mkdir()
        self.start()

    def start(self) -> None:
        self.keeper = MemoryKeeper(self.table)
        self.keeper.devices = len(self.table)
        self.mounts = MemoryMounts(self.table)
        self.publications = Publications(str(self.folder), boot_id="boot")
        self.publications.load()
        self.publisher = Publisher(
            publications=self.publications,
            mounts=self.mounts,
            daemons=Daemons(run_dir=str(self.folder), keeper=self.keeper, mounts=self.mounts, idle_grace_seconds=0),
            keeper=self.keeper,
            kubelet_roots=KubeletRoots([str(self.folder / self.kubelet)]),
            reports=Reports(str(self.folder)),
        )

    def target(self, name: str = "t") -> str:
        return str(self.folder / "kubelet" / name)

    async def publish(
        self, name: str = "t", *, volume: str = "v", path: str = "p", read_only: bool = False, mode: int = 1
    ) -> None:
        node_volume = NodeVolume.from_context(volume, {"source": "nfs://nas/data", "path": path}, mount_flags=[])
        preparing = contextlib.nullcontext(node_volume)
        await self.publisher.publish(preparing, target=self.target(name), read_only=read_only, access_mode=mode)

    async def unpublish(self, name: str = "t", *, volume: str = "v") -> None:
        await self.publisher.unpublish(volume, target=self.target(name))

    async def require_nothing_left(self) -> None:
        await asyncio.sleep(0.05)
        assert self.table == []
        assert list((self.folder / "kubelet").iterdir()) == []
        assert list((self.folder / "mnt").iterdir()) == []
        assert list((self.folder / "csi" / "published").iterdir()) == []


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def refused(awaitable: object, code: Code) -> str:
    with pytest.raises(DriverError) as caught:
        await awaitable  # type: ignore[misc]
    assert caught.value.code is code, caught.value.message
    return caught.value.message


async def test_ten_times_each(node: Node) -> None:
    for _ in range(10):
        await node.publish()
    assert node.mounts.binds == 1
    assert len(node.table) == 2
    for _ in range(10):
        await node.unpublish()
    await node.require_nothing_left()


async def test_other_volume_or_way_at_the_target(node: Node) -> None:
    await node.publish()
    await refused(node.publish(volume="w"), Code.ALREADY_EXISTS)
    await refused(node.publish(read_only=True), Code.ALREADY_EXISTS)
    await refused(node.publish(path="q"), Code.ALREADY_EXISTS)
    assert "'v'" in await refused(node.unpublish(volume="w"), Code.NOT_FOUND)
    await node.publish()


async def test_single_writer(node: Node) -> None:
    await node.publish("a", mode=_Mode.SINGLE_NODE_SINGLE_WRITER)
    await node.publish("a", mode=_Mode.SINGLE_NODE_SINGLE_WRITER)
    await refused(node.publish("b", mode=_Mode.SINGLE_NODE_SINGLE_WRITER), Code.FAILED_PRECONDITION)
    await refused(node.publish("b", mode=_Mode.SINGLE_NODE_MULTI_WRITER), Code.FAILED_PRECONDITION)
    await node.unpublish("a")
    await node.publish("b", mode=_Mode.SINGLE_NODE_SINGLE_WRITER)


async def test_a_target_that_somebody_else_has_unmounted_is_no_writer(node: Node) -> None:
    """As administrators do with what a deleted pod has left; kubelet unpublishes it later, or never."""
    await node.publish("a", mode=_Mode.SINGLE_NODE_SINGLE_WRITER)
    await node.mounts.remove(node.target("a"), beneath=str(node.folder))
    await node.publish("b", mode=_Mode.SINGLE_NODE_SINGLE_WRITER)
    await refused(node.publish("a", mode=_Mode.SINGLE_NODE_SINGLE_WRITER), Code.FAILED_PRECONDITION)
    await node.unpublish("a")
    await node.unpublish("b")
    await node.require_nothing_left()


async def test_two_first_publishes_of_a_single_writer_volume_at_once(node: Node) -> None:
    results = await asyncio.gather(
        *[node.publish(name, mode=_Mode.SINGLE_NODE_SINGLE_WRITER) for name in "abcdef"], return_exceptions=True
    )
    assert sum(result is None for result in results) == 1


@pytest.mark.parametrize("late", [False, True])
async def test_a_failed_bind_leaves_nothing(node: Node, late: bool) -> None:  # noqa: FBT001
    node.mounts.failure, node.mounts.fails_late = DriverError(Code.NOT_FOUND, "no such directory"), late
    await refused(node.publish(), Code.NOT_FOUND)
    await node.require_nothing_left()


async def test_a_failed_launch_leaves_nothing(node: Node) -> None:
    node.keeper.failure = DriverError(Code.PERMISSION_DENIED, "refused")
    await refused(node.publish(), Code.PERMISSION_DENIED)
    await node.require_nothing_left()


async def test_a_caller_that_goes_away_does_not_stop_the_work(node: Node) -> None:
    node.mounts.gate = asyncio.Event()
    call = asyncio.create_task(node.publish())
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await refused(node.publish(), Code.ABORTED)
    node.mounts.gate.set()
    await node.publisher.close()
    await node.publish()
    assert node.mounts.binds == 1


async def test_a_volume_is_prepared_until_the_work_ends(node: Node) -> None:
    """Also when its caller has gone away: else what was prepared for it, a Dataset's folder, would go as well."""
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[NodeVolume]:
        yield NodeVolume.from_context("v", {"source": "nfs://nas/data", "path": "p"}, mount_flags=[])
        steps.append("left")

    node.mounts.gate = asyncio.Event()
    call = asyncio.create_task(node.publisher.publish(prepared(), target=node.target(), read_only=False, access_mode=1))
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait([call])
    assert (node.mounts.binds, steps) == (1, [])
    node.mounts.gate.set()
    await node.publisher.close()
    assert steps == ["left"]


async def test_restart_at_any_moment(node: Node) -> None:
    await node.publish("a")
    # Killed between record and bind.
    node.mounts.gate = asyncio.Event()
    call = asyncio.create_task(node.publish("b"))
    await asyncio.sleep(0.01)
    (operation,) = node.publisher._operations
    operation.cancel()
    operation.remove_done_callback(node.publisher._operations.discard)
    await asyncio.wait([call])
    node.publications.put(dataclasses.replace(next(iter(node.publications)), target=node.target("b")))
    Path(node.target("b")).mkdir(exist_ok=True)
    node.start()
    await node.publisher.recover()
    assert [record.target for record in node.publications] == [node.target("a")]
    assert not Path(node.target("b")).exists()
    await node.publish("a")
    assert node.mounts.binds == 0
    await node.unpublish("a")
    await node.require_nothing_left()


async def test_restart_releases_daemons_without_users(node: Node) -> None:
    await node.publish()
    node.table[:] = [mount for mount in node.table if mount.target != node.target()]
    node.start()
    await node.publisher.recover()
    await node.require_nothing_left()


def _with_one_more_key(text: bytes) -> bytes:
    return json.dumps(json.loads(text) | {"more": 1}).encode()


def _with_one_key_less(text: bytes) -> bytes:
    fields = json.loads(text)
    del fields["read_only"]
    return json.dumps(fields).encode()


@pytest.mark.parametrize("change", [_with_one_more_key, _with_one_key_less, lambda _: b"{", None])
async def test_a_daemon_is_kept_as_long_as_its_volume_is_mounted(
    node: Node, change: Callable[[bytes], bytes] | None
) -> None:
    """Whatever another release, or nobody, has recorded of it."""
    await node.publish()
    before = list(node.table)
    (file,) = (node.folder / "csi" / "published").iterdir()
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    node.start()
    await node.publisher.recover()
    await asyncio.sleep(0.05)
    await node.publisher.close()
    assert node.table == before
    node.start()
    await node.publisher.recover()
    await node.publish()
    assert node.mounts.binds == 0
    await node.unpublish()
    await node.require_nothing_left()


async def test_lost_records_are_found_again_by_their_mounts(node: Node) -> None:
    await node.publish()
    for file in (node.folder / "csi" / "published").iterdir():
        file.unlink()
    node.start()
    await node.publish()
    assert node.mounts.binds == 0
    for file in (node.folder / "csi" / "published").iterdir():
        file.unlink()
    node.start()
    await node.unpublish()
    assert [mount.target for mount in node.table] == [node.publisher._daemons.mount_of(Path(node.table[0].target).name)]


async def test_a_record_of_a_target_behind_a_link_is_found_where_it_is(node: Node) -> None:
    """As release 0.1.0 recorded it."""
    await node.publish(mode=int(_Mode.SINGLE_NODE_SINGLE_WRITER))
    (record,) = node.publications
    (node.folder / "link").symlink_to("kubelet")
    node.publications.put(dataclasses.replace(record, target=str(node.folder / "link" / "t")))
    node.publications.remove(record.target)
    before = list(node.table)
    node.kubelet = "link"
    node.start()
    await node.publisher.recover()
    assert list(node.publications) == [record]
    assert (await node.publisher.status("v", target=record.target)).abnormal == ""
    await refused(node.publish("other", mode=int(_Mode.SINGLE_NODE_SINGLE_WRITER)), Code.FAILED_PRECONDITION)
    assert node.table == before


async def test_a_publish_that_fails_takes_no_mount_away_that_was_there(node: Node) -> None:
    """Its record was lost, and a pod may use it."""
    await node.publish()
    for file in (node.folder / "csi" / "published").iterdir():
        file.unlink()
    before = list(node.table)
    node.start()
    await node.publisher.recover()
    node.keeper.failure = DriverError(Code.UNAVAILABLE, "no keeper answers")
    await refused(node.publish(), Code.UNAVAILABLE)
    assert node.table == before
    assert list(node.publications) == []
    node.keeper.failure = None
    await node.publish()
    assert node.table == before
    await node.unpublish()
    await node.require_nothing_left()


async def test_a_bind_of_a_dead_daemon_is_made_anew(node: Node) -> None:
    await node.publish()
    dataset = next(mount for mount in node.table if mount.target != node.target())
    node.table.remove(dataset)
    await node.publish()
    assert node.mounts.binds == 2
    assert len({mount.device for mount in node.table}) == 1
    assert len(node.table) == 2


async def test_a_daemon_with_another_releases_defaults_is_shared(node: Node) -> None:
    await node.publish("a")
    node.keeper.failure = DriverError(Code.ALREADY_EXISTS, "mounted with other options")
    node.keeper.answers_status = True
    before = list(node.table)
    await node.publish("b")
    assert node.table[: len(before)] == before, "nothing was unmounted under a pod that runs"
    assert len({mount.device for mount in node.table}) == 1
    assert len(node.table) == 3


async def test_what_is_published_keeps_its_daemon(node: Node) -> None:
    """Whatever key this release would give it."""
    await node.publish()
    (record,) = node.publications
    (dataset,) = (mount for mount in node.table if mount.target != node.target())
    other = str(Path(dataset.target).with_name("of-another-release"))
    node.table[node.table.index(dataset)] = dataclasses.replace(dataset, target=other)
    Path(other).mkdir()
    node.publications.put(dataclasses.replace(record, key="of-another-release"))
    before = list(node.table)
    node.start()
    await node.publisher.recover()
    await node.publish()
    assert node.table == before
    assert node.mounts.binds == 0


async def test_foreign_mounts_are_left_alone(node: Node) -> None:
    foreign = mounted(node.target(), device="8:1", root="/", kind="ext4")
    node.table.append(foreign)
    await refused(node.publish(), Code.ALREADY_EXISTS)
    await refused(node.unpublish(), Code.FAILED_PRECONDITION)
    assert node.table == [foreign]


async def test_a_directory_with_content_is_refused_at_once(node: Node) -> None:
    """A mount would hide it, and no unpublish could ever end."""
    precious = Path(node.target()) / "precious"
    precious.parent.mkdir()
    precious.write_text("x")
    message = await refused(node.publish(), Code.FAILED_PRECONDITION)
    assert node.target() in message
    assert "precious" not in message
    assert list(node.publications) == []
    assert node.table == []
    assert precious.read_text() == "x"
    precious.unlink()
    await node.publish()
    await node.unpublish()
    await node.require_nothing_left()


async def test_files_in_the_way_are_never_deleted(node: Node) -> None:
    await node.publish()
    (Path(node.target()) / "precious").write_text("x")
    assert "precious" not in await refused(node.unpublish(), Code.FAILED_PRECONDITION)
    assert (Path(node.target()) / "precious").read_text() == "x"
    (Path(node.target()) / "precious").unlink()
    await node.unpublish()
    await node.require_nothing_left()


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_a_target_that_is_no_directory(node: Node, kind: str) -> None:
    if kind == "file":
        Path(node.target()).write_text("x")
    else:
        Path(node.target()).symlink_to("/etc")
    await refused(node.publish(), Code.FAILED_PRECONDITION)
    assert node.table == [] or [mount.target for mount in node.table] != [node.target()]


async def test_status(node: Node) -> None:
    await refused(node.publisher.status("v", target=node.target()), Code.NOT_FOUND)
    await refused(node.publisher.status("v", target="some/path"), Code.NOT_FOUND)
    await node.publish()
    await refused(node.publisher.status("w", target=node.target()), Code.NOT_FOUND)
    status = await node.publisher.status("v", target=node.target() + "/")
    assert (status.sizes, status.abnormal) == (SIZES, "")
    node.keeper.state = efc_pb2.MountStatus.UNRESPONSIVE_NAS
    node.mounts.failure = DriverError(Code.DEADLINE_EXCEEDED, "hangs")
    status = await node.publisher.status("v", target=node.target())
    assert status.sizes is None
    assert "NAS" in status.abnormal
    node.table[:] = [mount for mount in node.table if mount.target != node.target()]
    assert "gone" in (await node.publisher.status("v", target=node.target())).abnormal


async def test_a_dataset_that_nobody_writes_to_is_better_served_within_a_bound(node: Node) -> None:
    await node.publish()
    assert (await node.publisher.status("v", target=node.target())).note == ""
    record = next(iter(node.publications))
    node.publications.put(dataclasses.replace(record, read_only=True))
    status = await node.publisher.status("v", target=node.target())
    assert "consistency=bounded" in status.note
    assert status.abnormal == ""
    mount = efc_pb2.MountStatus(config=MountOptions(consistency="sealed").daemon_config(Source.parse("nfs://nas/x")))
    assert suggestion_of(mount, is_read_only=True) == ""
    assert suggestion_of(efc_pb2.MountStatus(), is_read_only=False) == ""


def test_workers_that_are_not_used_are_said() -> None:
    options = efc_pb2.DaemonConfig(cache=efc_pb2.CacheConfig(workers="a:1+b:1", workers_key="/key"))
    ready, keyless = efc_pb2.CacheStats(workers=2, workers_ready=2), efc_pb2.DaemonStats()
    of = partial(efc_pb2.MountStatus, config=options)
    assert workers_of(efc_pb2.MountStatus()) == workers_of(of()) == ""
    assert workers_of(of(stats=efc_pb2.DaemonStats(cache=ready))) == ""
    ready.workers_ready = 1
    assert workers_of(of(stats=efc_pb2.DaemonStats(cache=ready))).startswith("1 of 2 workers do not answer")
    assert "no key in /key" in workers_of(of(stats=keyless))


def test_a_full_store_says_what_is_free_and_what_to_do() -> None:
    options = efc_pb2.DaemonConfig(cache=efc_pb2.CacheConfig(store_mib=64, store_free_percent=20))

    def said(**disk: int) -> str:
        store = efc_pb2.StoreStats(state=efc_pb2.StoreStats.FULL, **disk)
        return store_of(efc_pb2.MountStatus(config=options, store="/ssd/s", stats=efc_pb2.DaemonStats(store=store)))

    few = said(disk_bytes=10_000 << 20, disk_free_bytes=1_900 << 20)
    assert few.startswith("its local store /ssd/s: its file system has 1,900 of 10,000 MiB free,")
    assert "cache-free=20 leaves 2,000 MiB" in few
    assert "set a smaller cache-free" in few
    enough = said(disk_bytes=10_000 << 20, disk_free_bytes=5_000 << 20)
    assert "accepts no more data (a quota?), with 5,000 of 10,000 MiB free" in enough
    assert "full, or has no more free space than 'cache-free'" in said(), "of a daemon of an earlier release"


def test_options_that_the_keeper_does_not_know_are_named() -> None:
    options = parse(parse_list("cache-size=1GiB,cache-dir=/cache,attr-ttl=7s"), origin="a test")
    asked = options.daemon_config(Source.parse("nfs://nas/d"))
    taken = efc_pb2.MountStatus(config=asked)
    taken.config.ClearField("cache")
    assert options_unknown_to(taken, asked=asked) == ["cache-size", "cache-dir", "cache-free", "passthrough"]
    assert options_unknown_to(efc_pb2.MountStatus(config=asked), asked=asked) == []
    assert unknown_of(["cache-dir", "cache-size"]).startswith("not in force: cache-dir, cache-size, which")
    assert unknown_of([]) == ""


def test_every_state_has_a_condition() -> None:
    names = efc_pb2.MountStatus.State.keys()
    healthy = {name for name in names if not condition_of(efc_pb2.MountStatus(state=name))}
    assert healthy == {"STATE_UNSPECIFIED", "SERVING"}


def test_what_is_the_matter_with_a_daemons_network_is_said() -> None:
    lost = efc_pb2.MountStatus(state=efc_pb2.MountStatus.SERVING, network_trouble="nobody hands it out")
    assert condition_of(lost) == "nobody hands it out"
    lost.state = efc_pb2.MountStatus.UNRESPONSIVE_NAS
    assert condition_of(lost) == "the NAS does not answer; nobody hands it out"


async def test_a_nas_that_does_not_answer_is_named(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the helper that waited for it; the daemon is asked before that is stopped: it waits for nothing then."""

    async def bind(**_: object) -> None:
        await asked.wait()
        node.keeper.state = efc_pb2.MountStatus.SERVING
        raise DriverError(codes.pop(), "efc-mount-helper was stopped after 20 s")

    async def status(target: str = "", **_: object) -> KeeperStatus:
        asked.set()
        return await MemoryKeeper.status(node.keeper, target)

    asked = asyncio.Event()
    codes = [Code.DEADLINE_EXCEEDED, Code.ABORTED]
    monkeypatch.setattr("csi.node.conditions.UNRESPONSIVE_SECONDS", 0.01)
    monkeypatch.setattr(node.mounts, "bind", bind)
    monkeypatch.setattr(node.keeper, "status", status)
    while codes:
        asked.clear()
        node.keeper.state = efc_pb2.MountStatus.UNRESPONSIVE_NAS
        message = await refused(node.publish(), Code.UNAVAILABLE)
        assert message.startswith("cannot mount nfs://nas/data/p: the NAS does not answer")
        assert "Check that nas is up" in message
    await node.require_nothing_left()


async def test_an_earlier_helper_that_waits_for_the_nas(node: Node) -> None:
    """It is found at once, so the daemon is asked then; when it says nothing, the message is as it was."""
    node.mounts.failure = DriverError(Code.ABORTED, "an earlier operation on it has not ended yet: try again")
    assert "try again" in await refused(node.publish(), Code.ABORTED)
    node.keeper.state = efc_pb2.MountStatus.UNRESPONSIVE_NAS
    assert "the NAS does not answer" in await refused(node.publish(), Code.UNAVAILABLE)


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        (
            Code.NOT_FOUND,
            "No such file or directory",
            "there is no directory 'p' at nfs://nas/data: make it, or correct the volume's path",
        ),
        (Code.FAILED_PRECONDITION, "Not a directory", "cannot open nfs://nas/data/p: Not a directory"),
    ],
)
async def test_a_directory_is_named_as_the_user_knows_it(
    node: Node, monkeypatch: pytest.MonkeyPatch, code: Code, reason: str, message: str
) -> None:
    async def bind(*, root: str, path: str, **_: object) -> None:
        raise DriverError(code, f"cannot open {root}/{path}: {reason}")

    monkeypatch.setattr(node.mounts, "bind", bind)
    assert await refused(node.publish(), code) == message
