"""What volumes are: made, published, measured and deleted as their parameters say; every call may come ten times."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import yaml

from csi._proto import csi_pb2
from tests.support.driver import MULTI_READER, SINGLE_WRITER, Driver, inline_volume, refused, static_volume
from tests.support.nas import Nas
from tests.support.paths import ROOT, program

REPETITIONS = 10
MIB = 1 << 20
PVC = {"csi.storage.k8s.io/pvc/namespace": "team-a", "csi.storage.k8s.io/pvc/name": "scratch"}


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4()}"


@contextmanager
def published(driver: Driver, volume: csi_pb2.Volume, **how: object) -> Iterator[Path]:
    target = driver.target()
    driver.publish(volume, target, **how)  # type: ignore[arg-type]
    try:
        yield target
    finally:
        driver.unpublish(volume, target)


def directory_of(nas: Nas, volume: csi_pb2.Volume) -> Path:
    return nas.export_folder() / volume.volume_context["path"]


def test_every_call_ten_times(driver: Driver, nas: Nas) -> None:
    name = unique("idempotent")
    volumes = [driver.create(name, capacity_bytes=MIB) for _ in range(REPETITIONS)]
    assert all(volume == volumes[0] for volume in volumes)
    volume, target = volumes[0], driver.target()
    for _ in range(REPETITIONS):
        driver.publish(volume, target)
    assert [mount.target for mount in driver.published()] == [target], "mounts are stacked"
    (target / "file").write_text("content")
    assert (directory_of(nas, volume) / "file").read_text() == "content"
    for _ in range(REPETITIONS):
        driver.unpublish(volume, target)
    assert driver.published() == []
    assert not target.exists()
    for _ in range(REPETITIONS):
        driver.delete(volume.volume_id)
    assert not directory_of(nas, volume).exists()


def test_two_targets_share_one_daemon_and_see_each_other(driver: Driver) -> None:
    volume = driver.create(unique("shared"))
    with published(driver, volume) as one, published(driver, volume) as two:
        (one / "file").write_text("from one")
        assert (two / "file").read_text() == "from one"
        assert len(driver.daemons()) == 1
    driver.delete(volume.volume_id)


def test_mounts_are_nosuid_and_nodev(driver: Driver) -> None:
    volume = driver.create(unique("flags"))
    with published(driver, volume) as target:
        (mount,) = driver.published()
        assert mount.target == target
        assert {"nosuid", "nodev", "rw"} <= mount.options
    driver.delete(volume.volume_id)


@pytest.mark.parametrize(
    "how",
    [{"readonly": True}, {"mode": MULTI_READER}, {"mount_flags": ["ro"]}],
    ids=["request", "access mode", "mount flag"],
)
def test_read_only(driver: Driver, nas: Nas, how: dict[str, object]) -> None:
    volume = driver.create(unique("read-only"))
    (directory_of(nas, volume) / "file").write_text("content")
    with published(driver, volume) as writable, published(driver, volume, **how) as target:
        assert (target / "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only file system"):
            (target / "new").write_text("")
        (writable / "new").write_text("the other target can still be written")
        driver.publish(volume, target, **how)  # type: ignore[arg-type]
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            driver.publish(volume, target)
    driver.delete(volume.volume_id)


def test_pods_are_shown_by_name(driver: Driver, nas: Nas) -> None:
    """Those of kubelet's word alone; over a crash of the node plugin; and no longer than they are published."""

    def shown() -> dict[str, tuple[object, object]]:
        command = [str(program("efc")), "status", "--json", "--run-dir", str(driver.run_dir)]
        (mount,) = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
        return {volume["target"]: (volume["pod_namespace"], volume["pod_name"]) for volume in mount["volumes"]}

    prefix = "csi.storage.k8s.io/pod"
    volume, names = static_volume("named", nas.url), {f"{prefix}.namespace": "team-a", f"{prefix}.name": "web-0"}
    with published(driver, volume) as nameless, published(driver, static_volume("said", nas.url, **names)) as said:
        target = driver.target()
        context = {**volume.volume_context, **names, f"{prefix}.uid": target.parts[-5]}
        driver.publish(volume, target, volume_context=context)
        nobody = (None, None)
        expected = {str(nameless): nobody, str(said): nobody, str(target): ("team-a", "web-0")}
        assert shown() == expected
        driver.crash("node")
        driver.publish(volume, target, volume_context=context)
        assert shown() == expected
        driver.unpublish(volume, target)
        assert list(shown()) == sorted([str(nameless), str(said)])
        assert list((driver.run_dir / "csi" / "pods").iterdir()) == []


def test_single_writer_has_one_target(driver: Driver) -> None:
    volume = driver.create(unique("single"))
    with published(driver, volume, mode=SINGLE_WRITER) as target:
        driver.publish(volume, target, mode=SINGLE_WRITER)
        other = driver.target()
        with refused(grpc.StatusCode.FAILED_PRECONDITION):
            driver.publish(volume, other, mode=SINGLE_WRITER)
        with refused(grpc.StatusCode.FAILED_PRECONDITION):
            driver.publish(volume, other)
        assert not other.exists()
    with published(driver, volume, mode=SINGLE_WRITER):
        pass
    driver.delete(volume.volume_id)


def test_owner_and_mode(driver: Driver, nas: Nas) -> None:
    volume = driver.create(unique("owner"), parameters={"uid": "1234", "gid": "2345", "mode": "2750"})
    on_nas = directory_of(nas, volume).stat()
    assert (on_nas.st_uid, on_nas.st_gid, stat.S_IMODE(on_nas.st_mode)) == (1234, 2345, 0o2750)
    with published(driver, volume) as target:
        seen = target.stat()
        assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (1234, 2345, 0o2750)
    driver.delete(volume.volume_id)


@pytest.mark.parametrize("subject", ["the example", "0770"])
def test_a_subpath_for_a_pod_that_is_not_root(driver: Driver, subject: str) -> None:
    """As kubelet makes one: as root, with the permissions of the volume's directory but for set-group-ID."""
    (example,) = yaml.safe_load_all((ROOT / "deploy" / "examples" / "storageclass.yaml").read_text())
    how = {name: example["parameters"][name] for name in ("uid", "gid", "mode")}
    volume = driver.create(unique("subpath"), parameters=how if subject == "the example" else how | {"mode": "0770"})
    with published(driver, volume) as target:
        permissions = target.stat().st_mode & 0o777
        (target / "sub").mkdir()
        (target / "sub").chmod(permissions)
        # It stands there already, as in a container: kubelet's folders are closed to it.
        done = subprocess.run(
            ["touch", "file"], cwd=target / "sub", user=4321, group=int(how["gid"]), extra_groups=[],
            capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) is (subject == "the example"), done.stderr
    driver.delete(volume.volume_id)


def test_path_pattern(driver: Driver, nas: Nas) -> None:
    pattern = {"pathPattern": "teams/${pvc.namespace}/${pvc.name}", **PVC}
    volume = driver.create(unique("pattern"), parameters=pattern)
    directory = nas.export_folder() / "teams" / "team-a" / "scratch"
    assert directory.is_dir()
    with refused(grpc.StatusCode.ALREADY_EXISTS) as message:
        driver.create(unique("pattern"), parameters=pattern)
    assert "teams/team-a/scratch" in message[0]
    with published(driver, volume) as target:
        (target / "file").write_text("content")
    driver.delete(volume.volume_id)
    assert not directory.exists()


def test_a_directory_of_somebody_else_is_never_adopted(driver: Driver, nas: Nas) -> None:
    foreign = nas.export_folder() / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_text("content")
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        driver.create(unique("foreign"), parameters={"pathPattern": "foreign"})
    assert (foreign / "precious").read_text() == "content"


def test_a_replaced_directory_is_never_deleted(driver: Driver, nas: Nas) -> None:
    volume = driver.create(unique("replaced"))
    directory = directory_of(nas, volume)
    aside = directory.with_name("aside")
    directory.rename(aside)
    directory.mkdir()
    (directory / "precious").write_text("content")
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        driver.delete(volume.volume_id)
    assert (directory / "precious").read_text() == "content"
    (directory / "precious").unlink()
    directory.rmdir()
    aside.rename(directory)
    driver.delete(volume.volume_id)


@pytest.mark.parametrize("on_delete", ["delete", "retain", "archive"])
def test_on_delete(driver: Driver, nas: Nas, on_delete: str) -> None:
    name = unique(on_delete)
    volume = driver.create(name, parameters={"onDelete": on_delete})
    directory = directory_of(nas, volume)
    (directory / "sub").mkdir()
    (directory / "sub" / "file").write_text(name)
    driver.delete(volume.volume_id)
    driver.delete(volume.volume_id)
    kept = [path for path in nas.export_folder().rglob("file") if path.read_text() == name]
    assert directory.exists() == (on_delete == "retain")
    assert len(kept) == (0 if on_delete == "delete" else 1)
    with refused(grpc.StatusCode.NOT_FOUND):
        driver.call("controller", "ControllerGetVolume", csi_pb2.ControllerGetVolumeRequest(volume_id=volume.volume_id))


def test_stats_and_condition(driver: Driver, nas: Nas) -> None:
    volume = driver.create(unique("stats"))
    with published(driver, volume) as target:
        answer = driver.stats(volume, target)
        by_unit = {usage.unit: usage for usage in answer.usage}
        assert set(by_unit) == {csi_pb2.VolumeUsage.BYTES, csi_pb2.VolumeUsage.INODES}
        on_nas = os.statvfs(nas.export_folder())
        assert by_unit[csi_pb2.VolumeUsage.BYTES].total == on_nas.f_blocks * on_nas.f_frsize
        assert not answer.volume_condition.abnormal, answer.volume_condition.message
        with refused(grpc.StatusCode.NOT_FOUND):
            driver.stats(volume, Path("some/path"))
        with refused(grpc.StatusCode.NOT_FOUND):
            driver.stats(static_volume("another", nas.url), target)
    driver.delete(volume.volume_id)


def test_who_asks_at_the_same_time_is_told_the_same(driver: Driver) -> None:
    volume = driver.create(unique("asked"))
    with published(driver, volume) as target, ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda _: driver.stats(volume, target), range(64)))
        assert {answer.volume_condition.message for answer in answers if answer.volume_condition.abnormal} == set()
        assert {len(answer.usage) for answer in answers} == {2}
    driver.delete(volume.volume_id)


def test_static_volume_with_any_id(driver: Driver, nas: Nas) -> None:
    (nas.export_folder() / "static" / "deep").mkdir(parents=True)
    (nas.export_folder() / "static" / "deep" / "file").write_text("content")
    volume = static_volume("nas.example.com#/a b/c?d=e,f", nas.url, path="static/deep")
    with published(driver, volume) as target:
        assert (target / "file").read_text() == "content"


def test_a_missing_directory_is_named_by_its_source(driver: Driver, nas: Nas) -> None:
    target = driver.target()
    with refused(grpc.StatusCode.NOT_FOUND) as message:
        driver.publish(static_volume("static", nas.url, path="no/such"), target)
    assert message[0] == f"there is no directory 'no/such' at {nas.url}: make it, or correct the volume's path"
    (nas.export_folder() / "file").touch()
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as message:
        driver.publish(static_volume("static", nas.url, path="file"), target)
    assert nas.url.replace("?", "/file?") in message[0]
    assert "/mnt/" not in message[0]


def test_list_and_get(driver: Driver) -> None:
    made = {driver.create(unique("listed"), capacity_bytes=MIB).volume_id for _ in range(5)}
    listed: set[str] = set()
    token = ""
    while True:
        page = driver.call("controller", "ListVolumes", csi_pb2.ListVolumesRequest(max_entries=2, starting_token=token))
        listed |= {entry.volume.volume_id for entry in page.entries}
        assert len(page.entries) <= 2
        if not (token := page.next_token):
            break
    assert made <= listed
    for volume_id in made:
        answer = driver.call(
            "controller", "ControllerGetVolume", csi_pb2.ControllerGetVolumeRequest(volume_id=volume_id)
        )
        assert answer.volume.capacity_bytes == MIB
        assert not answer.status.volume_condition.abnormal
        driver.delete(volume_id)


def test_inline_volumes(driver: Driver, nas: Nas) -> None:
    """A listed source and what lies beneath it, read-only or not; pods share a daemon with other volumes of it."""
    folder = nas.export_folder() / "inline"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("content")
    listed = nas.url.replace("?", "/inline?")
    driver.allow([{"namespaces": ["team-*"], "sources": [listed]}])
    beneath = nas.url.replace("?", "/inline/deep?")
    with (
        published(driver, inline_volume(nas.url, namespace="team-a", path="inline/deep")) as writable,
        published(driver, inline_volume(beneath, namespace="team-b"), readonly=True) as target,
        published(driver, static_volume("static", listed, path="deep")) as static,
    ):
        assert (target / "file").read_text() == "content"
        (writable / "new").write_text("new")
        assert (target / "new").read_text() == (static / "new").read_text() == "new"
        with pytest.raises(OSError, match="Read-only file system"):
            (target / "other").touch()
        assert len({mount.device for mount in driver.published()}) == 1, "one daemon"


def test_an_inline_volume_follows_no_link_out_of_its_source(driver: Driver, nas: Nas) -> None:
    """Links that a tenant makes lead nowhere: the NAS is never asked for the tenant's part of the path."""
    export = nas.export_folder()
    (export / "tenant").mkdir()
    (export / "neighbour" / "deep").mkdir(parents=True)
    (export / "tenant" / "link").symlink_to("../neighbour")
    driver.allow([{"namespaces": ["team"], "sources": [nas.url.replace("?", "/tenant?")]}])
    for path in ("link", "link/deep"):
        for volume in (
            inline_volume(nas.url.replace("?", f"/tenant/{path}?"), namespace="team"),
            inline_volume(nas.url, namespace="team", path=f"tenant/{path}"),
        ):
            with refused(grpc.StatusCode.FAILED_PRECONDITION):
                driver.publish(volume, driver.target())
    assert driver.published() == []


def test_the_list_of_allowed_sources_may_change(driver: Driver, nas: Nas) -> None:
    """It counts for the next volume, without a restart; what is published stays, and can be published again."""
    (nas.export_folder() / "changing").mkdir()
    wide, narrow = nas.url, nas.url.replace("?", "/changing?")
    volume, target = inline_volume(narrow, namespace="team"), driver.target()
    with refused(grpc.StatusCode.PERMISSION_DENIED):
        driver.publish(volume, target)
    driver.allow([{"namespaces": ["team"], "sources": [wide]}])
    driver.publish(volume, target)
    for rules in ([{"namespaces": ["team"], "sources": [narrow]}], []):
        driver.allow(rules)
        driver.publish(volume, target)  # as kubelet does when it starts anew
        assert [mount.target for mount in driver.published()] == [target]
    driver.crash("node")
    driver.publish(volume, target)
    with refused(grpc.StatusCode.PERMISSION_DENIED):
        driver.publish(volume, driver.target())
    driver.unpublish(volume, target)
    with refused(grpc.StatusCode.PERMISSION_DENIED):
        driver.publish(volume, target)
    assert driver.published() == []


def test_kubelets_directory_behind_a_link(nas: Nas) -> None:
    """The kernel names mounts by where they are: none is made twice, and each is found again and unmounted."""
    with Driver(source=nas.url, is_kubelet_linked=True) as driver:
        volume, target = driver.create("linked"), driver.target()
        for _ in range(3):
            driver.publish(volume, target)
        assert len(driver.published()) == 1
        (target / "file").write_text("data")
        assert not driver.stats(volume, target).volume_condition.abnormal
        driver.crash("node")
        driver.publish(volume, target)
        assert len(driver.published()) == 1
        assert (target / "file").read_text() == "data"
        for _ in range(2):
            driver.unpublish(volume, target)
        assert driver.published() == []
        assert not target.exists()
        driver.delete(volume.volume_id)


def test_a_target_with_content(driver: Driver, nas: Nas) -> None:
    volume, target = static_volume("content", nas.url), driver.target()
    target.mkdir()
    (target / "precious").write_text("x")
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as message:
        driver.publish(volume, target)
    assert str(target) in message[0]
    assert (target / "precious").read_text() == "x"
    assert driver.published() == []
    (target / "precious").unlink()
    driver.publish(volume, target)
    driver.unpublish(volume, target)
    assert not target.exists()
