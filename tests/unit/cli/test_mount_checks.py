"""What `efc doctor` says of a mount that serves, and of ones that nobody serves any more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.cli.mount_checks import check_mounts, of_mount
from csi.cli.status import _row as status_row
from csi.cli.unserved import mount_command
from csi.node.mount_status import missing_sources, replacements_of, silence_of, takes_nothing
from csi.node.mounts import Mount, Mounts
from csi.node.reports import Reports

_STATUS, _STORE = efc_pb2.MountStatus, efc_pb2.StoreStats
SOURCE = efc_pb2.Source(host="nas", port=2050, path="/data")
CACHE = efc_pb2.CacheConfig(store_mib=64, workers="w:1", workers_key="/key")


def served(**fields: object) -> efc_pb2.MountStatus:
    """A mount with a store and a worker that are well."""
    stats = efc_pb2.DaemonStats(
        uptime_ms=5000,
        cache=efc_pb2.CacheStats(workers=1, workers_ready=1),
        store=_STORE(state=_STORE.SERVING),
    )
    status = _STATUS(
        target="/mnt/data", state=_STATUS.SERVING, pid=7, store="/cache/a-0", stats=stats,
        config=efc_pb2.DaemonConfig(source=SOURCE, cache=CACHE),
    )  # fmt: skip
    status.MergeFrom(_STATUS(**fields))  # type: ignore[arg-type]  # names of its fields
    return status


def said(status: efc_pb2.MountStatus, *, unknown: Sequence[str] = ()) -> list[tuple[str, str]]:
    findings = list(of_mount(status, in_cluster=False, unknown=unknown))
    assert all(bool(finding.mend) == (finding.level != "ok") for finding in findings)
    assert all("nfs://nas:2050/data at /mnt/data: " in finding.message for finding in findings)
    return [(finding.level, finding.message) for finding in findings]


def test_a_mount_that_is_well() -> None:
    assert said(served()) == [("ok", "nfs://nas:2050/data at /mnt/data: process 7 serves it")]


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        (efc_pb2.DaemonStats(cache=efc_pb2.CacheStats(workers=2)), "1 of 2 workers do not answer"),
        (efc_pb2.DaemonStats(store=_STORE(state=_STORE.FULL)), "stores nothing new"),
        (efc_pb2.DaemonStats(store=_STORE(state=_STORE.READ_ONLY)), "is read-only"),
        (efc_pb2.DaemonStats(store=_STORE(state=_STORE.FAILED)), "its disk fails"),
        (efc_pb2.DaemonStats(state=efc_pb2.StateStats(nodes=9, nodes_max=9)), "as many as the daemon's memory limit"),
    ],
)
def test_what_a_mount_does_without_is_a_warning(cache: efc_pb2.DaemonStats, words: str) -> None:
    ((level, message),) = said(served(stats=cache))
    assert level == "warn"
    assert words in message


def test_each_lack_is_said_by_itself() -> None:
    stats = efc_pb2.DaemonStats(store=_STORE(state=_STORE.FULL), cache=efc_pb2.CacheStats(workers=2))
    found = said(served(stats=stats), unknown=["prefetch"])
    assert [level for level, _ in found] == ["warn"] * 3
    assert "not in force: prefetch" in found[-1][1]
    ((level, message),) = said(served(store_missing="no directory is free"))
    assert (level, "no directory is free" in message) == ("warn", True)


def test_a_silent_nas_is_a_failure_whatever_else_there_is() -> None:
    stats = efc_pb2.DaemonStats(cache=efc_pb2.CacheStats(workers=2), nfs=efc_pb2.NfsStats(oldest_call_ms=7900))
    status = served(state=_STATUS.UNRESPONSIVE_NAS, stats=stats)
    assert [level for level, _ in said(status)] == ["fail", "warn"]
    assert silence_of(status) == "the NAS has not answered for 7 s"
    assert silence_of(served()) == ""
    assert "the NAS has not answered for 7 s" in status_row(status, Reports("/none"), [])[-1]


@pytest.mark.parametrize(
    ("restarts", "upgrades", "uptime_ms", "levels"),
    [
        (5, 0, 3000, ["warn"]),
        (3, 0, 800_000, ["warn"]),
        (5, 0, 901_000, ["ok"]),
        (2, 0, 3000, ["ok"]),
        (5, 5, 3000, ["ok"]),
        (5, 3, 3000, ["ok"]),
    ],
    ids=["again and again", "a while ago", "long ago", "twice", "upgrades", "twice beside upgrades"],
)
def test_daemons_that_die_again_and_again(restarts: int, upgrades: int, uptime_ms: int, levels: list[str]) -> None:
    reason = "the daemon was killed by signal 9" if restarts > upgrades else ""
    stats = efc_pb2.DaemonStats(uptime_ms=uptime_ms)
    found = said(served(restarts=restarts, upgrades=upgrades, reason=reason, stats=stats))
    assert [level for level, _ in found] == levels
    assert f"{restarts} restarts" in found[0][1]
    assert reason in found[0][1]
    assert replacements_of(served(restarts=3, upgrades=2)) == "3 restarts, 2 of them by upgrades"
    assert replacements_of(served()) == ""


def test_a_missing_source_is_named_once_with_its_port() -> None:
    mounted = [efc_pb2.MountedSource(path="/d", source=SOURCE), efc_pb2.MountedSource(path="/e", source=SOURCE)]
    reason = "no such directory (a): b"
    stats = efc_pb2.DaemonStats(
        sources=[
            efc_pb2.SourceStats(path="/d", reason=reason),
            efc_pb2.SourceStats(path="/e", reason="the daemon is connecting to it"),
        ]
    )
    status = _STATUS(config=efc_pb2.DaemonConfig(sources=mounted), stats=stats)
    assert missing_sources(status) == [
        "source /d is missing (nfs://nas:2050/data): no such directory (a): b",
        "source /e is missing (nfs://nas:2050/data): the daemon is connecting to it",
    ]
    findings = list(of_mount(status, in_cluster=True))
    assert [finding.level for finding in findings] == ["warn", "warn"]


@pytest.mark.parametrize(
    ("changed", "levels", "nothing"),
    [
        ({}, {"store", "workers"}, ""),
        ({"stats": efc_pb2.DaemonStats(store=_STORE(state=_STORE.FULL))}, {"store"}, "nothing"),
        ({"stats": efc_pb2.DaemonStats(store=_STORE(state=_STORE.FULL))}, {"store", "workers"}, ""),
        ({"store_missing": "none is free"}, {"store"}, "nothing"),
    ],
)
def test_whether_any_level_takes_something(changed: dict[str, object], levels: set[str], nothing: str) -> None:
    status = served(**changed)
    assert takes_nothing(status, store="store" in levels, workers="workers" in levels) is bool(nothing)
    status.stats.cache.workers_ready = 0
    assert takes_nothing(status, store=False, workers=True)
    assert takes_nothing(_STATUS(), store=True, workers=True), "there are no levels"


def mount(target: str, source: str = "nfs://nas:2050/data") -> Mount:
    return Mount(device="0:9", root="/", target=target, read_only=False, file_system_type="fuse.efc", source=source)


@pytest.mark.parametrize("place", ["cluster", "host"])
def test_a_dead_mount_is_a_failure_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    in_cluster = place == "cluster"

    async def answer(_mounts: Mounts, target: str, **_limits: object) -> None:
        if target == "/dead":
            raise DriverError(Code.UNAVAILABLE, "statvfs of '/dead': Transport endpoint is not connected")
        if target == "/hangs":
            raise DriverError(Code.DEADLINE_EXCEEDED, "efc-mount-helper was stopped after 2 s")

    monkeypatch.setattr(Mounts, "statvfs", answer)
    keeper, *found = check_mounts(
        str(tmp_path), [mount("/dead"), mount("/lives"), mount("/hangs")], in_cluster=in_cluster
    )
    assert [finding.level for finding in (keeper, *found)] == ["fail", "fail", "warn", "warn"]
    assert found[0].message.startswith("/dead is a dead mount of nfs://nas:2050/data")
    assert found[0].mend.startswith("efc mount nfs://nas:2050/data /dead") is not in_cluster
    keeper, *_ = check_mounts(str(tmp_path), [mount("/dead")], in_cluster=in_cluster)
    assert ("takes over" in keeper.mend) is False


def test_the_command_that_mounts_anew_can_be_typed() -> None:
    assert mount_command(mount("/mnt/a b")).startswith("efc mount nfs://nas:2050/data '/mnt/a b', ")
    assert mount_command(mount("/mnt/a", "efc")).startswith("efc mount /mnt/a --source PATH=SOURCE ...")
