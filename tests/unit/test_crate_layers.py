"""Crates import one way, as the first lines of the root Cargo.toml say."""

from __future__ import annotations

import json
import subprocess

from tests.support.paths import ROOT

# Of each crate: the crates of ours that it may import. Each of them stands further down.
MAY_IMPORT = {
    "efcd": {
        "backend",
        "buffer",
        "cache",
        "fuse",
        "nfs",
        "privileges",
        "process",
        "proto",
        "sources",
        "state",
        "statmount",
        "store",
        "tasks",
        "workers",
    },
    "keeper": {"mount-helper", "privileges", "process", "proto"},
    "fs": {"backend", "buffer", "nfs"},
    "model": {"backend", "buffer", "tasks"},
    "mount-helper": {"privileges", "statmount"},
    "sources": {"backend", "buffer", "tasks"},
    "workers": {"backend", "buffer", "cache", "tasks"},
    "store": {"backend", "buffer", "cache", "tasks"},
    "cache": {"backend", "buffer", "tasks"},
    "nfs": {"backend", "buffer", "tasks"},
    "fuse": {"buffer", "state"},
    "state": set(),
    "backend": {"buffer", "tasks"},
    "buffer": set(),
    "tasks": set(),
    "process": set(),
    "proto": set(),
    "privileges": set(),
    "statmount": set(),
}


def _imports() -> dict[str, set[str]]:
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--no-deps", "--locked"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    return {
        package["name"].removeprefix("efc-"): {
            dependency["name"].removeprefix("efc-")
            for dependency in package["dependencies"]
            if dependency["name"].startswith("efc-") and dependency["kind"] is None
        }
        for package in json.loads(metadata.stdout)["packages"]
    }


def test_crates_import_only_what_stands_below_them() -> None:
    """And the table has no crate that is not there, nor one that imports upwards."""
    imports = _imports()
    assert imports.keys() == MAY_IMPORT.keys()
    assert {crate: wrong for crate, used in imports.items() if (wrong := used - MAY_IMPORT[crate])} == {}
    order = list(MAY_IMPORT)
    assert all(order.index(crate) < order.index(used) for crate in order for used in MAY_IMPORT[crate])
