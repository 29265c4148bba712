"""What `efc doctor` says of resource limits."""

from __future__ import annotations

import resource

import pytest

from csi.cli.doctor import check_limits


@pytest.mark.parametrize(
    ("open_files", "levels"), [(64, ["warn"]), (511, ["warn"]), (512, ["ok"]), (resource.RLIM_INFINITY, ["ok"])]
)
def test_few_open_files_are_warned_of(monkeypatch: pytest.MonkeyPatch, open_files: int, levels: list[str]) -> None:
    limits = {resource.RLIMIT_NOFILE: (64, open_files), resource.RLIMIT_MEMLOCK: (1 << 30, 1 << 30)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    found = [finding for finding in check_limits() if "open" in finding.message]
    assert [finding.level for finding in found] == levels
    assert all(finding.mend for finding in found if finding.level == "warn")
