"""The number of this release, and that of a next one, which programs can be made to say; both are of one length."""

from __future__ import annotations

import tomllib

from tests.support.paths import ROOT

RELEASE: str = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
NEXT_RELEASE = "9.9.9"
assert len(NEXT_RELEASE) == len(RELEASE)


def as_next_release(program: bytes) -> bytes:
    """A program with the next release's number wherever this one's stands in it."""
    assert RELEASE.encode() in program
    return program.replace(RELEASE.encode(), NEXT_RELEASE.encode())
