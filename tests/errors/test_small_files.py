"""The option `small-files` where it cannot be had: refused with words that say what to write; nothing is mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.keeper import Keeper
from tests.support.mounts import mounts_below
from tests.support.nas import Nas


@pytest.fixture(scope="module")
def keeper(nothing_left: None) -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("consistency=bounded", "small-files=1000:1000"), "add ro"),
        (("ro", "small-files=1000:1000"), "'consistency=bounded' or 'consistency=sealed'"),
        (("ro", "consistency=cto", "small-files=1000:1000"), "'consistency=bounded' or 'consistency=sealed'"),
        (("ro", "consistency=sealed", "small-files=1000"), "UID:GID"),
        (("ro", "consistency=sealed", "small-files=4294967295:0"), "UID:GID"),
        (("ro", "consistency=sealed", "small-files"), "UID:GID"),
    ],
)
def test_what_it_needs_is_said(nas: Nas, keeper: Keeper, options: tuple[str, ...], words: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        keeper.mount(nas.url, options=options)
    assert words in refused.value.stderr
    assert mounts_below(keeper.folder) == []


def test_it_belongs_to_the_mount(nas: Nas, keeper: Keeper) -> None:
    options = ("ro", "consistency=bounded", "small-files=0:0")
    with keeper.mounted(nas.url, options=options) as mount:
        for change in ("small-files=1:1", "consistency=cto", "rw"):
            with pytest.raises(subprocess.CalledProcessError) as refused:
                keeper.efc("upgrade", str(mount), "-o", change)
            assert "cannot change while mounted" in refused.value.stderr
        keeper.efc("upgrade", str(mount), "-o", "attr-ttl=5s")
        assert keeper.status(mount)["options"]["small_files"] == "0:0"
