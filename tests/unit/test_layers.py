"""What import-linter refuses, by the contracts in pyproject.toml: a copy of csi/ with one import too many."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_PROGRAM = Path(sys.executable).parent / "lint-imports"


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(_PROGRAM), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with csi/ and the contracts."""
    shutil.copytree(ROOT / "csi", tmp_path / "csi", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("operator.running", "node.keeper"),
        ("operator.running", "controller.nas"),
        ("node.publishing", "controller.nas"),
        ("controller.provisioning", "node.mounts"),
        ("controller.provisioning", "cli.finding"),
        ("node.publishing", "operator.cluster"),
        ("operator.running", "master.core"),
        ("api.rules", "rpc.server"),
        ("rpc.server", "node.keeper"),
        ("config.options", "observe.metrics"),
        ("observe.exposition", "config.options"),
        ("base.children", "observe.exposition"),
        ("base.errors", "_proto.csi_pb2"),
    ],
)
def test_an_import_upwards_or_sideways_is_refused(copy: Path, importer: str, imported: str) -> None:
    module = copy / "csi" / f"{importer.replace('.', '/')}.py"
    module.write_text(f"{module.read_text()}\nimport csi.{imported}\n")
    done = _lint(copy)
    assert done.returncode == 1, done.stdout
    assert f"csi.{importer} -> csi.{imported}" in done.stdout


def test_an_import_inside_of_a_function_counts_too(copy: Path) -> None:
    module = copy / "csi" / "operator" / "running.py"
    module.write_text(f"{module.read_text()}\ndef late() -> None:\n    from csi.node import keeper\n")
    done = _lint(copy)
    assert done.returncode == 1, done.stdout
    assert "csi.operator.running -> csi.node.keeper" in done.stdout


def test_a_circle_within_a_package_is_refused(copy: Path) -> None:
    """The module publishing imports keeper."""
    module = copy / "csi" / "node" / "keeper.py"
    module.write_text(f"{module.read_text()}\nimport csi.node.publishing\n")
    done = _lint(copy)
    assert done.returncode == 1, done.stdout
    assert "in no circle BROKEN" in done.stdout


def test_a_package_without_a_place_is_refused(copy: Path) -> None:
    (copy / "csi" / "somewhere").mkdir()
    (copy / "csi" / "somewhere" / "__init__.py").touch()
    done = _lint(copy)
    assert done.returncode == 1, done.stdout
    assert "csi.somewhere" in done.stdout


def test_the_code_as_it_is_keeps_the_contracts(copy: Path) -> None:
    done = _lint(copy)
    assert done.returncode == 0, done.stdout
