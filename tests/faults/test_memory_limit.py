"""A daemon at its memory limit: an error for whoever asks for more, and no SIGKILL after SIGKILL for itself."""

from __future__ import annotations

import errno
import os
import uuid
from collections import Counter
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.node.conditions import condition_of
from tests.support.keeper import Keeper
from tests.support.processes import wait_until
from tests.support.scripted_nas import DIRECTORY, ScriptedNas

MEMORY_MAX = 32 << 20
FILES = 75_000
#: Names that are looked up and forgotten, what each takes of the saved state, and what is kept of that.
FORGOTTEN, NODE_BYTES, KEPT_BYTES = 10_000, 128, 512 << 10
WITH_LIMIT = 'exec "$@" --daemon-cgroup "$0" --daemon-memory-max ' + str(MEMORY_MAX)


def errno_of_stat(entry: os.DirEntry[str]) -> int:
    """0 if it can be looked up."""
    try:
        entry.stat(follow_symlinks=False)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.timeout(240)
def test_more_names_than_fit_are_an_error_and_no_end() -> None:
    """With more names than the limit allows listings go on, look-ups fail with ENOMEM, and what is known is served."""
    cgroup = f"efc-test-{uuid.uuid4().hex[:8]}"
    with ScriptedNas() as nas, Keeper(command_prefix=("sh", "-c", WITH_LIMIT, cgroup)) as keeper:
        nas.page_entries = 4000
        folder = nas.add(nas.root, "folder", kind=DIRECTORY)
        for number in range(FILES):
            nas.add(folder, f"{number:06}", data=b"data")
        first = nas.add(nas.root, "first", data=b"first")
        with keeper.mounted(nas.url, options=("attr-ttl=600s", "entry-ttl=600s")) as mount:
            assert (mount / "first").read_bytes() == b"first"
            pid = keeper.daemon_pid(mount)
            with os.scandir(mount / "folder") as entries:
                found = Counter(map(errno_of_stat, entries))
            assert (found.total(), set(found)) == (FILES, {0, errno.ENOMEM})
            assert (mount / "first").read_bytes() == bytes(first.data)
            with pytest.raises(OSError, match="Cannot allocate memory"):
                (mount / "new").write_bytes(b"")
            assert b"new" not in nas.root.children, "nothing is made that nobody can be told of"
            status = keeper.status(mount)
            assert (status["restarts"], status["pid"]) == (0, pid)


def saved_bytes(keeper: Keeper) -> int:
    """Memory of the saved state of the keeper's only mount."""
    [state] = [
        link
        for link in Path(f"/proc/{keeper.pid}/fd").iterdir()
        if os.path.lexists(link) and os.readlink(link).startswith("/memfd:efc-state")
    ]
    return state.stat().st_blocks * 512


@pytest.mark.timeout(240)
def test_memory_of_forgotten_names_goes_back() -> None:
    """After the kernel has forgotten what it had looked up, the state is nearly as small as before, and stays so."""
    with ScriptedNas() as nas, Keeper() as keeper:
        nas.page_entries = 4000
        folder = nas.add(nas.root, "folder", kind=DIRECTORY)
        nas.add(nas.root, "first", data=b"first")
        with keeper.mounted(nas.url, options=("attr-ttl=5s", "entry-ttl=5s")) as mount:
            assert (mount / "first").read_bytes() == b"first"
            before = saved_bytes(keeper)
            for number in range(FORGOTTEN):
                nas.add(folder, f"{number:06}", data=b"data")
            with os.scandir(mount / "folder") as entries:
                assert {errno_of_stat(entry) for entry in entries} == {0}
            full = saved_bytes(keeper)
            assert full - before > FORGOTTEN * NODE_BYTES * 3 // 4  # the first of them had memory before
            del nas.root.children[b"folder"]  # the kernel forgets with it all that was in it
            wait_until(lambda: not (mount / "folder").exists(), what="the folder to be gone")
            wait_until(
                lambda: saved_bytes(keeper) - before < KEPT_BYTES,
                what=f"memory to go back: {before} bytes before, {full} then",
            )
            keeper.replace_daemon(mount)
            assert (mount / "first").read_bytes() == b"first"
            assert saved_bytes(keeper) - before < KEPT_BYTES, "the next daemon has looked at what had gone"


def test_a_full_table_of_files_is_a_condition() -> None:
    """The volume's condition says what is full, and what to do."""
    stats = efc_pb2.DaemonStats(state=efc_pb2.StateStats(nodes=70_000, nodes_max=70_000))
    status = efc_pb2.MountStatus(state=efc_pb2.MountStatus.SERVING, stats=stats)
    assert "--daemon-memory-max" in condition_of(status)
    stats.state.nodes = 69_999
    assert condition_of(efc_pb2.MountStatus(state=efc_pb2.MountStatus.SERVING, stats=stats)) == ""
