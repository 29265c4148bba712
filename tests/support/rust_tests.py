"""`cargo test` of the whole workspace with a real NAS beside it, whose URL the tests find in EFC_TEST_NAS."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.leaks import require_sandbox
from tests.support.nas import Nas


def main() -> int:
    """Returns cargo's exit status."""
    require_sandbox()
    with Nas() as nas:
        environment = dict(os.environ, EFC_TEST_NAS=nas.url)
        command = ["cargo", "test", "--quiet", "--locked", "--workspace", "--no-fail-fast"]
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
