"""Prints what the tests of this folder measured, at the end of their run."""

from __future__ import annotations

import pytest

from tests.faults import figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """See the module."""
    if lines := figures.table():
        terminalreporter.section("what was measured (results/faults.json)")
        for line in lines:
            terminalreporter.write_line(line)
