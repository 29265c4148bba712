"""pjdfstest: every case passes that passes on native ext4, except those that expected.toml lists with a reason."""

from __future__ import annotations

import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.paths import TOOLS

# Users and groups that every Debian has: each user's primary group has the user's id.
CONFIG = """
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"""
EXPECTED = Path(__file__).with_name("expected.toml")
LINE = re.compile(r"^(\S+)\s+(ok|FAILED|skipped)$", re.MULTILINE)


def run(path: Path, *, config: Path) -> dict[str, str]:
    """The outcome of each case on the file system at `path`."""
    with short_path(path) as folder:
        done = subprocess.run(
            [TOOLS / "pjdfstest", "-c", config, "-p", folder], capture_output=True, text=True, timeout=300, check=False
        )
    assert "Summary:" in done.stdout, done.stdout[-2000:] + done.stderr
    print(re.sub(r"Backtrace:\n( +.*\n)*", "", done.stdout))
    return dict(LINE.findall(done.stdout))


@contextmanager
def short_path(path: Path) -> Iterator[Path]:
    """Another mount of `path` where the names of sockets fit into the 108 bytes of sun_path."""
    folder = Path(tempfile.mkdtemp(prefix="efc", dir="/tmp"))
    subprocess.run(["mount", "--bind", path, folder], check=True, timeout=20)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, timeout=20)
        folder.rmdir()


@pytest.mark.timeout(660)
def test_fails_only_where_nfs_v3_must(native: Path, mount: Path, tmp_path: Path, details: dict[str, object]) -> None:
    config = tmp_path / "pjdfstest.toml"
    config.write_text(CONFIG)
    listed = tomllib.loads(EXPECTED.read_text())
    on_native = run(native, config=config)
    on_mount = run(mount, config=config)

    details["pjdfstest"] = {
        file_system: {outcome: len(cases(outcomes, outcome)) for outcome in ("ok", "FAILED", "skipped")}
        for file_system, outcomes in (("ext4", on_native), ("nfs", on_mount))
    }
    assert len(cases(on_native, "ok")) >= 350
    assert cases(on_native, "FAILED") == set()
    check(cases(on_mount, "FAILED"), expected={failure["name"] for failure in listed["failure"]}, what="failed")
    also_skipped = cases(on_mount, "skipped") - cases(on_native, "skipped")
    check(also_skipped, expected={skip["name"] for skip in listed["skip"]}, what="was skipped")


def cases(outcomes: dict[str, str], outcome: str) -> set[str]:
    """The names of the cases that had this outcome."""
    return {name for name, had in outcomes.items() if had == outcome}


def check(found: set[str], *, expected: set[str], what: str) -> None:
    """Both directions: nothing new, and nothing listed that is no longer so."""
    assert sorted(found - expected) == [], f"{what}, which expected.toml does not list"
    assert sorted(expected - found) == [], f"listed in expected.toml, but none of them {what}"
