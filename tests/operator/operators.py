"""The operator as a process of its own beside a cluster, with the rights that the chart gives it and no others."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.cluster import IMAGE, SCRIPTS, Cluster
from tests.support.paths import ROOT
from tests.support.processes import wait_until

NAMESPACE = "operators"
ACCOUNT = "efc-operator"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
_RUN = "import sys; from csi.cli import main; sys.exit(main())"


@dataclass(kw_only=True)
class Operator:
    """An operator that can be started and ended; its log is in the cluster's folder."""

    cluster: Cluster
    name: str
    arguments: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = None
    pid: int = 0  # in the cluster's pid namespace
    _seen: int = 0  # bytes of the log before this start

    @property
    def log(self) -> Path:
        """What it said, in all its lives."""
        return self.cluster.folder / "log" / f"operator-{self.name}.log"

    def said(self) -> str:
        """What it said in this life."""
        return self.log.read_bytes()[self._seen :].decode() if self.log.exists() else ""

    def start(self) -> None:
        """Starts it; returns at once."""
        pid_file = self.cluster.folder / f"operator-{self.name}.pid"
        pid_file.unlink(missing_ok=True)
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        command: list[str | Path] = [
            SCRIPTS / "on-node", "0", "sh", "-c", f'echo $$ >"{pid_file}"; exec "$@"', "sh",
            "env", f"PYTHONPATH={ROOT}", f"KUBECONFIG={_credentials(self.cluster)}", "PYTHONDONTWRITEBYTECODE=1",
            f"EFC_BIN_DIR={os.environ.get('EFC_BIN_DIR') or Path(sys.executable).parent}",
            sys.executable, "-c", _RUN, "operator", "--image", IMAGE, "--image-pull-policy", "Never",
            "--namespace", NAMESPACE, *self.arguments,
        ]  # fmt: skip
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), what="the operator to start")
        self.pid = int(pid_file.read_text())

    def leads(self) -> bool:
        """Whether it has said so."""
        return "csi.operator.lease leads" in self.said()

    def await_in_step(self, *, limit_s: float = 60) -> None:
        """Returns when it leads, and has seen everything that there is."""
        wait_until(lambda: "in step with" in self.said(), what="the operator to be in step", limit_s=limit_s)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, and returns when it has gone; no error may have escaped in it."""
        if self._process is None:
            return
        kill: list[str | Path] = [SCRIPTS / "on-node", "0", "kill", f"-{number.value}", str(self.pid)]
        subprocess.run(kill, env=self._environment(), capture_output=True)
        self._process.wait(30)
        self._process = None
        assert "Traceback" not in self.said(), self.said()[-4000:]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"EFC_CLUSTER_DIR": str(self.cluster.folder)}


def _credentials(cluster: Cluster) -> Path:
    """A kubeconfig of the operator's account."""
    path = cluster.folder / "operator.kubeconfig"
    if not path.exists():
        token = cluster.kubectl("-n", NAMESPACE, "create", "token", ACCOUNT, "--duration=24h").strip()
        path.write_text(
            json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": "efc",
                "clusters": [{
                    "name": "efc",
                    "cluster": {"server": "https://10.77.0.1:6443", "insecure-skip-tls-verify": True},
                }],
                "users": [{"name": "efc", "user": {"token": token}}],
                "contexts": [{"name": "efc", "context": {"cluster": "efc", "user": "efc"}}],
            })
        )  # fmt: skip
    return path


def account(cluster: Cluster) -> None:
    """The operator's account, with its rights."""
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": NAMESPACE},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "efc-test-operator"}, "rules": _rules(),
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "efc-test-operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "efc-test-operator"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        },
    )  # fmt: skip


def _rules() -> list[dict[str, Any]]:
    """All that the operator of the default installation may do, in every namespace here."""
    objects = list(yaml.safe_load_all((ROOT / "deploy" / "efc-csi.yaml").read_text()))
    roles = [
        one for one in objects if one["kind"] in ("ClusterRole", "Role") and one["metadata"]["name"] == "efc-operator"
    ]
    assert len(roles) == 2
    return [rule for role in roles for rule in role["rules"]]


def requests(cluster: Cluster, *, since: str, user: str = USER) -> list[dict[str, Any]]:
    """What the API server was asked by the operator after a moment (RFC 3339)."""
    began = datetime.datetime.fromisoformat(since).timestamp()
    found = []
    # The API server begins another file when one has 100 MB.
    for file in (cluster.folder / "log").glob("audit*.jsonl"):
        if file.stat().st_mtime < began:
            continue
        with file.open() as lines:
            for line in lines:
                if user not in line:
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # it is being written
                if event["user"].get("username") == user and event["requestReceivedTimestamp"] >= since:
                    found.append(event)
    return found
