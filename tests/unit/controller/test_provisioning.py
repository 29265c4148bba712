"""Volumes on a NAS: idempotent, whenever the controller dies, and never somebody else's directory."""

import asyncio
import errno
import itertools
import json
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from csi._proto import csi_pb2
from csi.base.errors import Code, DriverError
from csi.config.parameters import VolumeParameters
from csi.config.volumes import VolumeRecord, volume_id_of
from csi.controller.provisioning import Provisioner
from csi.controller.trash import Trash
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


#: How often others have a turn before an operation; now and then they can do all that they want.
_TURNS = (0, 0, 1, 2, 3, 100)


class MeanwhileNas(LocalNas):
    """Others work between any two operations, and between the look and the RENAME that a move is at an NFSv3 server."""

    def __init__(self, folder: Path, order: random.Random) -> None:
        super().__init__(folder)
        self._order = order

    async def _run(self, command: str, *paths: str, **how: Any) -> bytes:
        await self._others()
        if command == "mv" and os.path.lexists(self.folder / paths[1]):
            raise DriverError(Code.ALREADY_EXISTS, paths[1])
        if command == "mv":
            await self._others()
        return await super()._run(command, *paths, **how)

    async def _others(self) -> None:
        for _ in range(self._order.choice(_TURNS)):
            await asyncio.sleep(0)

    @staticmethod
    def _mv(old: Path, new: Path, **_: object) -> None:
        old.rename(new)


class LateNas(LocalNas):
    """``meanwhile`` is what others do just before the first move."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def _run(self, command: str, *paths: str, **how: Any) -> bytes:
        if command == "mv" and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return await super()._run(command, *paths, **how)


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
@pytest.mark.parametrize("code", [Code.PERMISSION_DENIED, Code.NOT_FOUND, Code.INTERNAL])
async def test_an_error_says_nothing_final_of_a_volume_that_there_may_be(
    tmp_path: Path,
    code: Code,
    after: bool,  # noqa: FBT001
) -> None:
    """Else a CO whose claim is deleted then deletes no volume: its record would keep the path from others for ever."""
    for number in range(100):
        nas = LocalNas(tmp_path / str(number))
        nas.folder.mkdir()
        nas.crash_at, nas.crash_after, nas.is_away_then = number, after, True
        nas.crash = DriverError(code, "for a moment")
        try:
            await create(nas, **PATTERN)
        except DriverError as error:
            assert own(nas, "volumes") == [] or error.code is Code.UNAVAILABLE, f"{nas.commands[-1]}: {error.code}"
        if number >= len(nas.commands):
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


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_late_deletion_costs_no_later_volume_its_data(tmp_path: Path, is_killed: bool) -> None:  # noqa: FBT001
    """A controller stands still before a move, leads no more, and goes on when its volume's path is another's."""
    late, nas = LateNas(tmp_path), LocalNas(tmp_path)
    await create(nas, "first", **PATTERN)
    later: list[VolumeRecord] = []

    async def meanwhile() -> None:
        await delete(nas, "first")
        later.append(await create(nas, "later", **PATTERN))
        (tmp_path / "team" / "data" / "precious").write_text("x")

    late.meanwhile = meanwhile
    if is_killed:
        late.crash_at, late.crash_after = 5, True
        with pytest.raises(CrashError):
            await delete(late, "first")
        assert late.commands[-1].startswith("mv ")
        await Provisioner([nas]).collect()
    else:
        await delete(late, "first")
    assert (tmp_path / later[0].path / "precious").read_text() == "x"
    assert await create(nas, "later", **PATTERN) == later[0]
    await delete(nas, "later")
    assert visible(nas) == ["team"]
    assert own(nas, "trash") == []


async def test_what_was_deleted_is_never_given_to_another_volume(nas: LocalNas) -> None:
    """Servers use the inode number of a directory again, which somebody has removed though it is a volume's."""
    lost, deleted = await create(nas, "lost", pathPattern="lost"), await create(nas, "deleted", pathPattern="deleted")
    (nas.folder / "lost").rmdir()
    record = nas.folder / ".efc" / "volumes" / f"{lost.id}.json"
    record.write_bytes(replace(lost, fileid=deleted.fileid).to_json())
    (nas.folder / "deleted" / "secret").touch()
    await delete(nas, "deleted")
    assert visible(nas) == own(nas, "trash") == []


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


@pytest.mark.parametrize(("one", "other"), [("x", "x"), ("x", "x/y"), ("x/y", "x")])
async def test_volumes_that_are_made_at_once_never_lie_within_each_other(tmp_path: Path, one: str, other: str) -> None:
    """By two controllers as well: the one that leads no more may go on working for a while."""
    for seed in range(200):
        folder = tmp_path / str(seed)
        folder.mkdir()
        order = random.Random(seed)
        calls = [
            create(MeanwhileNas(folder, order), name, pathPattern=path) for name, path in (("a", one), ("b", other))
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        made = [result for result in results if isinstance(result, VolumeRecord)]
        failed = [result for result in results if isinstance(result, DriverError)]
        assert len(made) + len(failed) == len(calls), results
        assert len(made) <= 1, f"seed {seed}: two volumes share data"
        assert all(error.code is Code.ALREADY_EXISTS for error in failed), failed
        assert own(LocalNas(folder), "volumes") == [f"{record.id}.json" for record in made]
        assert own(LocalNas(folder), "new") == []
        for record in made:
            assert (folder / record.path).stat().st_ino == record.fileid


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


async def test_a_name_has_one_volume_on_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A StorageClass that is made anew with another source, while a claim of it is being provisioned, for example."""
    here, there = (LocalNas(tmp_path / host, f"nfs://{host}/data") for host in ("here", "there"))
    for nas in (here, there):
        nas.folder.mkdir()
    two = Provisioner([here, there])

    async def make(host: str) -> VolumeRecord:
        parameters = VolumeParameters.parse({"source": f"nfs://{host}/data"})
        return await two.create("v", parameters=parameters, required_bytes=GIB, limit_bytes=0)

    made = await make("here")
    assert "another source" in await refused(make("there"), Code.ALREADY_EXISTS)
    assert visible(there) == own(there, "volumes") == []
    assert await make("here") == made
    await two.delete(made.id)
    assert (await make("there")).source == "nfs://there/data"

    async def silent(*_: object, **__: object) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr("csi.controller.provisioning._ELSEWHERE_SECONDS_MAX", 0.01)
    here._run = silent  # type: ignore[method-assign]
    parameters = VolumeParameters.parse({"source": "nfs://there/data"})
    other = await two.create("other", parameters=parameters, required_bytes=0, limit_bytes=0)
    assert other.path in visible(there), "a source that does not answer keeps no volume of another one waiting"


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


async def test_a_nas_that_goes_away_between_records_is_no_bug_of_ours(nas: LocalNas) -> None:
    """INTERNAL would tell the CO that nothing was made, and that nothing has to be deleted."""
    await create(nas, "w")

    def silent(*_: object, **__: object) -> bytes:
        raise DriverError(Code.UNAVAILABLE, "no answer")

    reads = itertools.count()
    read = nas._cat
    nas._cat = lambda path, **_: silent() if next(reads) else read(path)  # type: ignore[method-assign]
    await refused(create(nas), Code.UNAVAILABLE)
    await refused(Provisioner([nas]).list(after="", count_max=0), Code.UNAVAILABLE)
    await Provisioner([nas]).collect()


async def test_records_are_read_once_however_many_calls_come(tmp_path: Path) -> None:
    """After a restart of the controller they all come at once, and there are only so many programs at a time."""
    for number in range(20):
        await create(LocalNas(tmp_path), f"v{number}")

    class SlowNas(LocalNas):
        async def _run(self, command: str, *paths: str, **how: Any) -> bytes:
            await asyncio.sleep(0)
            return await super()._run(command, *paths, **how)

    nas = SlowNas(tmp_path)
    provisioner = Provisioner([nas])
    nas.crash_at, nas.crash = 10, DriverError(Code.UNAVAILABLE, "for a moment")
    await refused(provisioner.list(after="", count_max=0), Code.UNAVAILABLE)
    pages = await asyncio.gather(*[provisioner.list(after="", count_max=0) for _ in range(10)])
    assert [len(page) for page, _ in pages] == [20] * 10
    reads = [command for command in nas.commands if command.startswith("cat ")]
    assert len(reads) < 30, "some again that were under way"


async def test_a_directory_that_cannot_be_listed_makes_only_its_volumes_abnormal(nas: LocalNas) -> None:
    for name in ("one", "two"):
        await create(nas, name, pathPattern=f"{name}/volume")
    (nas.folder / "one").rename(nas.folder / "moved")
    (nas.folder / "one").touch()
    listed, _ = await Provisioner([nas]).list(after="", count_max=0)
    assert {record.name for record, abnormal in listed if abnormal} == {"one"}


async def test_what_cannot_be_removed_keeps_no_other(nas: LocalNas) -> None:
    new, trash = nas.folder / ".efc" / "new", nas.folder / ".efc" / "trash"
    names = [f"{volume_id_of(name)}-1" for name in ("a", "b", "c")]
    for name in names:
        (new / name).mkdir(parents=True)
    (trash / "left").mkdir(parents=True)
    (new / names[1] / "somebodys").touch()
    await Provisioner([nas]).collect()
    assert own(nas, "new") == [names[1]]
    assert own(nas, "trash") == []


async def test_a_silent_nas_keeps_no_trash_of_another(tmp_path: Path) -> None:
    silent, other = [LocalNas(tmp_path / host, f"nfs://{host}/data") for host in ("silent", "other")]
    for one in (silent, other):
        for name in "abc":
            (one.folder / ".efc" / "trash" / name).mkdir(parents=True)

    async def hangs(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    silent.remove_tree = hangs  # type: ignore[method-assign]
    trash = Trash([silent, other])
    emptying = [
        asyncio.create_task(trash.remove(one, [f".efc/trash/{name}" for name in "abc"])) for one in (silent, other)
    ]
    try:
        async with asyncio.timeout(5):
            await emptying[1]
    finally:
        emptying[0].cancel()
        await trash.close()
    assert (len(own(silent, "trash")), own(other, "trash")) == (3, [])
    assert trash.counts() == {"nfs://silent/data": 3, "nfs://other/data": 0}


async def test_two_calls_for_one_volume(nas: LocalNas) -> None:
    provisioner = Provisioner([nas])
    with provisioner._locks.hold(volume_id_of("v")):
        await refused(provisioner.delete(volume_id_of("v")), Code.ABORTED)


async def test_foreign_ids_never_reach_the_nas(nas: LocalNas) -> None:
    for volume_id in ("../../x", "x", "efc-" + "0" * 31 + "/"):
        await Provisioner([nas]).delete(volume_id)
    assert nas.commands == []


@pytest.mark.parametrize("is_start", [True, False], ids=["start", "deletion"])
async def test_unfinished_directories_are_collected_when_old(nas: LocalNas, is_start: bool) -> None:  # noqa: FBT001
    new = nas.folder / ".efc" / "new"
    record = await create(nas)
    await create(nas, "deleted")
    old, young, strange = f"{volume_id_of('w')}-1", f"{volume_id_of('w')}-9999999999999999999", "strange"
    for name in (old, young, strange):
        (new / name).mkdir(parents=True)
    await (Provisioner([nas]).collect() if is_start else delete(nas, "deleted"))
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
    await refused(call, Code.UNAVAILABLE)
    # The directory stays: a record that names it may be there, or yet come.
    assert len(own(nas, "new")) == 1
    await provisioner.collect()
    assert own(nas, "volumes") == [strange]


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, Code.RESOURCE_EXHAUSTED), (errno.EACCES, Code.UNAVAILABLE)]
)
async def test_a_nas_that_takes_no_record_is_not_filled_with_directories(
    nas: LocalNas, number: int, code: Code
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, "full")

    nas._put = full  # type: ignore[method-assign]
    await refused(create(nas), code)
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
