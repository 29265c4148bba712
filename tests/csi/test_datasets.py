"""Volumes of Datasets: two nodes that share what they read through workers, as a master tells them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from csi._proto import csi_pb2, dataset_pb2, efc_pb2
from csi.config.several import MountedSource, Sources, short_form
from csi.config.sources import Source
from csi.node.keeper import Keeper, options_of
from tests.support.driver import MULTI_READER, Driver, refused
from tests.support.master import Authority, DatasetMaster
from tests.support.nas import Nas
from tests.support.processes import wait_until

MIB = 1 << 20
_SIZE = 24 * MIB
#: Blocks of files that have changed within ten seconds, by what is known of the NAS's clock, are put at no worker.
_REST_S = 12.0
_RECENT_S = 2.0
_NODES = ("node-a", "node-b")


@dataclass(frozen=True, kw_only=True)
class World:
    """Two nodes, a master, and a directory with a file that has rested."""

    nodes: tuple[Driver, Driver]
    master: DatasetMaster
    folder: Path
    url: str
    digest: str

    def publish(self, node: Driver, **attributes: str) -> tuple[csi_pb2.Volume, Path]:
        """Publishes the Dataset on a node."""
        volume, target = self.master.volume(self.url, **attributes), node.target()
        node.publish(volume, target, mode=MULTI_READER, secrets=self.master.secrets())
        return volume, target

    def folder_on(self, node: Driver) -> Path:
        """Its files there."""
        return node.run_dir / "datasets" / self.master.uid


def read(target: Path) -> str:
    """A digest of the file, read from the beginning to the end, after the kernel has let its pages go."""
    digest = hashlib.sha256()
    with (target / "file").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while part := file.read(MIB):
            digest.update(part)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def datasets(nas: Nas) -> list[Path]:
    """Directories with a file each that has rested."""
    folders = [Path(tempfile.mkdtemp(dir=nas.export_folder())) for _ in range(10)]
    for folder in folders:
        folder.chmod(0o777)
        (folder / "file").write_bytes(os.urandom(_SIZE))
    time.sleep(_REST_S)
    for folder in folders:
        (folder / "clock").touch()
    return folders


@pytest.fixture
def world(nas: Nas, datasets: list[Path]) -> Iterator[World]:
    """A Dataset of the test's own."""
    with ExitStack() as stack:
        folder = datasets.pop()
        master = stack.enter_context(DatasetMaster(authority=stack.enter_context(Authority.made())))
        first, second = (stack.enter_context(Driver(source=nas.url, node_id=name)) for name in _NODES)
        url = nas.url_of(f"export/{folder.name}")
        digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
        yield World(nodes=(first, second), master=master, folder=folder, url=url, digest=digest)


def test_what_one_node_has_read_others_have_from_workers_and_figures_say_so(world: World) -> None:
    first, second = world.nodes
    master = world.master
    with master.worker() as worker:
        mounts = [dataset_pb2.SourceMount(source=world.url, path="/")]
        master.configure(workers=[worker], mounts=mounts)
        _, one = world.publish(first)
        assert worker.endpoint in (world.folder_on(first) / "workers").read_text()
        os.stat(one / "clock")
        figures = master.await_figures(lambda figures: figures.totals.known, what="totals")
        assert (figures.totals.bytes, figures.totals.files) == (_SIZE, 2)

        reads = 0

        def counted(target: Path) -> dataset_pb2.ReadFigures:
            """Figures with one read more."""
            nonlocal reads
            assert read(target) == world.digest
            reads += 1
            figures = master.await_figures(lambda figures: figures.read.total >= reads * _SIZE, what="what was read")
            assert figures.read.total == reads * _SIZE
            return figures.read

        def is_cached() -> bool:
            counted(one)
            time.sleep(_RECENT_S)
            return abs(master.figures().workers[0].cached_bytes - _SIZE) <= _SIZE * 0.02

        wait_until(is_cached, what="all blocks at the worker", limit_s=60)
        _, two = world.publish(second)
        before = counted(two)

        def is_from_workers() -> bool:
            """A worker that answers later than the NAS is not waited for, and a condition says so as long."""
            nonlocal before
            time.sleep(_RECENT_S)
            last, before = before, counted(two)
            conditions = [condition for node in master.figures().nodes for condition in node.conditions]
            return before.from_workers - last.from_workers == _SIZE and not conditions

        wait_until(is_from_workers, what="all of it from workers, and nothing wrong", limit_s=60)
        figures = master.figures()
        assert [(node.node, node.volumes, node.serving, node.connected) for node in figures.nodes] == [
            (name, 1, True, True) for name in _NODES
        ]
        assert figures.source == dataset_pb2.Reachability(known=True, reachable=True)


def mount_on(node: Driver) -> efc_pb2.MountStatus:
    """The Dataset's daemon on a node, as the keeper tells it."""
    (mount,) = asyncio.run(Keeper(str(node.run_dir)).status()).mounts
    return mount


def await_mount(node: Driver, wanted: Callable[[efc_pb2.MountStatus], object], *, what: str) -> None:
    """Returns when the daemon on a node is as wanted."""
    wait_until(lambda: wanted(mount_on(node)), what=what, limit_s=30, interval_s=0.2)


def await_workers(node: Driver, count: int) -> None:
    """Returns when the daemon has so many workers; on a busy machine, one may answer later than the NAS."""
    await_mount(node, lambda mount: mount.stats.cache.workers == count, what=f"{count} workers")


def await_reachable(master: DatasetMaster, wanted: list[bool]) -> dataset_pb2.Figures:
    """Figures by which workers can be reached as wanted."""
    return master.await_figures(
        lambda figures: [worker.reachable for worker in figures.workers] == wanted, what="answers of workers"
    )


def test_workers_come_and_go_under_a_mount(world: World) -> None:
    node, _ = world.nodes
    master = world.master
    _, target = world.publish(node)
    assert (world.folder_on(node) / "workers").read_text() == "# none\n"
    assert read(target) == world.digest
    with master.worker() as first, master.worker() as second:
        daemon = mount_on(node).pid
        for workers in ([first], [first, second], [second], []):
            master.configure(workers=workers)
            await_workers(node, len(workers))
            assert read(target) == world.digest
            figures = await_reachable(master, [True] * len(workers))
            assert sum(worker.capacity_bytes for worker in figures.workers) == len(workers) * 256 * MIB
        assert mount_on(node).pid == daemon
        master.configure(workers=[first, second])
        second.freeze()
        await_reachable(master, [True, False])
        second.thaw()
        await_reachable(master, [True, True])


def test_mounts_come_and_go_under_a_pod(nas: Nas, world: World) -> None:
    """By the master's word; what it said last holds for pods that come later, whatever the volume says."""
    node, _ = world.nodes
    master = world.master
    folders = {name: Path(tempfile.mkdtemp(dir=nas.export_folder())) for name in ("/a", "/b", "/deep/c")}
    for path, folder in folders.items():
        (folder / "file").write_text(path)
    urls = {path: nas.url_of(f"export/{folder.name}") for path, folder in folders.items()}

    def mounts(*paths: str) -> list[dataset_pb2.SourceMount]:
        return [dataset_pb2.SourceMount(path=path, source=urls[path]) for path in paths]

    def told(*paths: str) -> str:
        mounted = [MountedSource(path=path, source=Source.parse(urls[path])) for path in paths]
        return Sources.of(mounted).canonical()

    def in_force(*paths: str) -> None:
        master.configure(mounts=mounts(*paths))
        master.await_figures(
            lambda figures: [node.sources for node in figures.nodes] == [short_form(told(*paths))],
            what="nodes that have been told",
        )

    volume = master.volume("", sources=told("/a", "/b"), **{"live-sources": "true"})
    del volume.volume_context["source"]
    target = node.target()
    master.configure(mounts=mounts("/a", "/b"))
    node.publish(volume, target, mode=MULTI_READER, secrets=master.secrets())
    daemon = mount_on(node).pid
    assert [(target / name / "file").read_text() for name in ("a", "b")] == ["/a", "/b"]
    with (target / "b" / "file").open() as held:
        in_force("/a", "/deep/c")
        wait_until(lambda: sorted(os.listdir(target)) == ["a", "deep"], what="the mounts", limit_s=10)
        assert (target / "deep" / "c" / "file").read_text() == "/deep/c"
        assert held.read() == "/b"
    assert mount_on(node).pid == daemon
    # The next pod of this node, and the same one after the node plugin has been killed: both see what is in force.
    second = node.target()
    node.publish(volume, second, mode=MULTI_READER, secrets=master.secrets())
    node.crash("node")
    node.publish(volume, target, mode=MULTI_READER, secrets=master.secrets())
    assert sorted(os.listdir(second)) == sorted(os.listdir(target)) == ["a", "deep"]
    urls["/late"] = nas.url_of("export/late")
    in_force("/a", "/deep/c", "/late")
    master.await_figures(
        lambda figures: any("source /late is missing" in text for node in figures.nodes for text in node.conditions),
        what="the condition",
    )
    (nas.export_folder() / "late").mkdir()
    wait_until((target / "late").exists, what="the mount that is late", limit_s=30)
    master.await_figures(lambda figures: not any(node.conditions for node in figures.nodes), what="no condition")
    for one in (target, second):
        node.unpublish(volume, one)


def test_nothing_notices_that_the_master_is_away(world: World) -> None:
    first, second = world.nodes
    master = world.master
    mounts = [dataset_pb2.SourceMount(source=world.url, path="/")]
    master.configure(mounts=mounts, orders=dataset_pb2.Orders(options={"attr-ttl": "7s"}))
    volume, one = world.publish(first)
    assert read(one) == world.digest
    master.await_figures(lambda figures: figures.totals.known and figures.read.total >= _SIZE, what="figures")
    await_mount(first, lambda mount: options_of(mount).attr_ttl_ms == 7000, what="the options")
    master.await_saved_reads()
    master.kill()
    _, two = world.publish(second)
    assert read(two) == read(one) == world.digest
    first.crash("node")
    first.unpublish(volume, one)
    _, one = world.publish(first)
    assert read(one) == world.digest
    master.start()
    master.configure()
    figures = master.await_figures(
        lambda figures: [node.connected for node in figures.nodes] == [True, True] and figures.read.total >= _SIZE,
        what="all nodes again",
    )
    assert (figures.totals.bytes, figures.totals.files, figures.totals.known) == (_SIZE, 2, True)
    assert [node.volumes for node in figures.nodes] == [1, 1]


def test_secrets_are_changed_under_a_mount_and_seen_by_nobody(world: World) -> None:
    node, _ = world.nodes
    master = world.master
    with master.worker() as worker:
        master.configure(workers=[worker])
        _, target = world.publish(node)
        os.stat(target / "clock")
        await_mount(node, lambda mount: mount.stats.cache.workers_ready == 1, what="its worker")
        assert read(target) == world.digest
        daemon, former = mount_on(node).pid, master.secrets()
        master.key = "ab" * 32
        master.authority.signed("node")
        new = master.secrets()
        secrets = dataset_pb2.Secrets(
            block_key=bytes.fromhex(master.key), authority=new["ca.crt"].encode(),
            certificate=new["tls.crt"].encode(), private_key=new["tls.key"].encode(),
        )  # fmt: skip
        with (target / "file").open("rb") as file:
            begin = file.read(MIB)
            master.configure(orders=dataset_pb2.Orders(secrets=secrets))
            await_mount(node, lambda mount: mount.pid not in (0, daemon), what="a new daemon")
            assert hashlib.sha256(begin + file.read()).hexdigest() == world.digest
        await_mount(node, lambda mount: mount.stats.cache.workers_ready == 1, what="its worker")
        folder = world.folder_on(node)
        assert (folder / "key").read_text() == f"{master.key}\n"
        assert (folder / "tls" / "tls.key").read_text() == new["tls.key"] != former["tls.key"]
        modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert modes == {0o600}
        assert folder.stat().st_mode & 0o777 == 0o700
        words = [one for given in (former, new) for one in (given["block-key"], given["tls.key"].splitlines()[1])]
        shown = [path for path in node.run_dir.rglob("*") if path.is_file() and folder not in path.parents]
        texts = [
            path.read_bytes() for path in [*shown, folder / "dataset.json", master.log, *node.folder.glob("*.log")]
        ]
        texts += [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [word for word in words for text in texts if word.encode() in text]
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as message:
            node.publish(
                master.volume(world.url), node.target(), mode=MULTI_READER, secrets=new | {"block-key": "short"}
            )
        assert "short" not in message[0]


def test_a_daemon_stays_until_the_runtime_is_retired(world: World) -> None:
    node, _ = world.nodes
    master = world.master
    master.configure(orders=dataset_pb2.Orders(keep_daemon=True))
    (volume, target), (_, other) = (world.publish(node, **{"clean-policy": "OnRuntimeDeleted"}) for _ in range(2))
    daemon = mount_on(node).pid
    master.await_figures(lambda figures: [one.volumes for one in figures.nodes] == [2], what="volumes of one node")
    for one in (target, other):
        node.unpublish(volume, one)
    time.sleep(3 * _RECENT_S)  # longer than what daemons of other volumes have
    node.crash("node")
    time.sleep(3 * _RECENT_S)
    assert mount_on(node).pid == daemon
    figures = master.await_figures(
        lambda figures: [one.connected for one in figures.nodes] == [True], what="the node after its restart"
    )
    assert [(one.volumes, one.serving) for one in figures.nodes] == [(0, True)]
    master.configure(orders=dataset_pb2.Orders(keep_daemon=True, retired=True))
    wait_until(lambda: not node.daemons() and not world.folder_on(node).exists(), what="its end", limit_s=30)
    master.await_figures(lambda figures: not figures.nodes[0].connected, what="a node that has gone")


def test_a_daemon_goes_at_once_when_the_runtime_is_retired(world: World, nas: Nas) -> None:
    """Whatever the grace is that daemons have after their last volume."""
    master = world.master
    with Driver(source=nas.url, idle_grace_s=600) as node:
        volume, target = world.publish(node)
        node.unpublish(volume, target)
        assert node.daemons()
        master.configure(orders=dataset_pb2.Orders(retired=True))
        wait_until(lambda: not node.daemons() and not world.folder_on(node).exists(), what="its end", limit_s=60)


def test_options_that_cannot_be_are_told_and_others_hold(world: World) -> None:
    node, _ = world.nodes
    master = world.master
    _, target = world.publish(node, network="pod", consistency="bounded")
    daemon = mount_on(node).pid

    def await_told(*words: str) -> None:
        def are_told(figures: dataset_pb2.Figures) -> bool:
            conditions = " ".join(condition for one in figures.nodes for condition in one.conditions)
            return all(word in conditions for word in words)

        master.await_figures(are_told, what=f"conditions {words}")

    for options, words in (
        ({"attr-ttl": "7s", "consistency": "bounded"}, ()),
        ({"attr-tll": "7s"}, ("attr-tll", "did you mean 'attr-ttl'")),
        ({"attr-ttl": "7 days"}, ("option 'attr-ttl'", "has value ***stripped***")),
        ({"attr-ttl": "9s", "consistency": "cto"}, ("consistency", "last volume")),
    ):
        master.configure(orders=dataset_pb2.Orders(options=options))
        await_told("efc-network", *words)
    await_mount(node, lambda mount: options_of(mount).attr_ttl_ms == 9000, what="the options")
    assert mount_on(node).pid == daemon, "live options take no new daemon"
    assert options_of(mount_on(node)).network == ""
    assert read(target) == world.digest


def test_a_master_that_nobody_reaches_keeps_no_volume_waiting(world: World) -> None:
    node, _ = world.nodes
    volume = world.master.volume(world.url, master="192.0.2.1:9810")  # TEST-NET-1: nobody answers
    target = node.target()
    node.publish(volume, target, mode=MULTI_READER, secrets=world.master.secrets())
    assert read(target) == world.digest
    node.unpublish(volume, target)
    wait_until(lambda: not world.folder_on(node).exists(), what="its folder's end", limit_s=30)


def test_what_passes_through_nodes_is_counted_anew(world: World) -> None:
    node, _ = world.nodes
    master = world.master
    master.configure(mounts=[dataset_pb2.SourceMount(source=world.url, path="/")])
    volume, target = world.master.volume(world.url), node.target()
    node.publish(volume, target, secrets=master.secrets())
    master.await_figures(lambda figures: figures.totals.known, what="totals")
    (target / "made").write_bytes(bytes(MIB))
    master.await_figures(lambda figures: figures.totals.bytes == _SIZE + MIB, what="a file that was made")
    (target / "made").unlink()
    figures = master.await_figures(lambda figures: figures.totals.bytes == _SIZE, what="a file that was removed")
    assert figures.totals.files == 2
    (target / "empty").touch()
    master.await_figures(lambda figures: figures.totals.files == 3, what="an empty file")
