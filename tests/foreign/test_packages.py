"""Package managers at work in the folder: pip into a virtual environment, npm, cargo; nothing is fetched for cargo."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.foreign.places import Place, run

#: With their hashes and of the same releases as everything else here.
PACKAGES = ("rich", "pyyaml", "pytest", "aiohttp")


def test_pip(place: Place) -> None:
    def work(folder: Path) -> None:
        environment = folder / "venv"
        run("python3", "-m", "venv", environment)
        pip = (environment / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "install", *PACKAGES, cwd=folder, environment={"PIP_CACHE_DIR": str(folder / "cache")})
        run(*pip, "check")
        run(environment / "bin" / "python", "-c", "import rich, yaml, pytest, aiohttp")
        run(*pip, "uninstall", "--yes", *PACKAGES)

    place.work(work)


def test_npm(place: Place) -> None:
    def work(folder: Path) -> None:
        (folder / "package.json").write_text(json.dumps({"name": "x", "version": "1.0.0", "private": True}))
        cache = {"npm_config_cache": str(folder / "cache"), "npm_config_update_notifier": "false"}
        run("npm", "install", "--no-audit", "--no-fund", "lodash", "express", cwd=folder, environment=cache)
        run("npm", "ls", "--all", cwd=folder, environment=cache)
        said = run(
            "node", "-e", "require('express'); console.log(require('lodash').chunk([1, 2, 3], 2).length)", cwd=folder
        )
        assert said.strip() == "2"
        run("npm", "ci", "--no-audit", "--no-fund", cwd=folder, environment=cache)

    place.work(work)


def test_cargo(place: Place) -> None:
    if subprocess.run(["cargo", "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("SKIPPED: there is no cargo")

    def work(folder: Path) -> None:
        package = folder / "package"
        run("cargo", "new", "--quiet", "--vcs", "none", "--name", "package", package, cwd=folder)
        (package / "src" / "main.rs").write_text('mod part;\nfn main() { println!("{}", part::sum()); }\n')
        parts = "\n".join(f"fn f{number}() -> u64 {{ {number} }}" for number in range(200))
        total = " + ".join(f"f{number}()" for number in range(200))
        (package / "src" / "part.rs").write_text(f"{parts}\npub fn sum() -> u64 {{ {total} }}\n")
        offline = {"CARGO_NET_OFFLINE": "true", "CARGO_TARGET_DIR": "", "CARGO_INCREMENTAL": "1"}
        offline = {name: value for name, value in {**os.environ, **offline}.items() if value}
        assert run("cargo", "run", "--quiet", cwd=package, environment=offline).strip() == "19900"
        (package / "src" / "main.rs").write_text('mod part;\nfn main() { println!("{}", part::sum() + 1); }\n')
        os.utime(package / "src" / "main.rs")
        assert run("cargo", "run", "--quiet", cwd=package, environment=offline).strip() == "19901"
        run("cargo", "clean", "--quiet", cwd=package, environment=offline)

    place.work(work)
