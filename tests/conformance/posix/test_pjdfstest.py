"""pjdfstest: every case passes that passes on native ext4, except those that expected.toml lists with a reason."""

from __future__ import annotations

import re
import subprocess
import tomllib
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


def run(path: Path, *, config: Path, other_file_system: Path) -> dict[str, str]:
    """The outcome of each case on the file system at `path`."""
    done = subprocess.run(
        [TOOLS / "pjdfstest", "-c", config, "-p", path, "-s", other_file_system],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    outcomes = dict(LINE.findall(done.stdout))
    assert "Summary:" in done.stdout, done.stdout[-2000:] + done.stderr
    (config.parent / f"{path.name}.log").write_text(done.stdout)
    return outcomes


@pytest.mark.timeout(660)
def test_fails_only_where_nfs_v3_must(native: Path, mount: Path, tmp_path: Path, details: dict[str, object]) -> None:
    config = tmp_path / "pjdfstest.toml"
    config.write_text(CONFIG)
    expected = {failure["name"]: failure["reason"] for failure in tomllib.loads(EXPECTED.read_text())["failure"]}
    on_native = run(native, config=config, other_file_system=Path("/dev/shm"))
    on_mount = run(mount, config=config, other_file_system=Path("/dev/shm"))

    details["pjdfstest"] = {
        name: {outcome: list(outcomes.values()).count(outcome) for outcome in ("ok", "FAILED", "skipped")}
        for name, outcomes in (("ext4", on_native), ("nfs", on_mount))
    }
    failed = {name for name, outcome in on_mount.items() if outcome == "FAILED"}
    assert [name for name, outcome in on_native.items() if outcome == "FAILED"] == []
    assert sorted(failed - set(expected)) == [], "not expected to fail"
    assert sorted(set(expected) - failed) == [], "listed in expected.toml, but passed"
    assert {name for name, outcome in on_mount.items() if outcome == "skipped"} == {
        name for name, outcome in on_native.items() if outcome == "skipped"
    }
    assert list(on_native.values()).count("ok") >= 350
