"""The `efc` command, without a keeper."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.base import programs
from csi.base.errors import Code, DriverError
from csi.cli import main
from csi.cli.doctor import check_kernel, check_run_dir
from csi.cli.mount import found_target
from csi.config.pods import Pod
from csi.node import mounts
from csi.node.keeper import Keeper, KeeperStatus
from csi.node.records import Publication, Publications


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_status_needs_no_grpc_and_no_keeper(tmp_path: Path) -> None:
    code = (
        "import sys; from csi.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'grpc', 'rich', 'csi._proto.csi_pb2', 'importlib.metadata'} & set(sys.modules);"
        "sys.exit(status or (f'imported {heavy}' if heavy else 0))"
    )
    command = [sys.executable, "-c", code, "status", "--json", "--run-dir", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[3]
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []


def test_status_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "status", "--run-dir", str(tmp_path)) == (
        0,
        f"Nothing is mounted (run directory {tmp_path}).\n",
        "",
    )


def test_status_tells_of_mounts_whose_keeper_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "612 29 0:57 / /mnt/data rw,nosuid,nodev - fuse.efc nfs://nas/data rw\n"
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text(line)
    assert run(capsys, "status", "--run-dir", str(tmp_path))[1].startswith("Nothing is mounted"), "of another RUN_DIR"
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "4c610fdd").touch()
    code, out, err = run(capsys, "status", "--run-dir", str(tmp_path))
    assert (code, out) == (1, "")
    assert "no keeper answers" in err
    assert "/mnt/data" in err
    code, out, err = run(capsys, "status", "--json", "--run-dir", str(tmp_path))
    assert (code, json.loads(out), "/mnt/data" in err) == (1, [], True), "programs can tell"


@pytest.mark.parametrize("command", [["top", "--once"], ["upgrade", "--all"], ["umount", "--all"], ["status"]])
def test_where_nothing_is_mounted_all_commands_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").touch()
    said = f"Nothing is mounted (run directory {tmp_path}).\n"
    assert run(capsys, *command, "--run-dir", str(tmp_path)) == (0, said, "")
    (tmp_path / "mountinfo").write_text("612 29 0:57 / /mnt/data rw,nosuid,nodev - fuse.efc nfs://nas/data rw\n")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "4c610fdd").touch()
    code, out, err = run(capsys, *command, "--run-dir", str(tmp_path))
    assert (code, out, "no keeper answers" in err) == (1, "", True)


def test_a_keeper_that_hangs_is_no_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeper.status, "__kwdefaults__", {"limit_seconds": 0.1})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "keeper.sock"))
        listener.listen()
        for command in (["status"], ["status", "--json"], ["top", "--once"], ["upgrade", "--all"]):
            code, out, err = run(capsys, *command, "--run-dir", str(tmp_path))
            assert (code, out, "did not answer within" in err) == (1, "", True), command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "--listn", "127.0.0.1:1"], "efc worker: error: unrecognized arguments: --listn"),
        (["worker", "--listn=127.0.0.1:1"], "efc worker: error: unrecognized arguments: --listn=127.0.0.1:1"),
        (["cache", "--dirs", "/x", "clear", "--unused"], "efc cache: error: unrecognized arguments: --dirs"),
        (["cache", "clear", "--all"], "efc cache clear: error: "),
        (["mount", "nfs://nas/x", "/x", "-ro"], "efc mount: error: unrecognized arguments: -ro"),
        (["status", "more"], "efc status: error: unrecognized arguments: more"),
        (["--loud", "status"], "efc: error: unrecognized arguments: --loud"),
        (["umount"], "efc umount: error: one of the arguments TARGET --all is required"),
        (["umount", "/x", "--all"], "efc umount: error: "),
    ],
)
def test_the_command_that_is_wrong_says_so(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith(f"usage: {said.partition(':')[0]} ")


def test_what_there_need_not_be_is_shown_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "[key FILE]" in run(capsys, "worker", "--help")[1]
    assert "[clear STORE ... | clear --unused]" in run(capsys, "cache", "--help")[1]


@pytest.mark.parametrize("command", [["status"], ["mount", "nfs://nas/data", "{tmp}"]])
def test_a_keeper_that_is_not_ours_to_ask_is_no_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    async def refused(_keeper: Keeper, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Keeper, "_exchange", refused)
    words = [word.format(tmp=tmp_path) for word in command]
    code, out, err = run(capsys, *words, "--run-dir", str(tmp_path))
    assert (code, out) == (1, "")
    assert "run this as root" in err


def test_status_shows_volumes_and_pods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, name = "0ab1-uid", "pvc-1"
    target = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{name}/mount"
    records = Publications(str(tmp_path))
    records.load()
    records.put(
        Publication(
            volume_id="efc-1", target=target, source="nfs://nas/data", path="team/a", key="key", options={},
            read_only=True, access_mode=5,
        )
    )  # fmt: skip
    nameless = target.replace(uid, "0ab2-uid")
    records.put(replace(next(iter(records)), target=nameless))
    records.note_pod(target, Pod(namespace="team-a", name="web-0"))
    served = efc_pb2.MountStatus(target=f"{tmp_path}/mnt/key", state=efc_pb2.MountStatus.SERVING)

    async def status(_keeper: Keeper) -> KeeperStatus:
        return KeeperStatus(pid=1, version="x", mounts=[served])

    monkeypatch.setattr(Keeper, "status", status)
    assert run(capsys, "status", "--run-dir", str(tmp_path))[0] == 0
    code, output, _ = run(capsys, "status", "--json", "--run-dir", str(tmp_path))
    assert code == 0
    volume = {
        "volume_id": "efc-1", "pod_uid": uid, "pod_namespace": "team-a", "pod_name": "web-0", "name": name,
        "target": target, "source": "nfs://nas/data", "path": "team/a", "read_only": True,
    }  # fmt: skip
    without = {"pod_uid": "0ab2-uid", "pod_namespace": None, "pod_name": None, "target": nameless}
    assert json.loads(output)[0]["volumes"] == [volume, volume | without]
    _, output, _ = run(capsys, "status", "--run-dir", str(tmp_path))
    header, row, other = output.splitlines()[-3:]
    assert header.split() == ["VOLUME", "POD", "NAME", "SOURCE", "PATH", "ACCESS"]
    assert row.split() == ["efc-1", "team-a/web-0", name, "nfs://nas/data", "team/a", "read-only"]
    assert other.split()[1] == "0ab2-uid", "by its uid where nobody knows its name"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, output, _ = run(capsys, "--version")
    assert status == 0
    assert re.fullmatch(r"efc \d+\.\d+\.\d+\n", output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mount", "nfs://nas/x", "{tmp}", "-o", "conections=2"], ["conections", "did you mean"]),
        (["mount", "nfs://nas/x", "{tmp}", "-o", "ro", "-o", "connections=99"], ["connections", "'99'", "1 to 16"]),
        (["mount", "nas:/x", "{tmp}"], ["nfs://"]),
        (["mount", "nfs://nas/x", "{tmp}/missing"], ["does not exist", "mkdir"]),
        (["mount", "nfs://nas/x", "{tmp}/file"], ["not a directory"]),
        (["umount", "{tmp}"], ["not a mount of EFC"]),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "file").touch()
    status, output, error = run(capsys, *[argument.format(tmp=tmp_path) for argument in arguments])
    assert (status, output, error.count("\n")) == (1, "", 1)
    assert error.startswith("efc: ")
    for word in words:
        assert word in error


def test_mount_without_programs_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFC_BIN_DIR", str(tmp_path))
    (tmp_path / "target").mkdir()
    status, _, error = run(capsys, "mount", "nfs://nas/x", str(tmp_path / "target"), "--run-dir", str(tmp_path / "run"))
    assert status == 1
    assert programs.KEEPER in error


def test_programs(tmp_path: Path) -> None:
    with pytest.raises(DriverError) as caught:
        programs.find("efc-fs", environment={"EFC_BIN_DIR": str(tmp_path)})
    assert caught.value.code is Code.FAILED_PRECONDITION
    (tmp_path / "efc-fs").touch(mode=0o755)
    assert programs.find("efc-fs", environment={"EFC_BIN_DIR": str(tmp_path)}) == f"{tmp_path}/efc-fs"


def test_targets_are_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "target").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "second").symlink_to(tmp_path / "link" / "target")
    for text in ("link/target", "second", "second/", "real/../link/target"):
        assert found_target(str(tmp_path / text)) == (str(tmp_path / "real" / "target"), None)
    assert found_target(str(tmp_path / "missing")) == (str(tmp_path / "missing"), None)


def test_targets_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "to-file").symlink_to("file")
    (tmp_path / "dangling").symlink_to("missing")
    (tmp_path / "circle").symlink_to("circle")
    foreign = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    os.mkdir(foreign)
    (tmp_path / "to-foreign").symlink_to(foreign)
    for name, words in [
        ("to-file", "not a directory"),
        ("dangling", "does not exist"),
        ("circle", "links"),
        (foreign, "not UTF-8"),
        ("to-foreign", "not UTF-8"),
    ]:
        for command in (["mount", "nfs://nas/x"], ["umount"], ["upgrade"]):
            status, _, error = run(capsys, *command, str(tmp_path / name), "--run-dir", str(tmp_path / "run"))
            assert (status, error.count("\n")) == (1, 1)
            assert command[0] != "mount" or words in error


def test_an_empty_path_is_not_the_working_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script has it whose variable is not set: nothing is mounted on, unmounted or read where it runs."""
    monkeypatch.chdir(tmp_path)
    for command in (["mount", "nfs://nas/x", ""], ["umount", "--force", ""], ["warmup", ""]):
        status, _, error = run(capsys, *command, "--run-dir", str(tmp_path / "run"))
        assert (status != 0, "is empty" in error) == (True, True), (command, error)
    assert list(tmp_path.iterdir()) == []


def test_the_run_directory_is_absolute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `/`, where a keeper works that is started, `run` is another one, which the keeper would close to others."""
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "status", "--run-dir", "run")
    assert (status, out) == (0, f"Nothing is mounted (run directory {tmp_path / 'run'}).\n")
    assert run(capsys, "status", "--run-dir", "")[0] == 2
    monkeypatch.setenv("RUN_DIR", "")
    assert "RUN_DIR; /run/efc)" in " ".join(run(capsys, "status", "--help")[1].split())


@pytest.mark.parametrize(
    ("release", "levels"),
    [
        ("6.18.1", ["ok"]),
        ("6.15.3", ["warn"]),
        ("6.12.0-amd64", ["warn", "warn"]),
        ("5.14.0-503.el9", ["ok", "warn", "warn"]),
        ("4.19.0", ["fail", "ok", "warn", "warn"]),
    ],
)
def test_doctor_knows_kernels(release: str, levels: list[str]) -> None:
    assert [finding.level for finding in check_kernel(release)] == levels


def test_doctor_knows_pages_that_daemons_refuse() -> None:
    found = list(check_kernel("6.18.1", page_bytes=65_536))
    assert [finding.level for finding in found] == ["fail", "ok"]
    assert "65536 bytes" in found[0].message
    assert "4096 bytes" in found[0].mend


def test_doctor_on_the_run_directory(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert [finding.level for finding in check_run_dir(str(run_dir))] == ["ok"]
    run_dir.mkdir(mode=0o700)
    assert [finding.level for finding in check_run_dir(str(run_dir))] == ["ok"]
    run_dir.chmod(0o777)
    (finding,) = check_run_dir(str(run_dir))
    assert finding.level == "fail"
    assert "chmod" in finding.mend


def test_doctor_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFC_BIN_DIR", str(tmp_path))
    monkeypatch.setattr(mounts, "MOUNTINFO", Path(os.devnull))  # what this machine has mounted is not asked
    status, output, _ = run(capsys, "doctor", "--json", "--run-dir", str(tmp_path))
    findings = json.loads(output)
    assert status == 1
    failed = [finding for finding in findings if finding["level"] == "fail"]
    assert failed
    assert all(finding["mend"] for finding in failed)


def test_names_that_others_chose_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    from csi.cli.tables import print_table

    print_table(["NAME", "STATE"], [("evil\x1b[2J\u2028\r", "serving\n")])
    shown = capsys.readouterr().out
    assert "evil\\x1b[2J\\u2028\\r" in shown
    assert all(line.isprintable() for line in shown.splitlines())
