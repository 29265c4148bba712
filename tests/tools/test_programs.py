"""What the installed programs are made of."""

from __future__ import annotations

from tests.support.paths import program


def test_the_daemon_has_nothing_in_it_that_only_tests_need() -> None:
    """A crate of the workspace that asks for simulated tasks gives them to all that are built together with it."""
    assert b"efc_tasks10simulation" not in program("efcd").read_bytes()
