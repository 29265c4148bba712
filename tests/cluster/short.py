"""The short form of the cluster's tests, for `make test`: `python -m tests.cluster.short PYTEST-ARGUMENT...`.

Kubernetes is built from source, which a machine may not be able to do in reasonable time: then a line says why, and
this ends with the status of a part that is skipped. What is ours has no excuse: an image that cannot be built is a
failure.
What a build that ran out of time has compiled stays in Go's cache, so that the next one comes further.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.support.paths import ROOT
from tests.support.suite import SKIP_STATUS

#: Older releases cannot build Kubernetes.
GO_RELEASE_MIN = (1, 25)
#: On two idle cores with nothing in Go's cache it takes 7 to 12 minutes.
BUILD_LIMIT_S = 10 * 60
#: Two to four minutes on two idle cores; only a build that hangs is meant.
IMAGE_LIMIT_S = 40 * 60
_PROGRAMS = (".tools/cluster/packages", ".tools/cluster/bin/kubelet")
_READY = ".tools/cluster/ready"
_TIMED_OUT = 124  # as of timeout(1)


def main(arguments: Sequence[str]) -> int:
    """The exit status of pytest, or of what had to be made for it; 77 when the tests cannot run here."""
    if reason := _why_not():
        print(reason, flush=True)
        return SKIP_STATUS
    if status := _make(_READY, limit_s=IMAGE_LIMIT_S):
        print(f"-- {_READY} could not be made", flush=True)
        return status
    command = [sys.executable, "-m", "pytest", "-q", "--durations=5", "-m", "short", *arguments, "tests/cluster"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _why_not() -> str:
    """Why the cluster's programs cannot be had, or ""."""
    go = shutil.which("go")
    if go is None:
        return "there is no Go here, which builds Kubernetes: install Go 1.25 or newer (https://go.dev/dl)"
    release = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", release)
    if found is None or (int(found[1]), int(found[2])) < GO_RELEASE_MIN:
        return f"Go 1.25 or newer builds Kubernetes, here is {release.strip() or 'one that does not say its release'}"
    limit_s = float(os.environ.get("EFC_CLUSTER_BUILD_LIMIT_S", BUILD_LIMIT_S))
    status = _make(*_PROGRAMS, limit_s=limit_s)
    if status == _TIMED_OUT:
        return f"Kubernetes was not built within {limit_s:g} s; `make cluster` takes the time that it needs"
    return f"Kubernetes could not be built (make's exit status is {status}, its output is above)" if status else ""


def _make(*targets: str, limit_s: float) -> int:
    """The exit status of make, or 124 past the limit, when everything that it started is killed."""
    environment: Mapping[str, str] = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    with subprocess.Popen(["make", *targets], cwd=ROOT, env=environment, start_new_session=True) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return _TIMED_OUT
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
