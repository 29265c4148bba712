"""When what is replaced, and what is told of it, with mount namespaces that exist only in memory.

The real ones are in tests/faults/test_all_lost.py and efc/mount-helper/tests/repairs.rs.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from csi._proto import efc_pb2
from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.node import repair
from csi.node.daemons import Daemons
from csi.node.keeper import Keeper, KeeperStatus
from csi.node.mounts import FILE_SYSTEM_TYPE, Loss, Mount, Mounts, Namespace, Survey, Unreplaced, top
from csi.node.records import Publication, Publications
from csi.node.repair import Repairer
from csi.node.replacing import replace_everywhere
from csi.node.reports import Report, Reports
from csi.observe.exposition import Recorder

DEAD, NEW = "0:7", "0:8"
OWN = os.stat("/proc/self/ns/mnt").st_ino


def mounted(target: str, *, device: str) -> Mount:
    return Mount(
        device=device, root="/", target=target, read_only=False, file_system_type=FILE_SYSTEM_TYPE, source="nfs://nas/x"
    )


class NodeMounts(Mounts):
    """Namespaces: inode -> mount points of the lost file system. Those of our own are in the table as well."""

    def __init__(self, table: list[Mount], namespaces: dict[int, list[str]]) -> None:
        super().__init__(children=Children())
        self.table, self.namespaces = table, namespaces
        self.failures: dict[int, str | DriverError] = {}
        self.holders: dict[str, int] = {}
        self.losses: list[Loss] = []
        self.order: list[int] = []
        self.surveys = 0

    def all(self) -> list[Mount]:
        return list(self.table)

    def at(self, target: str) -> Mount | None:
        return top(self.table, target)

    async def survey(self, devices: Iterable[str]) -> Survey:
        self.surveys += 1
        found = [
            Namespace(inode=inode, process=inode, mounts=frozenset((DEAD, point) for point in points))
            for inode, points in self.namespaces.items() if points
        ]  # fmt: skip
        return Survey(namespaces=found, holders=self.holders, losses=self.losses, is_complete=True)

    async def replace(self, namespace: Namespace, *, roots: Mapping[str, str]) -> tuple[int, list[Unreplaced]]:
        self.order.append(namespace.inode)
        failure = self.failures.get(namespace.inode)
        if isinstance(failure, DriverError):
            raise failure
        points = self.namespaces[namespace.inode]
        if failure is not None:
            return 0, [
                Unreplaced(device=DEAD, process=namespace.process, mount_point=point, root="/sub", message=failure)
                for point in points
            ]
        if namespace.inode == OWN:
            self.table[:] = [mounted(m.target, device=NEW if m.device == DEAD else m.device) for m in self.table]
        self.namespaces[namespace.inode] = []
        return len(points), []


def test_containers_come_first_and_the_node_last() -> None:
    mounts = NodeMounts([], {OWN: ["/t"], 1: ["/t"], 55: ["/data"], 66: ["/data", "/sub"]})
    outcome = asyncio.run(replace_everywhere(mounts, roots={DEAD: "/run/mnt/k"}))
    assert sorted(mounts.order[:2]) == [55, 66]
    assert mounts.order[2:] == [1, OWN]
    assert (outcome.replaced, outcome.failed) == (5, [])


def test_what_fails_fails_alone_and_is_not_tried_again_at_once() -> None:
    mounts = NodeMounts([], {55: ["/data"], 66: ["/a"], 77: ["/b"]})
    mounts.failures = {66: "no such directory", 77: DriverError(Code.DEADLINE_EXCEEDED, "it hangs")}
    outcome = asyncio.run(replace_everywhere(mounts, roots={DEAD: "/run/mnt/k"}))
    assert outcome.replaced == 1
    assert sorted(mounts.order) == [55, 66, 77]
    told = {(one.process, one.mount_point, one.message) for one in outcome.failed}
    assert told == {(66, "/a", "no such directory"), (77, "/b", "it hangs")}


def test_a_session_that_a_daemon_has_is_not_touched() -> None:
    mounts = NodeMounts([], {55: ["/data"]})
    mounts.holders = {DEAD: 4711}
    outcome = asyncio.run(replace_everywhere(mounts, roots={DEAD: "/run/mnt/k"}))
    assert (mounts.order, outcome.held) == ([], {DEAD: 4711})


def report(**fields: object) -> Report:
    values = {
        "target": "/run/mnt/k", "device": NEW, "at_unix_s": 0.0, "replaced": 1, "failed": [], "losses": [],
        "is_complete": True, **fields,
    }  # fmt: skip
    return Report(**values)  # type: ignore[arg-type]


def test_a_report_is_of_one_mount_and_goes_with_it(tmp_path: Path) -> None:
    reports = Reports(str(tmp_path))
    one = report(
        failed=[Unreplaced(device=DEAD, process=5, mount_point="/d", root="/a", message="why")],
        losses=[Loss(device=DEAD, process=6, command="sh", descriptors=2)],
    )
    reports.put(one)
    assert Reports(str(tmp_path)).get("/run/mnt/k", device=NEW) == one
    assert reports.get("/run/mnt/k", device="0:9") is None
    assert reports.get("/run/mnt/other", device=NEW) is None
    reports.forget_others(["/run/mnt/k"])
    assert reports.get("/run/mnt/k", device=NEW) == one
    reports.forget_others([])
    assert reports.get("/run/mnt/k", device=NEW) is None


def test_a_failure_is_told_of_the_volumes_that_it_concerns() -> None:
    failed = [Unreplaced(device=DEAD, process=5, mount_point="/data", root="/a/sub", message="why")]
    told = report(failed=failed)
    for path in ("", "a", "a/sub", "a/sub/below"):
        assert "process 5 at /data: why" in told.failure(path), path
    assert told.failure("b") == told.failure("a/su") == ""
    assert "process 5" in told.failure()


def test_a_note_names_who_lost_what() -> None:
    losses = [
        Loss(device=DEAD, process=6, command="sh", descriptors=2),
        Loss(device=DEAD, process=7, command="cat", descriptors=0),
    ]
    assert "sh (6): 2, cat (7): its working directory" in report(losses=losses).note()
    assert "perhaps others" in report(losses=losses, is_complete=False).note()
    assert "open files" not in report().note()


class MemoryKeeper(Keeper):
    """Mounts the dataset as `NEW`, unless it fails; knows the sessions of `living`."""

    def __init__(self, table: list[Mount]) -> None:
        super().__init__("/none")
        self.table = table
        self.living = {7: efc_pb2.MountStatus.SERVING}
        self.failure: DriverError | None = None
        self.mounts = 0

    def identity(self) -> tuple[int, ...]:
        return (1,)

    async def status(self, target: str = "", *, limit_seconds: float = 0) -> KeeperStatus:
        states = [efc_pb2.MountStatus(connection=number, state=state) for number, state in self.living.items()]
        return KeeperStatus(pid=1, version="", mounts=states)

    async def mount(
        self, *, target: str, config: efc_pb2.DaemonConfig, limit_seconds: float = 0
    ) -> efc_pb2.MountStatus:
        self.mounts += 1
        if self.failure is not None:
            raise self.failure
        assert (config.source.host, config.attr_ttl_ms, config.read_only) == ("nas", 5000, False)
        self.living[8] = efc_pb2.MountStatus.SERVING
        if top(self.table, target) is None:
            self.table.append(mounted(target, device=NEW))
        return efc_pb2.MountStatus(target=target, connection=8)

    async def hold(self, *, target: str) -> tuple[efc_pb2.MountStatus, list[int]]:
        raise DriverError(Code.NOT_FOUND, "nobody is held here")


class Node:
    """A node plugin with one volume, whose mount is of the file system `DEAD`."""

    def __init__(self, folder: Path) -> None:
        self.target = str(folder / "target")
        self.table = [mounted(self.target, device=DEAD)]
        self.keeper = MemoryKeeper(self.table)
        self.mounts = NodeMounts(self.table, {OWN: [self.target], 55: ["/data"]})
        publications = self.publications = Publications(str(folder), boot_id="boot")
        publications.load()
        publications.put(Publication(
            volume_id="v", target=self.target, source="nfs://nas/x", path="", key="k", options={"attr_ttl_ms": 5000},
            read_only=True, access_mode=1,
        ))  # fmt: skip
        self.reports, self.recorder = Reports(str(folder)), Recorder()
        self.dataset = f"{folder}/mnt/k"
        self.repairer = Repairer(
            publications=publications, mounts=self.mounts, keeper=self.keeper, reports=self.reports,
            daemons=Daemons(
                run_dir=str(folder), keeper=self.keeper, mounts=self.mounts, idle_grace_seconds=60
            ),
            recorder=self.recorder,
        )  # fmt: skip

    async def watch(self, *, until: Callable[[], object] = lambda: False, seconds: float = 10.0) -> None:
        """Lets it watch until then, or for that time if it shall do nothing."""
        watching = asyncio.create_task(self.repairer.watch())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not until():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
        watching.cancel()

    def failure(self) -> str | None:
        """What the report says of failures; None while there is no report."""
        told = self.reports.get(self.dataset, device=NEW)
        return None if told is None else told.failure()

    def is_settled(self) -> bool:
        """Nothing is lost, and no more looks are to come."""
        return self.device() == NEW and not self.repairer._lost

    def device(self) -> str:
        mount = self.mounts.at(self.target)
        assert mount is not None
        return mount.device


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    for name, value in {"_LOOK_SECONDS": 0.005, "_INTERVAL_SECONDS": 0.02, "_RETRY_SECONDS": 0.01}.items():
        monkeypatch.setattr(repair, name, value)
    monkeypatch.setattr(repair, "_AGAIN_SECONDS", (0.02, 0.02))
    return Node(tmp_path)


def test_what_lives_is_let_alone(node: Node) -> None:
    asyncio.run(node.watch(seconds=0.2))
    assert (node.keeper.mounts, node.mounts.surveys, node.device()) == (0, 0, DEAD)


@pytest.mark.parametrize("living", [{}, {7: efc_pb2.MountStatus.ABORTED}], ids=["nobody has it", "aborted"])
def test_what_is_lost_is_replaced_once(node: Node, living: dict[int, "efc_pb2.MountStatus.State"]) -> None:
    node.keeper.living = living
    asyncio.run(node.watch(until=node.is_settled))
    assert node.is_settled()
    assert [mount.target for mount in node.table] == [node.target, node.dataset]
    assert node.mounts.namespaces == {OWN: [], 55: []}
    told = node.reports.get(node.dataset, device=NEW)
    assert told is not None
    assert told.replaced == 2
    assert node.reports.lost == {}
    assert node.mounts.surveys == 4, "two passes at first, two looks, and then no more"


def test_it_waits_for_the_nas(node: Node) -> None:
    node.keeper.living = {}
    node.keeper.failure = DriverError(Code.UNAVAILABLE, "the NAS does not answer")

    async def run() -> None:
        await node.watch(until=lambda: node.keeper.mounts >= 3)
        assert node.device() == DEAD
        assert node.reports.lost == {DEAD: "the NAS does not answer"}
        node.keeper.failure = None
        await node.watch(until=node.is_settled)

    asyncio.run(run())
    assert node.is_settled()
    assert node.reports.lost == {}


def test_a_later_look_mends_the_report(node: Node) -> None:
    node.keeper.living = {}
    node.mounts.failures = {55: "not yet"}

    async def run() -> None:
        await node.watch(until=lambda: "not yet" in (node.failure() or ""))
        assert "not yet" in (node.failure() or "")
        node.mounts.failures = {}
        await node.watch(until=lambda: node.failure() == "")

    asyncio.run(run())
    told = node.reports.get(node.dataset, device=NEW)
    assert told is not None
    assert told.failure() == ""
    assert told.replaced == 2


def test_a_number_that_lives_again_is_no_longer_lost(node: Node) -> None:
    node.keeper.living = {}
    node.mounts.failures = {55: "for ever"}

    async def run() -> None:
        await node.watch(until=lambda: node.repairer._lost)
        node.keeper.living[7] = efc_pb2.MountStatus.SERVING
        await node.watch(until=lambda: not node.repairer._lost)

    asyncio.run(run())
    assert node.repairer._lost == {}
    assert node.reports.lost == {}


@pytest.mark.parametrize("failure", [None, DriverError(Code.UNAVAILABLE, "the NAS does not answer")])
def test_a_volume_that_goes_while_its_dataset_is_mounted_ends_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, failure: DriverError | None
) -> None:
    monkeypatch.setattr(repair, "_LAUNCH_WAIT_SECONDS", 0.05)
    node.keeper.living = {}

    async def run() -> None:
        gate, ready = asyncio.Event(), node.keeper.mount

        async def slow(**how: Any) -> efc_pb2.MountStatus:
            await gate.wait()
            return await ready(**how)

        monkeypatch.setattr(node.keeper, "mount", slow)
        await node.repairer._look()
        assert node.repairer._launches
        # The pod goes, and then the NAS answers, while the next look waits.
        node.publications.remove(node.target)
        node.keeper.failure = failure
        asyncio.get_running_loop().call_later(0.01, gate.set)
        await node.repairer._look()
        assert (node.repairer._lost, node.reports.lost) == ({}, {})

    asyncio.run(run())


def test_a_record_that_is_not_understood_ends_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.keeper.living = {}

    def of_another_release(**_options: object) -> None:
        raise TypeError("unexpected keyword argument 'of_tomorrow'")

    monkeypatch.setattr(repair, "MountOptions", of_another_release)
    asyncio.run(node.watch(until=lambda: node.reports.lost.get(DEAD)))
    assert "of_tomorrow" in node.reports.lost[DEAD]


def test_the_delay_has_an_end(node: Node) -> None:
    async def run() -> None:
        node.repairer._lost[DEAD] = repair._Lost(key="k", due=0, failures=5_000)
        node.repairer._postpone(DEAD, "still not")
        assert node.repairer._lost[DEAD].due <= asyncio.get_running_loop().time() + 30

    asyncio.run(run())
