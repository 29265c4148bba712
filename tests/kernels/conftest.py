"""What is measured here at the end of the run, and the kernel's own complaints."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.faults import figures

#: What a kernel says when it has found a fault of its own. A slow machine's watchdogs say the like of what is no fault.
_COMPLAINT = re.compile(r"BUG: (?!soft lockup)|WARNING: CPU|Oops|general protection|blocked for more than \d+ seconds")


@pytest.fixture(scope="session", autouse=True)
def nothing_wrong_with_the_kernel() -> Iterator[None]:
    """Fails the session when the kernel complains: counts and contents may be right all the same."""
    before = len(_complaints())
    yield
    assert _complaints()[before:] == []


def _complaints() -> list[str]:
    said = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=600, check=False).stdout
    return [line for line in said.splitlines() if _COMPLAINT.search(line)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """See the module."""
    lines = [*figures.table(), *figures.recorded().get("calls", {}).get("table", {}).get("lines", [])]
    if lines:
        terminalreporter.section(f"measured on Linux {platform.release()}")
        for line in lines:
            terminalreporter.write_line(line)
