"""The tables of processes in ARCHITECTURE.md, compared with /proc on a live cluster."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import DRIVER, Cluster, Namespace, pod
from tests.support.paths import ROOT
from tests.support.processes import TimeLimitError, wait_until

_NODE = "n1"
_KUBELET = "/var/lib/kubelet"
_STATVFS = "efc-mount-helper statvfs"
_IN_POD_NETWORK = "efcd, network=pod"
#: <linux/capability.h>, from 0.
_CAPABILITIES = tuple(re.findall(r"\w+", """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
    net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin
    sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override
    mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""))  # fmt: skip
#: Words of the tables for other rows of it.
_PLACES = {"keeper": "efc-keeper"}
_SECCOMP = {"0": "no", "2": "filter"}
#: Mounts that every container has, from its runtime, and those of the driver that are no paths of the node.
_OF_RUNTIME = re.compile(
    r"/|/(proc|sys|dev)(/.*)?|/etc/(hosts|hostname|resolv\.conf)|(/var)?/run/secrets/kubernetes\.io/serviceaccount|/csi|/etc/efc/inline"
)
#: Files that every process may have open.
_OF_EVERYBODY = re.compile(r"/dev/null|(pipe|socket):\[\d+\]|anon_inode:.*|/memfd:.*")

Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of the report, and the words that the tables have for it."""

    report: Mapping[str, Any]

    @property
    def namespaces(self) -> Mapping[str, str]:
        namespaces: Mapping[str, str] = self.report["namespaces"]
        return namespaces

    def users(self) -> set[int]:
        """All users and groups of all threads."""
        return {int(word) for thread in self.report["threads"] for part in ("Uid", "Gid", "Groups")
                for word in thread[part].split()}  # fmt: skip

    def only(self, name: str) -> str:
        """A line of `status` that must be the same for all threads."""
        (value,) = {thread[name] for thread in self.report["threads"]}
        return str(value)

    def capabilities(self, name: str) -> set[str]:
        """Names in a set of all threads."""
        return names_of(self.only(name))

    def host_paths(self) -> set[str]:
        """Where something of the node's is mounted that the runtime does not mount by itself."""
        targets = {mount[4].removeprefix("/node") if mount[4].startswith("/node/") else mount[4]
                   for mount in self.report["mounts"]}  # fmt: skip
        ours = {target for target in targets if not _OF_RUNTIME.fullmatch(target) or target == "/sys/fs/cgroup"}
        if "/node/sys/fs/cgroup" not in {mount[4] for mount in self.report["mounts"]}:
            ours.discard("/sys/fs/cgroup")
        # What is mounted below a host path is its content: volumes, hierarchies.
        return {path for path in ours if not any(path.startswith(f"{other}/") for other in ours)}

    def files(self) -> set[str]:
        """Open files that not every process may have."""
        return {file for file in self.report["files"] if not _OF_EVERYBODY.fullmatch(file)}


def names_of(mask: str) -> set[str]:
    """The capabilities in a hexadecimal mask of /proc."""
    return {word for number, word in enumerate(_CAPABILITIES) if int(mask, 16) >> number & 1}


def tables() -> dict[str, Row]:
    """Process -> its cells in both tables, without the marks of code."""
    rows: dict[str, dict[str, str]] = {}
    heads: list[str] = []
    for line in (ROOT / "ARCHITECTURE.md").read_text().replace("`", "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells[:2] in (["process", "cgroup"], ["process", "user"]):
            # A user and a user namespace are two things.
            heads = ["user namespace" if cells[1] == "cgroup" and cell == "user" else cell for cell in cells]
        elif not cells:
            heads = []
        elif heads and not cells[0].startswith("---"):
            rows.setdefault(cells[0], {}).update(zip(heads, cells, strict=True))
    return {name: row for name, row in rows.items() if "CapEff" in row and "cgroup" in row}


def reports(cluster: Cluster) -> list[Process]:
    """All processes of the driver in the cluster."""
    text = cluster.on_node(_NODE, "sh", "-c", f"cd {ROOT} && exec {sys.executable} -m tests.cluster.process_report")
    return [Process(report=report) for report in json.loads(text)]


def difference(
    row: Row, process: Process, *, others: Mapping[str, Process], node: Mapping[str, str], machine: Set[str]
) -> list[str]:
    """What the row says and /proc does not, a line each. Capabilities that the machine lacks nobody can have."""
    found: dict[str, tuple[object, object]] = {}
    for column, name in {"pid": "pid", "mount": "mnt", "network": "net", "user namespace": "user"}.items():
        word, actual = row[column], process.namespaces[name]
        if word == "pod":
            found[column] = ("not the node's", "the node's" if actual == node[name] else "not the node's")
        else:
            expected = node[name] if word == "node" else others[_PLACES.get(word, word)].namespaces[name]
            found[column] = (expected, actual)
    cgroups = {re.sub(r"^(/\.\.)+", "", path) for path in process.report["cgroups"]} - {"/"}
    in_own = all(re.fullmatch(r"/efc/[0-9a-f]{16}-[0-9a-f]{16}", path) for path in cgroups)
    in_pod = all("/kubepods" in path for path in cgroups)
    found["cgroup"] = (row["cgroup"], "efc/MOUNT" if in_own else "pod" if in_pod else sorted(cgroups))
    low, _, high = row["user"].partition("-")
    users = process.users()
    if high:
        found["user"] = (row["user"], row["user"] if len(users) == 1 and int(low) <= min(users) <= int(high) else users)
    else:
        found["user"] = ({int(low)}, users)
    effective = _words(row["CapEff"])
    bounding = effective if row["CapBnd"] == "the same" else _words(row["CapBnd"])
    found["CapEff"] = (effective & machine, process.capabilities("CapEff"))
    found["CapBnd"] = (bounding & machine, process.capabilities("CapBnd"))
    found["CapPrm"] = (set(), process.capabilities("CapPrm") - bounding)
    found["CapInh, CapAmb"] = (set(), process.capabilities("CapInh") | process.capabilities("CapAmb"))
    found["no_new_privs"] = ("1", process.only("NoNewPrivs"))
    found["seccomp"] = (row["seccomp"], _SECCOMP[process.only("Seccomp")])
    found["host paths"] = (_paths(row["host paths"]), process.host_paths())
    files = process.files()
    if row["open files"] == "a volume":
        files = {file for file in files if not file.startswith((f"{_KUBELET}/pods/", "/run/efc/mnt/"))}
    named = _paths(row["open files"])
    below = {file for file in files if any(re.match(path.replace("TID", r"\d+") + "(/|$)", file) for path in named)}
    namespaces = {file for file in files if "net" in _words(row["open files"]) and file.startswith("net:[")}
    found["open files"] = (set(), files - named - below - namespaces)
    return [f"{column}: {expected!r} in the table, {actual!r} in /proc"
            for column, (expected, actual) in found.items() if expected != actual]  # fmt: skip


def _words(cell: str) -> set[str]:
    return set() if cell == "none" else set(cell.split())


def _paths(cell: str) -> set[str]:
    return {
        path.replace("KUBELET", _KUBELET).replace("DRIVER", DRIVER)
        for path in _words(cell)
        if path.startswith(("/", "KUBELET"))
    }


@contextmanager
def hung_statvfs(namespace: Namespace, target: str, daemon: int) -> Iterator[None]:
    """The volume's daemon stands still, and kubelet asks how full the volume is, as it does every minute."""
    cluster = namespace.cluster
    ask = f"""
import grpc
from csi._proto import csi_pb2, csi_pb2_grpc
with grpc.insecure_channel("unix:{_KUBELET}/plugins/{DRIVER}/csi.sock") as channel:
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="{namespace.name}-shared", volume_path="{target}")
    csi_pb2_grpc.NodeStub(channel).NodeGetVolumeStats(request, timeout=20)
"""
    asking = threading.Thread(
        target=lambda: cluster.on_node(_NODE, "sh", "-c", f"cd {ROOT} && exec {sys.executable} -c '{ask}'")
    )
    cluster.on_node(_NODE, "kill", "-STOP", str(daemon))
    try:
        asking.start()
        yield
    finally:
        cluster.on_node(_NODE, "kill", "-CONT", str(daemon))
        asking.join()


def test_the_tables_are_true(namespace: Namespace, shared: str) -> None:
    cluster = namespace.cluster
    source = cluster.nas_url
    namespace.static_volume("elsewhere", source=source, path=namespace.name, options=["network=pod"])
    namespace.apply(pod("user", claims={"/data": shared, "/elsewhere": "elsewhere"}, node=_NODE))
    namespace.await_pods("user")
    machine = names_of(cluster.on_node(_NODE, "sh", "-c", "grep CapBnd /proc/self/status | cut -f 2"))
    node = {name: cluster.on_node(_NODE, "readlink", f"/proc/self/ns/{name}").strip()
            for name in ("pid", "mnt", "net", "user")}  # fmt: skip
    (target,) = (path for path in cluster.published(_NODE) if f"{namespace.name}-shared" in path)
    seen: dict[str, Process] = {}
    daemons = [process for process in reports(cluster) if process.report["kind"] == "efcd"]
    (ordinary,) = (process for process in daemons if process.namespaces["net"] == node["net"])

    def look() -> bool:
        for process in reports(cluster):
            kind = process.report["kind"]
            on_other_node = kind in {"efc-keeper", "efc csi node"} and process.namespaces["net"] != node["net"]
            if kind == "efcd" and process.namespaces["net"] != node["net"]:
                kind = _IN_POD_NETWORK
            if kind == "efc-network" and kind in seen:
                continue
            if not on_other_node:
                seen[kind] = process
        return set(seen) >= set(rows)

    rows = tables()
    assert len(rows) == 8, sorted(rows)
    with hung_statvfs(namespace, target, ordinary.report["pid"]):
        try:
            wait_until(look, what="all processes", limit_s=20, interval_s=0.1)
        except TimeLimitError as error:
            raise AssertionError(f"{error}: {set(rows) ^ set(seen)} is not on both sides") from None
    networks = [process for process in reports(cluster) if process.report["kind"] == "efc-network"]
    (seen["efc-network"],) = (
        process for process in networks if process.namespaces["net"] == seen[_IN_POD_NETWORK].namespaces["net"]
    )
    assert set(seen) == set(rows), "a process has no row"
    wrong = {
        kind: lines
        for kind, process in seen.items()
        if (lines := difference(rows[kind], process, others=seen, node=node, machine=machine))
    }
    assert not wrong, json.dumps(wrong, indent=2)


def test_the_comparison_finds_differences() -> None:
    """Each cell that is changed is reported; without this, a comparison that sees nothing would pass too."""
    rows = tables()
    namespaces = {"pid": "pid:[9]", "mnt": "mnt:[2]", "net": "net:[1]", "user": "user:[1]"}
    privileges = dict.fromkeys(("CapInh", "CapAmb", "CapPrm", "CapEff", "CapBnd"), "0")
    thread = privileges | {"Uid": "0 0 0 0", "Gid": "0", "Groups": "", "NoNewPrivs": "1", "Seccomp": "0"}
    node = {"pid": "pid:[9]", "mnt": "mnt:[9]", "net": "net:[1]", "user": "user:[1]"}
    row = rows["efc csi node"]
    bounding = sum(1 << _CAPABILITIES.index(word) for word in _words(row["CapBnd"]))
    thread |= {"CapPrm": f"{bounding:x}", "CapBnd": f"{bounding:x}"}
    paths = ["/", "/proc", "/sys/fs/cgroup", *_paths(row["host paths"])]
    mounts = [["", "", "", "", path] for path in paths]
    good: dict[str, Any] = {
        "kind": "efc csi node", "threads": [thread], "cgroups": ["/kubepods/x"], "namespaces": namespaces,
        "mounts": mounts, "files": ["/dev/null", "socket:[1]"],
    }  # fmt: skip

    def wrong(**changes: Any) -> list[str]:
        process = Process(report=good | changes)
        return [
            line.partition(":")[0]
            for line in difference(row, process, others={}, node=node, machine=set(_CAPABILITIES))
        ]

    assert wrong() == []
    assert wrong(cgroups=["/efc/0123456789abcdef-0123456789abcdef"]) == ["cgroup"]
    assert wrong(namespaces=namespaces | {"net": "net:[2]", "mnt": "mnt:[9]"}) == ["mount", "network"]
    assert wrong(namespaces=namespaces | {"pid": "pid:[1]"}) == ["pid"]
    assert wrong(threads=[thread | {"CapEff": "4"}]) == ["CapEff"]
    assert wrong(threads=[thread | {"CapBnd": "ffffffffff"}]) == ["CapBnd"]
    assert wrong(threads=[thread | {"CapPrm": "ffffffffff"}]) == ["CapPrm"]
    assert wrong(threads=[thread | {"NoNewPrivs": "0", "Seccomp": "2", "Gid": "5"}]) == [
        "user",
        "no_new_privs",
        "seccomp",
    ]
    assert wrong(mounts=[*mounts, ["", "", "", "", "/etc/kubernetes"]]) == ["host paths"]
    assert wrong(mounts=mounts[:-1]) == ["host paths"]
    assert wrong(files=["/run/efc/keeper.lock"]) == ["open files"]
