"""`efc doctor` in a container of a cluster: whose container it is, and what it says about a node that is not well."""

import json
import os
import socket
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.cli import doctor, main, node_checks
from csi.cli.doctor import check_fusectl
from csi.cli.finding import Finding
from csi.cli.mount_checks import check_mounts
from csi.cli.node_checks import Container
from csi.config.pods import Pod
from csi.node import mounts, registration
from csi.node.keeper import Keeper, KeeperStatus
from csi.node.mounts import parse_mountinfo
from csi.node.records import Publication, Publications

PLUGIN = [
    "/usr/bin/python3",
    "/usr/bin/efc",
    "csi",
    "node",
    "--endpoint=unix:///csi.sock",
    "--node-id=n1",
    "--run-dir=/run/x",
]
KEEPER = ["/opt/efc/bin/efc-keeper", "--run-dir=/run/y", "--daemon-cgroup=efc"]
MOUNTINFO = """\
1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw
2 1 0:5 / /run/efc rw shared:2 master:1 - tmpfs tmpfs rw
3 1 0:6 / /var/lib/kubelet/pods rw master:3 - ext4 /dev/sda rw
4 3 0:40 / /var/lib/kubelet/pods/a/mount rw - fuse.efc nfs://nas/data rw
5 3 0:41 / /var/lib/kubelet/pods/b/mount rw - fuse.efc nfs://nas/data rw
6 2 0:40 / /run/efc/mnt/key rw shared:9 - fuse.efc nfs://nas/data rw
"""
MOUNTS = parse_mountinfo(MOUNTINFO)
PODS = "/var/lib/kubelet/pods"


@pytest.fixture(autouse=True)
def nothing_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has mounted is not asked."""
    monkeypatch.setattr(mounts, "MOUNTINFO", Path(os.devnull))


def levels(findings: list[Finding]) -> list[str]:
    for finding in findings:
        assert finding.message, finding
        assert bool(finding.mend) == (finding.level != "ok"), finding
    return [finding.level for finding in findings]


def test_containers_are_known_by_their_processes() -> None:
    plugin, keeper, other = (
        Container([["sleep", "5"], PLUGIN]),
        Container([KEEPER, ["efcd"]]),
        Container([["efc", "csi", "controller"]]),
    )
    assert (plugin.run_dir, keeper.run_dir, other.run_dir) == ("/run/x", "/run/y", None)
    assert plugin.plugin is not None
    assert plugin.plugin.node_id == "n1"
    assert (keeper.plugin, other.plugin) == (None, None)
    assert Container([["efc", "csi", "node", "--of-another-release"]]).run_dir is None
    assert Container([]).run_dir is None
    assert levels(list(node_checks.check_container(keeper, first_process="systemd"))) == ["ok"]
    assert levels(list(node_checks.check_container(keeper, first_process="efc-keeper"))) == ["ok", "fail"]
    assert levels(list(node_checks.check_container(plugin, first_process="systemd"))) == ["ok"]
    assert levels(list(node_checks.check_container(plugin, first_process="efc"))) == ["ok", "fail"]


def test_outside_a_cluster_there_is_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert Container.own() is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert Container.own() is not None


@pytest.mark.parametrize(
    ("path", "level"),
    [("/run/efc", "ok"), ("/run/efc/mnt", "ok"), (PODS, "fail"), ("/srv", "fail")],
)
def test_propagation(path: str, level: str) -> None:
    """A container's own root is shared with nobody, whatever it says."""
    assert levels(list(node_checks.check_propagation(path, MOUNTS, who="x"))) == [level]


def publication(target: str) -> Publication:
    return Publication(
        volume_id="v",
        target=target,
        source="nfs://nas/data",
        path="",
        key="key",
        options={},
        read_only=False,
        access_mode=5,
    )


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ([f"{PODS}/a/mount", f"{PODS}/b/mount"], ["ok"]),
        ([f"{PODS}/a/mount"], ["warn"]),
        ([f"{PODS}/a/mount", f"{PODS}/b/mount", f"{PODS}/gone/mount"], ["warn"]),
        ([f"{PODS}/gone/mount"], ["warn", "warn"]),
    ],
)
def test_records(tmp_path: Path, recorded: list[str], expected: list[str]) -> None:
    records = Publications(str(tmp_path))
    records.load()
    for target in recorded:
        records.put(publication(target))
    damaged = tmp_path / "csi" / "published" / "damaged.json"
    damaged.write_text("{")
    findings = list(node_checks.check_records(str(tmp_path), MOUNTS, roots=[PODS]))
    assert levels(findings) == expected
    assert damaged.exists(), "a doctor changes nothing"
    if f"{PODS}/gone/mount" in recorded:
        assert f"{PODS}/gone/mount" in findings[0].message
    elif expected == ["warn"]:
        assert f"{PODS}/b/mount" in findings[0].message


def test_subpaths_are_kubelets(tmp_path: Path) -> None:
    records = Publications(str(tmp_path))
    records.load()
    records.put(publication(f"{PODS}/a/volumes/kubernetes.io~csi/data/mount"))
    lines = [f"{PODS}/a/volumes/kubernetes.io~csi/data/mount", f"{PODS}/a/volume-subpaths/data/web/0"]
    mounts = parse_mountinfo("".join(f"4 3 0:40 / {target} rw - fuse.efc nfs://nas/data rw\n" for target in lines))
    assert levels(list(node_checks.check_records(str(tmp_path), mounts, roots=[PODS, f"{PODS}/"]))) == ["ok"]


def test_a_volume_that_waits_for_the_nas_is_no_stale_record(tmp_path: Path) -> None:
    records = Publications(str(tmp_path))
    records.load()
    records.put(publication(f"{PODS}/a/mount"))
    conditions = {"key": "the NAS does not answer: nas:2049"}
    (finding,) = node_checks.check_records(str(tmp_path), [], roots=[PODS], conditions=conditions)
    assert levels([finding]) == ["warn"]
    assert "1 volumes wait to be mounted, since the NAS does not answer: nas:2049" in finding.message
    assert "delete" not in finding.mend
    (finding,) = node_checks.check_records(str(tmp_path), [], roots=[PODS], conditions={"other": "x"})
    assert "recorded, but not mounted" in finding.message
    records.note_pod(f"{PODS}/a/mount", Pod(namespace="team-a", name="web-0"))
    for condition in (conditions, {}):
        (finding,) = node_checks.check_records(str(tmp_path), [], roots=[PODS], conditions=condition)
        assert finding.message.endswith(f"{PODS}/a/mount of pod team-a/web-0")


def test_a_nas_that_does_not_answer_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(node_checks, "_neighbours", lambda: iter([[*PLUGIN, f"--run-dir={tmp_path}"]]))
    records = Publications(str(tmp_path))
    records.load()
    records.put(publication(f"{PODS}/a/mount"))
    frozen = efc_pb2.MountStatus(
        target=f"{tmp_path}/mnt/key",
        state=efc_pb2.MountStatus.UNRESPONSIVE_NAS,
        reason="no answer for 12 s",
        config=efc_pb2.DaemonConfig(source=efc_pb2.Source(host="nas", path="/data")),
    )

    async def status(_keeper: Keeper) -> KeeperStatus:
        return KeeperStatus(pid=1, version="x", mounts=[frozen])

    monkeypatch.setattr(Keeper, "status", status)
    monkeypatch.setattr(doctor, "_UNRESPONSIVE_SECONDS", 0)
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "begin with: nfs://nas/data at" in output.splitlines()[-1]
    assert "the NAS does not answer: no answer for 12 s" in output.splitlines()[-1]
    assert "recorded, but not mounted" not in output


def test_fusectl_is_looked_for_in_the_kernel() -> None:
    assert levels(list(check_fusectl("nodev\tsysfs\nnodev\tfusectl\n\text4\n"))) == ["ok"]
    assert levels(list(check_fusectl("nodev\tsysfs\n"))) == ["warn"]


def test_records_before_the_first_volume(tmp_path: Path) -> None:
    assert levels(list(node_checks.check_records(str(tmp_path), [], roots=[PODS]))) == ["ok"]


def test_sockets(tmp_path: Path) -> None:
    plugin = Container([[*PLUGIN, f"--endpoint=unix://{tmp_path}/csi.sock", f"--registration-dir={tmp_path}"]]).plugin
    assert plugin is not None
    assert levels(list(node_checks.check_sockets(plugin))) == ["fail", "fail"]
    paths = [f"{tmp_path}/csi.sock", registration.socket_endpoint(str(tmp_path)).removeprefix("unix://")]
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for listener, path in zip((first, second), paths, strict=True):
            listener.bind(path)
            listener.listen()
        assert levels(list(node_checks.check_sockets(plugin))) == ["ok", "ok"]
    assert levels(list(node_checks.check_sockets(plugin))) == ["fail", "fail"], "stale sockets"


@pytest.mark.parametrize(
    ("content", "level", "word"),
    [
        ("[]", "ok", "no inline volume"),
        ('[{"namespaces": ["a"], "sources": ["nfs://nas/x"]}]', "ok", "1 rules"),
        ("[{}]", "fail", "rule 1"),
        (None, "fail", "cannot be read"),
    ],
)
def test_allowed_sources(tmp_path: Path, content: str | None, level: str, word: str) -> None:
    file = tmp_path / "list"
    if content is not None:
        file.write_text(content)
    (finding,) = node_checks.check_allowed_sources(file)
    assert levels([finding]) == [level]
    assert word in finding.message


def test_a_node_without_a_keeper_is_not_well(tmp_path: Path) -> None:
    (finding,) = check_mounts(str(tmp_path), [], in_cluster=True)
    assert finding.level == "fail"
    assert "efc-keeper" in finding.mend


def test_the_last_line_says_where_to_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(node_checks, "_neighbours", lambda: iter([[*PLUGIN, f"--run-dir={tmp_path}"]]))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if line.startswith("fail"))
    assert lines[-1].endswith(f"begin with: {first.partition(': ')[2]}")
    assert main(["doctor", "--json"]) == 1
    assert {finding["check"] for finding in json.loads(capsys.readouterr().out)} >= {"keeper", "sockets", "propagation"}
