"""Volumes on a NAS: idempotent, whenever the controller dies, and never somebody else's directory."""

import errno
import json
from pathlib import Path

import pytest

from csi._proto import csi_pb2
from csi.base.errors import Code, DriverError
from csi.config.parameters import VolumeParameters
from csi.config.volumes import VolumeRecord, volume_id_of
from csi.controller.provisioning import Provisioner
from tests.unit.local_nas import CrashError, LocalNas

GIB = 1 << 30
METADATA = {"csi.storage.k8s.io/pvc/namespace": "team", "csi.storage.k8s.io/pvc/name": "data"}
PATTERN = {"pathPattern": "${pvc.namespace}/${pvc.name}", **METADATA}


@pytest.fixture
def nas(tmp_path: Path) -> LocalNas:
    return LocalNas(tmp_path)


async def create(
    nas: LocalNas, name: str = "v", capacity: tuple[int, int] = (GIB, 0), /, **parameters: str
) -> VolumeRecord:
    """A volume of ``capacity``, required bytes and their limit."""
    required_bytes, limit_bytes = capacity
    return await Provisioner([nas]).create(
        name, parameters=VolumeParameters.parse(parameters), required_bytes=required_bytes, limit_bytes=limit_bytes
    )


async def delete(nas: LocalNas, name: str = "v") -> None:
    await Provisioner([nas]).delete(volume_id_of(name))


def own(nas: LocalNas, folder: str) -> list[str]:
    path = nas.folder / ".efc" / folder
    return sorted(child.name for child in path.iterdir()) if path.exists() else []


def visible(nas: LocalNas) -> list[str]:
    return sorted(str(path.relative_to(nas.folder)) for path in nas.folder.rglob("*") if ".efc" not in path.parts)


async def refused(awaitable: object, code: Code) -> str:
    with pytest.raises(DriverError) as caught:
        await awaitable  # type: ignore[misc]
    assert caught.value.code is code
    return caught.value.message


async def test_create_and_delete(nas: LocalNas) -> None:
    record = await create(nas, mode="0750")
    directory = nas.folder / record.path
    assert record.path == record.id == volume_id_of("v")
    assert directory.stat().st_ino == record.fileid
    assert directory.stat().st_mode & 0o7777 == 0o750
    assert record.context() == {"source": "nfs://nas/data", "path": record.path}
    assert await create(nas, mode="0750") == record
    (directory / "file").write_text("data")
    await delete(nas)
    await delete(nas)
    assert visible(nas) == []
    assert own(nas, "volumes") == own(nas, "trash") == own(nas, "new") == []


#: Of the controller, or of efc-fs alone: the controller goes on then, without knowing whether the operation was done.
CRASHES = [CrashError(), DriverError(Code.INTERNAL, "efc-fs was killed")]


@pytest.mark.parametrize("crash", CRASHES, ids=["controller", "efc-fs"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("parameters", [{}, PATTERN], ids=["plain", "pattern"])
async def test_create_survives_a_crash_anywhere(
    tmp_path: Path,
    parameters: dict[str, str],
    after: bool,  # noqa: FBT001
    crash: Exception,
) -> None:
    for number in range(100):
        nas = LocalNas(tmp_path / str(number))
        nas.folder.mkdir()
        nas.crash_at, nas.crash_after, nas.crash = number, after, crash
        try:
            await create(nas, **parameters)
        except (CrashError, DriverError):
            nas.crash_at = None
            record = await create(nas, **parameters)
            assert (nas.folder / record.path).stat().st_ino == record.fileid
            assert own(nas, "volumes") == [f"{record.id}.json"]
            await delete(nas)
            assert not (nas.folder / record.path).exists()
            assert own(nas, "volumes") == []
        else:
            assert number > 5
            return
    pytest.fail("never ended")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("on_delete", ["delete", "retain", "archive"])
async def test_delete_survives_a_crash_anywhere(tmp_path: Path, on_delete: str, after: bool) -> None:  # noqa: FBT001
    for number in range(100):
        nas = LocalNas(tmp_path / str(number))
        nas.folder.mkdir()
        record = await create(nas, onDelete=on_delete)
        (nas.folder / record.path / "file").write_text("data")
        nas.commands.clear()
        nas.crash_at, nas.crash_after = number, after
        try:
            await delete(nas)
            is_last = len(nas.commands) <= number
        except CrashError:
            is_last = False
        nas.crash_at = None
        await delete(nas)
        await Provisioner([nas]).collect()
        assert own(nas, "volumes") == own(nas, "trash") == []
        kept = f"{record.id}-{record.created_unix_ns}"
        if on_delete == "delete":
            assert visible(nas) == []
        elif on_delete == "retain":
            assert (nas.folder / record.path / "file").read_text() == "data"
            assert own(nas, "retained") == [f"{kept}.json"]
        else:
            assert (nas.folder / ".efc" / "archived" / kept / "file").read_text() == "data"
            assert own(nas, "archived") == [kept, f"{kept}.json"]
            assert visible(nas) == []
        if is_last:
            return
    pytest.fail("never ended")


def _hostile(change: dict[str, object]) -> bytes:
    fields = {
        "id": volume_id_of("x"), "name": "x", "source": "nfs://nas/data", "path": "x", "capacity_bytes": 1,
        "on_delete": "delete", "uid": 0, "gid": 0, "mode": 511, "options": {}, "fileid": 1, "created_unix_ns": 1,
        "version": 1,
    }  # fmt: skip
    return json.dumps(fields | change).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000, None, b"", b"null", _hostile({"options": {"soft": 1}}), _hostile({"capacity_bytes": 1 << 70}),
        _hostile({"source": "nfs://other/data"}), _hostile({"path": ".efc/volumes"}), b"x" * (1 << 20),
        _hostile({"options": {"soft": "\ud800"}}),
    ],
    ids=["deep", "folder", "empty", "null", "option", "capacity", "elsewhere", "own", "large", "surrogate"],
)  # fmt: skip
async def test_a_damaged_record_stops_no_other_volume(nas: LocalNas, content: bytes | None) -> None:
    """Who may write on the NAS may write records: theirs fail, and nobody else's."""
    first = await create(nas, "first")
    record = nas.folder / ".efc" / "volumes" / f"{volume_id_of('x')}.json"
    draft = nas.folder / ".efc" / "volumes" / ".efc-0123456789abcdef.tmp"
    (draft / "full").mkdir(parents=True)
    if content is None:
        record.mkdir()
    else:
        record.write_bytes(content)
    second = await create(nas, "second")
    listed, _ = await Provisioner([nas]).list(after="", count_max=0)
    assert {one.id for one, _ in listed} == {first.id, second.id}
    for one, _ in listed:
        csi_pb2.Volume(volume_id=one.id, capacity_bytes=one.capacity_bytes, volume_context=one.context())
    await delete(nas, "first")
    await refused(delete(nas, "x"), Code.INTERNAL)
    await Provisioner([nas]).collect()
    assert record.exists()
    assert own(nas, "trash") == []


async def test_same_name_other_volume(nas: LocalNas) -> None:
    await create(nas)
    changes: list[dict[str, str]] = [{"uid": "7"}, {"onDelete": "retain"}, {"soft": "true"}]
    others = [create(nas, **parameters) for parameters in changes]
    others += [create(nas, "v", capacity) for capacity in ((2 * GIB, 0), (1, GIB - 1))]
    for other in others:
        assert "'v'" in await refused(other, Code.ALREADY_EXISTS)
    # A smaller one would be satisfied by what is there (CSI: "compatible").
    await create(nas, "v", (GIB // 2, 0))


async def test_foreign_directories_are_left_alone(nas: LocalNas) -> None:
    foreign = nas.folder / "team" / "data"
    foreign.mkdir(parents=True)
    (foreign / "precious").write_text("x")
    assert "team/data" in await refused(create(nas, **PATTERN), Code.ALREADY_EXISTS)
    assert own(nas, "volumes") == own(nas, "new") == []
    await delete(nas)
    assert (foreign / "precious").read_text() == "x"


async def test_a_replaced_directory_is_neither_used_nor_deleted(nas: LocalNas) -> None:
    record = await create(nas)
    directory = nas.folder / record.path
    directory.rename(nas.folder / "moved")
    assert "gone" in await refused(create(nas), Code.FAILED_PRECONDITION)
    directory.mkdir()
    (directory / "precious").write_text("x")
    await refused(create(nas), Code.ALREADY_EXISTS)
    assert record.path in await refused(delete(nas), Code.FAILED_PRECONDITION)
    assert (directory / "precious").exists()
    _, abnormal = await Provisioner([nas]).get(record.id)
    assert "replaced" in abnormal


async def test_a_path_that_cannot_be_leaves_no_record(nas: LocalNas) -> None:
    (nas.folder / "file").touch()
    with pytest.raises(DriverError):
        await create(nas, pathPattern="file/x")
    assert own(nas, "volumes") == own(nas, "new") == []


async def test_volumes_never_lie_within_each_other(nas: LocalNas) -> None:
    await create(nas, "a", pathPattern="x/y")
    for path in ("x/y", "x/y/z", "x"):
        await refused(create(nas, "b", pathPattern=path), Code.ALREADY_EXISTS)
    await create(nas, "c", pathPattern="x/yy")


@pytest.mark.parametrize("path", [".efc", ".efc/volumes", ".efc/trash/x"])
async def test_the_drivers_own_directory_is_nobodys(nas: LocalNas, path: str) -> None:
    await refused(create(nas, pathPattern=path), Code.INVALID_ARGUMENT)


async def test_sources(tmp_path: Path) -> None:
    nas = LocalNas(tmp_path)
    record = await create(nas, source="nfs://nas/data/sub/dir")
    assert record.context()["source"] == "nfs://nas/data/sub/dir"
    assert (tmp_path / "sub" / "dir" / record.path).is_dir()
    await delete(nas)
    assert not (tmp_path / "sub" / "dir" / record.path).exists()
    for url in ("nfs://nas/other", "nfs://nas/data2", "nfs://evil/data", "nfs://nas:1/data", "nfs://nas/data/.efc"):
        await refused(create(nas, source=url), Code.INVALID_ARGUMENT)
    with pytest.raises(DriverError, match="beneath"):
        Provisioner([nas, LocalNas(tmp_path, "nfs://nas/data/sub")])
    two = Provisioner([nas, LocalNas(tmp_path, "nfs://nas2/data")])
    parameters = VolumeParameters.parse({})
    await refused(two.create("v", parameters=parameters, required_bytes=0, limit_bytes=0), Code.INVALID_ARGUMENT)


async def test_an_unreachable_source_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """Else a deletion would be reported as done while the volume lives on."""
    near, far = LocalNas(tmp_path), LocalNas(tmp_path, "nfs://far/data")

    async def unreachable(*_: object, **__: object) -> bytes:
        raise DriverError(Code.UNAVAILABLE, "no answer")

    far._run = unreachable  # type: ignore[method-assign]
    await refused(Provisioner([near, far]).delete(volume_id_of("v")), Code.UNAVAILABLE)
    await create(near)
    await Provisioner([far, near]).delete(volume_id_of("v"))
    assert own(near, "volumes") == []


async def test_a_missing_export_is_not_taken_for_an_empty_one(nas: LocalNas) -> None:
    """A host that does not resolve for a while, or an export that is not mounted on the server, say NOT_FOUND too."""
    record = await create(nas)
    hidden = nas.folder.with_name("hidden")
    nas.folder.rename(hidden)
    await refused(delete(nas), Code.NOT_FOUND)
    await refused(Provisioner([nas]).list(after="", count_max=0), Code.NOT_FOUND)
    hidden.rename(nas.folder)
    await delete(nas)
    assert not (nas.folder / record.path).exists()


async def test_list_and_get(nas: LocalNas) -> None:
    provisioner = Provisioner([nas])
    records = [await create(nas, f"v{number}") for number in range(5)]
    expected = sorted(record.id for record in records)
    listed, token = await provisioner.list(after="", count_max=0)
    assert [record.id for record, abnormal in listed] == expected
    assert {abnormal for _, abnormal in listed} == {""}
    assert token == ""
    first, token = await provisioner.list(after="", count_max=2)
    assert token == expected[1]
    # A page's last volume may be gone when the next page is asked for.
    await provisioner.delete(token)
    second, token = await provisioner.list(after=token, count_max=3)
    assert [record.id for record, _ in first + second] == expected
    assert token == ""
    (nas.folder / second[0][0].path).rmdir()
    _, abnormal = await provisioner.get(second[0][0].id)
    assert "gone" in abnormal
    await refused(provisioner.get("efc-" + "0" * 32), Code.NOT_FOUND)
    await refused(provisioner.get("../x"), Code.NOT_FOUND)


async def test_a_damaged_record_hides_no_other(nas: LocalNas) -> None:
    record = await create(nas)
    (nas.folder / ".efc" / "volumes" / f"{volume_id_of('w')}.json").write_text("{")
    listed, _ = await Provisioner([nas]).list(after="", count_max=0)
    assert [found.id for found, _ in listed] == [record.id]
    await refused(delete(nas, "w"), Code.INTERNAL)


async def test_two_calls_for_one_volume(nas: LocalNas) -> None:
    provisioner = Provisioner([nas])
    with provisioner._locks.hold(volume_id_of("v")):
        await refused(provisioner.delete(volume_id_of("v")), Code.ABORTED)


async def test_foreign_ids_never_reach_the_nas(nas: LocalNas) -> None:
    for volume_id in ("../../x", "x", "efc-" + "0" * 31 + "/"):
        await Provisioner([nas]).delete(volume_id)
    assert nas.commands == []


async def test_unfinished_directories_are_collected_when_old(nas: LocalNas) -> None:
    new = nas.folder / ".efc" / "new"
    record = await create(nas)
    old, young, strange = f"{volume_id_of('w')}-1", f"{volume_id_of('w')}-9999999999999999999", "strange"
    for name in (old, young, strange):
        (new / name).mkdir(parents=True)
    await Provisioner([nas]).collect()
    assert own(nas, "new") == sorted([young, strange])
    assert (nas.folder / record.path).is_dir()


async def test_drafts_of_a_killed_program_are_removed(nas: LocalNas) -> None:
    provisioner = Provisioner([nas])
    await create(nas)
    volumes = nas.folder / ".efc" / "volumes"
    draft, strange = ".efc-0123456789abcdef.tmp", ".efc-notours.tmp"
    for name in (draft, strange):
        (volumes / name).touch()
    await provisioner.delete(volume_id_of("v"))
    assert own(nas, "volumes") == [strange]
    # From now on only after a write that failed: listing all records costs.
    (volumes / draft).touch()
    await provisioner.collect()
    assert own(nas, "volumes") == sorted([draft, strange])

    def killed(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "killed")

    nas._put = killed  # type: ignore[method-assign]
    call = provisioner.create("w", parameters=VolumeParameters.parse({}), required_bytes=0, limit_bytes=0)
    await refused(call, Code.INTERNAL)
    # The directory stays: a record that names it may be there, or yet come.
    assert len(own(nas, "new")) == 1
    await provisioner.collect()
    assert own(nas, "volumes") == [strange]


async def test_a_full_nas_is_not_filled_with_directories(nas: LocalNas) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    nas._put = full  # type: ignore[method-assign]
    await refused(create(nas), Code.RESOURCE_EXHAUSTED)
    assert own(nas, "new") == own(nas, "volumes") == []


async def test_capacity(nas: LocalNas) -> None:
    assert await Provisioner([nas]).capacity(None) == 1000


@pytest.mark.parametrize(
    ("parameters", "path"),
    [({}, "team-data-pvc-1"), ({"pathPattern": "${pvc.namespace}/${pvc.name}"}, "team/data")],
    ids=["default", "pattern"],
)
@pytest.mark.parametrize(("on_delete", "folder"), [("archive", "archived"), ("retain", "retained")])
async def test_what_is_kept_bears_the_claims_name(
    nas: LocalNas, on_delete: str, folder: str, parameters: dict[str, str], path: str
) -> None:
    metadata = METADATA | {"csi.storage.k8s.io/pv/name": "pvc-1"}
    record = await create(nas, onDelete=on_delete, **metadata, **parameters)
    assert record.path == path
    await delete(nas)
    kept = f"{path.replace('/', '-')}-{record.id}-{record.created_unix_ns}"
    assert f"{kept}.json" in own(nas, folder)
    assert (kept in own(nas, "archived")) is (on_delete == "archive")


async def test_names_of_what_is_kept_are_not_too_long(nas: LocalNas) -> None:
    names = {"namespace": "n" * 63, "name": "c" * 253}
    metadata = {f"csi.storage.k8s.io/pvc/{key}": value for key, value in names.items()}
    metadata["csi.storage.k8s.io/pv/name"] = "pvc-" + "0" * 36
    record = await create(nas, onDelete="archive", **metadata)
    assert record.path.endswith("-pvc-" + "0" * 36)
    await delete(nas)
    await create(nas, "w", onDelete="archive", pathPattern="/".join(["ä" * 100] * 5))
    await delete(nas, "w")
    assert len(own(nas, "archived")) == 4


async def test_a_default_path_may_differ_from_the_one_that_a_volume_has(nas: LocalNas) -> None:
    """CreateVolume comes again after an upgrade, whose default is another one."""
    record = await create(nas, onDelete="archive")
    assert await create(nas, onDelete="archive", **METADATA, **{"csi.storage.k8s.io/pv/name": "pvc-1"}) == record
