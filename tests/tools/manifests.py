"""The manifests of an installation: those that are committed, and what the chart makes of other values."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
NAMESPACE = "efc-system"
CLUSTER_WIDE = {"Namespace", "CSIDriver", "ClusterRole", "ClusterRoleBinding", "StorageClass"}


def render(*options: str) -> subprocess.CompletedProcess[str]:
    """``deploy/render OPTIONS``; skips when there is no helm."""
    if not (ROOT / ".tools/bin/helm").exists() and shutil.which("helm") is None:
        pytest.skip("SKIPPED: no helm, so the chart cannot be rendered: make .tools/bin/helm")
    return subprocess.run([DEPLOY / "render", *options], capture_output=True, text=True, timeout=60, check=False)


def rendered(*options: str) -> list[dict[str, Any]]:
    done = render(*options)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def committed() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "efc-csi.yaml").read_text()))


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod specification of each workload."""
    for item in objects:
        if item["kind"] in {"DaemonSet", "Deployment"}:
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def containers(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {container["name"]: container for _, pod in pods(objects) for container in pod["containers"]}
