"""Known vulnerabilities of what EFC is made of: `python -m tests.support.advisories`, as `make advisories` does.

Asks the databases of RustSec (cargo-deny) and of PyPI (pip-audit) about each release that Cargo.lock and requirements/
name. Ends with 1 if there is any, and with 77 and a line for each that begins with NOT ASKED if a database cannot be
reached: nothing is said about those packages then.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT, TOOLS
from tests.support.suite import SKIP_STATUS

_PIP_AUDIT = "pip-audit==2.10.1"
_LOCKS = ("dev.txt", "build.txt")


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def ask_about_crates() -> int:
    """What this program would end with if there were nothing else."""
    deny = TOOLS / "cargo-deny"
    fetched = _run(deny, "--locked", "fetch", "db")
    if fetched.returncode != 0:
        print(f"NOT ASKED about crates: {(fetched.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        return SKIP_STATUS
    checked = _run(deny, "--locked", "check", "--disable-fetch", "advisories")
    print(checked.stdout + checked.stderr, end="")
    return int(checked.returncode != 0)


def ask_about_python_packages() -> int:
    """The same."""
    environment = ROOT / ".tools" / "audit"
    program = environment / "bin" / "pip-audit"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([environment / "bin" / "python", "-m", "pip", "install", "--quiet", _PIP_AUDIT], check=True)
    locks = [argument for lock in _LOCKS for argument in ("--requirement", f"requirements/{lock}")]
    asked = _run(program, "--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json", *locks)
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except ValueError:
        print(f"NOT ASKED about Python packages: {(asked.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        return SKIP_STATUS
    unknown = [package for package in packages if "skip_reason" in package]
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no release"
            print(f"{package['name']} {package['version']}: {found['id']}, mended in {fixed}")
    if unknown:
        print(f"NOT ASKED about {len(unknown)} of {len(packages)} Python packages, {unknown[0]['skip_reason']}")
    print(f"{len(packages) - len(unknown)} Python packages asked about, {len(vulnerable)} are vulnerable")
    return 1 if vulnerable else SKIP_STATUS if unknown else 0


def main() -> int:
    """See the module."""
    statuses = {ask_about_crates(), ask_about_python_packages()}
    return 1 if 1 in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
