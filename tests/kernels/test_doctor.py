"""`efc doctor` says of this kernel what is true: what it lacks by its release, and what it was seen to do."""

from __future__ import annotations

import json
import platform
import subprocess

import pytest

from tests.kernels.running import release
from tests.support.keeper import Keeper
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import SLOWNESS

#: Words of a finding, and the first release that has what it says is missing.
LACKING = {"FUSE_NOTIFY_RESEND": (6, 9), "option idmap": (6, 15), "FUSE_NOTIFY_INC_EPOCH": (6, 16)}


@pytest.mark.timeout(900)
def test_doctor_says_what_is_true(nas: Nas, keeper: Keeper) -> None:
    with keeper.mounted(nas.url):
        command = [str(program("efc")), "doctor", "--json", "--run-dir", str(keeper.run_dir), nas.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOWNESS, check=False)
        findings = json.loads(done.stdout)
    assert [finding for finding in findings if finding["level"] == "fail"] == []
    assert done.returncode == 0
    of_kernel = [finding["message"] for finding in findings if finding["check"] == "kernel"]
    for words, since in LACKING.items():
        said = [message for message in of_kernel if words in message]
        assert len(said) == int(release() < since), of_kernel
    assert all(platform.release() in message for message in of_kernel)
    served = [finding for finding in findings if finding["check"] == "mounts"]
    assert [finding["level"] for finding in served] == ["ok"], served
