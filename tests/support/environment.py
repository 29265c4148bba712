"""The environment in which a test starts a program: this process's, without what would change how it behaves."""

from __future__ import annotations

import os


def clean_environment(**changes: str) -> dict[str, str]:
    """Ours, with `changes`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "GRPC_", "PYTHON"))}
    return ours | changes
