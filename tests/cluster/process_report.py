"""What /proc says of the driver's processes: `python -m tests.cluster.process_report`, on a node of the cluster.

Prints a JSON list, one object per process of the cluster's pid namespace that belongs to the driver. Only files that do
not wait for a process's memory are read, so a process that hangs hangs nobody else.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: comm -> what tells a process of this name from others in its command line, and what we call it.
_KINDS = {
    "efc": {"csi node": "efc csi node", "csi controller": "efc csi controller"},
    "efc-keeper": {"": "efc-keeper"},
    "efcd": {"": "efcd"},
    "efc-network": {"": "efc-network"},
    "efc-mount-helpe": {"": "efc-mount-helper statvfs"},
    "csi-provisioner": {"": "csi-provisioner"},
}
_STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
_NAMESPACES = ("pid", "mnt", "net", "user")


def main() -> None:
    print(
        json.dumps([report for entry in Path("/proc").iterdir() if entry.name.isdigit() for report in _reports(entry)])
    )


def _reports(process: Path) -> list[dict[str, Any]]:
    try:
        kinds = _KINDS.get((process / "comm").read_text().strip())
        if kinds is None:
            return []
        line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return [_report(process, kind) for part, kind in kinds.items() if part in line]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _report(process: Path, kind: str) -> dict[str, Any]:
    threads = [_status(task) for task in (process / "task").iterdir()]
    return {
        "kind": kind,
        "pid": int(process.name),
        "parent": int(_field(process, "PPid")),
        # Privileges are a thread's: they must be equal.
        "threads": [thread for number, thread in enumerate(threads) if thread not in threads[:number]],
        "cgroups": sorted({line.split(":", 2)[2] for line in (process / "cgroup").read_text().splitlines()}),
        "namespaces": {name: os.readlink(process / "ns" / name) for name in _NAMESPACES},
        "mounts": [line.split() for line in (process / "mountinfo").read_text().splitlines()],
        "files": sorted({_link(entry) for entry in (process / "fd").iterdir()} - {""}),
    }


def _status(task: Path) -> dict[str, str]:
    return {name: _field(task, name) for name in _STATUS}


def _field(task: Path, name: str) -> str:
    lines = (task / "status").read_text().splitlines()
    return next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:")).strip()


def _link(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:  # closed meanwhile
        return ""


if __name__ == "__main__":
    main()
