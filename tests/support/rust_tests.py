"""`cargo test` of the whole workspace: `python -m tests.support.rust_tests [--without-root]`.

Without root: unit tests, the file system in a schedule explorer, and the integration tests named here. With root: all
other integration tests, with a real NAS beside them, whose URL they find in EFC_TEST_NAS, and the unit tests whose
names end in `_as_root`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tests.support.leaks import require_sandbox
from tests.support.nas import Nas
from tests.support.paths import ROOT

#: Integration tests that need neither root nor a NAS.
WITHOUT_ROOT = ("chain", "pipes", "real_memcached", "scripted_server", "scripted_worker")
_AS_ROOT = "_as_root"


def integration_tests() -> list[str]:
    """The names of all integration tests of the workspace."""
    command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)["packages"]
    return sorted({
        target["name"] for package in packages for target in package["targets"] if target["kind"] == ["test"]
    })  # fmt: skip


def _cargo_test(*arguments: str) -> int:
    command = ["cargo", "test", "--quiet", "--locked", "--workspace", "--no-fail-fast", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _explore_schedules() -> int:
    arguments = ["--package=efcd", "--features=shuttle", "--bin=efcd", "schedules_of"]
    command = ["cargo", "test", "--quiet", "--locked", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _tests(names: Sequence[str]) -> list[str]:
    return [f"--test={name}" for name in names]


def main(arguments: Sequence[str]) -> int:
    """Returns cargo's exit status: the first that is not 0."""
    if list(arguments) == ["--without-root"]:
        runs = [["--lib", "--bins", *_tests(WITHOUT_ROOT), "--", f"--skip={_AS_ROOT}"], ["--doc"]]
        statuses = [*(_cargo_test(*run) for run in runs), _explore_schedules()]
        return next(filter(None, statuses), 0)
    require_sandbox()
    with_root = [name for name in integration_tests() if name not in WITHOUT_ROOT]
    with Nas() as nas:
        os.environ["EFC_TEST_NAS"] = nas.url
        statuses = [_cargo_test("--lib", "--bins", "--", _AS_ROOT), _cargo_test(*_tests(with_root))]
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
