"""`efc warmup`: what it has read lies in caches, so another node asks the NAS for none of it; and all its ends.

Real workers, NAS, keepers and mounts. A first pass waits until files have rested; those of most tests have.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from csi.warming.resting import REST_SECONDS
from tests.support.delay import delayed
from tests.support.environment import clean_environment
from tests.support.mounts import small_disk
from tests.support.nas import Export, Nas
from tests.support.nodes import Node
from tests.support.paths import program
from tests.support.processes import wait_until
from tests.support.workers import Worker, new_key

T = TypeVar("T")
MIB = 1 << 20
_LARGE = 24 * MIB + 12_345
_SMALL_COUNT = 40
_LIMIT_S = 120.0
_TRIES_MAX = 6
#: For machines with much to do, on which workers are late in several passes.
_PATIENTLY = "--passes=15"


def make_data(folder: Path) -> None:
    """A large file and small ones in folders, one with two names, a link."""
    folder.chmod(0o755)
    (folder / "large").write_bytes(os.urandom(_LARGE))
    for number in range(_SMALL_COUNT):
        below = folder / f"d{number % 4}"
        below.mkdir(exist_ok=True)
        (below / f"{number}.bin").write_bytes(os.urandom(number * 7_001))
    os.link(folder / "d1" / "1.bin", folder / "again")
    (folder / "link").symlink_to("large")
    (folder / "pipe").touch()
    (folder / "pipe").unlink()
    os.mkfifo(folder / "pipe")


def make_files(count: int, size: int) -> Callable[[Path], None]:
    """Makes files of one size, named by numbers, in a folder."""

    def make(folder: Path) -> None:
        for number in range(count):
            (folder / f"{number}").write_bytes(os.urandom(size))

    return make


def make_names(folder: Path) -> None:
    """Two small files, and two in a folder."""
    (folder / "below").mkdir()
    for name in ("a", "b", "below/a.bin", "below/b.txt"):
        (folder / name).write_bytes(b"x" * 1000)


#: What the dataset of a test has in it.
DATASETS: dict[str, Callable[[Path], object]] = {
    "test_another_node_asks_the_nas_for_nothing": make_data,
    "test_what_was_interrupted_goes_on": make_files(12, MIB),
    "test_a_budget_goes_on_where_it_ended": make_files(6, MIB),
    "test_lists_and_patterns": make_names,
    "test_files_that_vanish_and_change_are_no_failures": make_files(8, MIB),
    "test_a_frozen_nas_does_not_keep_it_from_ending": make_files(1, 64 * MIB),
    "test_two_of_the_same_are_not_run_at_once": make_files(1, 8 * MIB),
    "test_a_daemon_that_is_killed_costs_nothing": make_files(1, 40 * MIB),
    "test_one_level_is_filled_alone": make_data,
    "test_one_level_is_filled_where_the_kernel_opens_files_by_itself": make_data,
    "test_workers_that_do_not_answer_are_a_failure": make_files(3, MIB),
    "test_a_daemon_that_is_killed_amid_it_knows_which_level_is_filled": make_files(1, 40 * MIB),
    "test_a_store_that_takes_nothing_in_is_a_failure": make_files(3, MIB),
    "test_workers_that_are_later_than_the_nas_are_filled_all_the_same": make_files(8, MIB),
    "test_each_level_is_filled_whichever_has_the_data": make_files(8, MIB),
}


class World:
    """A NAS with a dataset, a worker, and nodes as they are asked for."""

    def __init__(self, nas: Nas, folder: Path, worker: Worker, key: Path, stack: ExitStack) -> None:
        self.nas, self.folder, self.first_worker, self._stack = nas, folder, worker, stack
        self._options = (f"workers={worker.endpoint}", f"workers-key={key}")

    def node(self, *options: str) -> Node:
        """One more node, whose daemon knows the worker."""
        below = self.folder.relative_to(self.nas.export_folder().parent)
        node = self._stack.enter_context(Node.mounted(self.nas.url_of(str(below)), options=[*self._options, *options]))
        node.await_workers(1)
        return node

    def far_node(self, *, round_trip_us: int) -> Node:
        """One more node, on whose way to the worker there is this much."""
        port = self._stack.enter_context(delayed(self.first_worker.port, round_trip_us=round_trip_us))
        below = self.folder.relative_to(self.nas.export_folder().parent)
        options = [f"workers={self.first_worker.address}:{port}", self._options[1]]
        return self._stack.enter_context(Node.mounted(self.nas.url_of(str(below)), options=options))

    def with_store(self, *options: str) -> Node:
        """One more node, with a store of its own besides."""
        caches = self._stack.enter_context(tempfile.TemporaryDirectory())
        return self.node(f"cache-dir={caches}", "cache-size=64MiB", "cache-free=1", *options)

    def with_store_alone(self, caches: Path, *options: str) -> AbstractContextManager[Node]:
        """One more node for the time of a block, which knows no worker and has its store there."""
        below = self.folder.relative_to(self.nas.export_folder().parent)
        options = (f"cache-dir={caches}", "cache-size=64MiB", *options)
        return Node.mounted(self.nas.url_of(str(below)), options=options)

    def worker(self) -> Worker:
        """Another worker, of which no node knows."""
        return self._stack.enter_context(Worker())


def start(node: Node, *arguments: str) -> subprocess.Popen[str]:
    """`efc warmup` with these arguments."""
    return subprocess.Popen(
        [program("efc"), "warmup", *arguments], env=clean_environment(RUN_DIR=str(node.keeper.run_dir)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def warmup(node: Node, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Its summary, when it has ended with this status."""
    with start(node, *arguments, "--json") as process:
        out, err = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == status, f"{err}{out}"
    found: dict[str, Any] = json.loads(out)
    return found | {"stderr": err}


def read_all(folder: Path) -> int:
    """Reads the regular files below a folder; how many bytes they have."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(len(path.read_bytes()) for path in found)


def resident_pages(path: Path) -> int:
    """Pages of a file that are in this machine's page cache, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ | mmap.PROT_WRITE,
                                             flags=mmap.MAP_PRIVATE) as mapped:  # fmt: skip
        there = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        first = ctypes.c_char.from_buffer(mapped)
        assert libc.mincore(ctypes.addressof(first), size, there) == 0
        del first
    return sum(byte & 1 for byte in there.raw)


@pytest.fixture(scope="module")
def datasets() -> Iterator[tuple[Nas, dict[str, Path]]]:
    """A server, and the dataset of each test, whose files have rested."""
    with Nas() as nas:
        folders = {name: nas.export_folder() / name for name in DATASETS}
        for name, folder in folders.items():
            folder.mkdir()
            DATASETS[name](folder)
        time.sleep(REST_SECONDS)
        for folder in folders.values():
            for below, _, _ in os.walk(folder):
                os.utime(below)  # tells what the server's clock shows by now
        yield nas, folders


@pytest.fixture
def world(nothing_left: None, datasets: tuple[Nas, dict[str, Path]], request: pytest.FixtureRequest) -> Iterator[World]:
    nas, folders = datasets
    with Worker() as worker, ExitStack() as stack:
        key = new_key(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        yield World(nas, folders[request.function.__name__], worker, key, stack)


@pytest.mark.timeout(400)
def test_another_node_asks_the_nas_for_nothing(world: World) -> None:
    total = sum(number * 7_001 for number in range(_SMALL_COUNT)) + _LARGE
    first = world.node()
    done = warmup(first, str(first.mount), _PATIENTLY)
    assert (done["files"], done["bytes"]) == (_SMALL_COUNT + 1, total)
    assert done["levels"]["nas"] >= total
    assert (done["files_linked"], done["files_other"], done["files_changed"]) == (1, 2, 0)
    assert resident_pages(first.mount / "large") == 0, "the page cache is left to applications"
    assert not list((first.keeper.run_dir / "warmup").iterdir()), "a run that is whole leaves no note"

    another, count = node_that_workers_suffice(world, lambda node: read_all(node.mount))
    assert count == total + 7_001, "by both names"
    assert another.keeper.status(another.mount)["cache"]["workers_bytes"] >= total

    _, done = node_that_workers_suffice(
        world, lambda node: warmup(node, str(node.mount / "large"), str(node.mount / "d1"))
    )
    assert (done["passes"], done["missing_bytes"]) == (1, [0]), "caches give all at once"


def node_that_workers_suffice(world: World, read: Callable[[Node], T]) -> tuple[Node, T]:
    """A new node that reads what all lies on workers, and asks the NAS for none of it; and what it has read.

    A daemon does not wait for workers that are late, as any may be on a machine with much to do: then another node
    tries. None is ever told by a worker that it has not got a block.
    """
    for _ in range(_TRIES_MAX):
        node = world.node()
        done = read(node)
        stats = node.keeper.status(node.mount)["stats"]
        assert stats["cache"]["workers_misses"] == 0
        if stats["nfs"]["bytes_read"] == 0:
            return node, done
    raise AssertionError(f"{_TRIES_MAX} nodes have read from the NAS: {stats}")


@pytest.mark.timeout(400)
def test_what_was_interrupted_goes_on(world: World) -> None:
    node = world.node()
    with start(node, str(node.mount), "--limit-rate=1MiB/s", "--jobs=2", "--json") as process:
        wait_until(lambda: _noted(node) >= 3, what="some of it to be read", limit_s=_LIMIT_S)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 130
    interrupted = json.loads(out)
    assert interrupted["is_interrupted"]
    assert 3 <= interrupted["files"] < 12

    read_first = Path(json.loads(_note_text(node).splitlines()[0])[0])
    (world.folder / read_first.name).write_bytes(os.urandom(2 * MIB))
    done = warmup(node, str(node.mount), "--passes=1")
    assert done["files"] + done["files_noted"] == 12
    assert 2 <= done["files_noted"] <= interrupted["files"] - 1
    assert warmup(node, str(node.mount), "--passes=1")["files_noted"] == 0, "the note has gone with the whole run"


def _noted(node: Node) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (node.keeper.run_dir / "warmup").glob("*.jsonl"))


@pytest.mark.timeout(400)
def test_a_budget_goes_on_where_it_ended(world: World) -> None:
    node = world.node()
    first = warmup(node, str(node.mount), "--budget=4MiB", "--passes=1")
    assert (first["files"], first["bytes"], first["is_over_budget"]) == (4, 4 * MIB, True)
    assert warmup(node, str(node.mount), "--glob=x", "--passes=1")["files"] == 0, "other arguments, another note"
    second = warmup(node, str(node.mount), "--budget=4MiB")
    assert (second["files"], second["files_noted"], second["is_over_budget"]) == (2, 4, False)
    assert second["passes"] > 1, "what a former run has read is looked at as well"


@pytest.mark.timeout(400)
def test_lists_and_patterns(world: World) -> None:
    node = world.node()
    (node.keeper.folder / "list").write_text(f"{node.mount}/a\n\n{node.mount}/gone\n{node.mount}/a\n")
    arguments = (f"{node.mount}/below", "--glob=*.bin", "--list", str(node.keeper.folder / "list"), "--passes=1")
    done = warmup(node, *arguments, status=1)
    assert (done["files"], done["files_failed"], done["failures"][0]["errno"]) == (2, 1, "ENOENT")


@pytest.mark.timeout(400)
def test_files_that_vanish_and_change_are_no_failures(world: World) -> None:
    folder, node = world.folder, world.node()
    # Names and attributes stay what the walk has seen; what has become of the files is seen when they are opened.
    with start(node, str(node.mount), "--limit-rate=1MiB/s", "--jobs=1", "--passes=1", "--json") as process:
        wait_until(lambda: _noted(node) >= 1, what="the first to be read", limit_s=_LIMIT_S)
        names = [path.name for path in folder.iterdir() if f'{path.name}"' not in _note_text(node)]
        left = sorted(names, key=lambda name: _place(node, name))
        (folder / left[-1]).unlink()
        (folder / left[-2]).write_bytes(os.urandom(2 * MIB))
        out, err = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 0, err
    done = json.loads(out)
    assert (done["files_vanished"], done["files_changed"], done["files_failed"]) == (1, 1, 0)


def _note_text(node: Node) -> str:
    return "".join(path.read_text() for path in (node.keeper.run_dir / "warmup").glob("*.jsonl"))


def _place(node: Node, name: str) -> int:
    return [entry.name for entry in os.scandir(node.mount)].index(name)


@pytest.mark.timeout(400)
def test_what_the_nas_refuses_is_named(nothing_left: None) -> None:
    with ExitStack() as stack:
        nas = stack.enter_context(Nas(exports=(Export(squash="Root_Squash"),)))
        worker = stack.enter_context(Worker())
        world = World(
            nas, nas.export_folder(), worker, new_key(Path(stack.enter_context(tempfile.TemporaryDirectory()))), stack
        )
        folder = nas.export_folder()
        folder.chmod(0o755)
        for name in ("open", "shut", "large-shut"):
            (folder / name).write_bytes(os.urandom(3 * MIB if name.startswith("large") else 1000))
            (folder / name).chmod(0o644)
        (folder / "closed").mkdir(mode=0o700)
        for name in ("shut", "large-shut"):
            (folder / name).chmod(0)
            os.chown(folder / name, 1234, 1234)
        node = world.node()
        done = warmup(node, str(node.mount), status=1)
        assert {(failure["path"], failure["errno"]) for failure in done["failures"]} == {
            (f"{node.mount}/{name}", "EACCES") for name in ("shut", "large-shut", "closed")
        }
        assert (done["files"], done["files_failed"]) == (1, 3)
        assert f"efc: {node.mount}/shut: Permission denied\n" in done["stderr"]
        (folder / "shut").chmod(0o644)
        done = warmup(node, str(node.mount), status=1)
        assert (done["files"], done["files_noted"], done["files_failed"]) == (1, 1, 2), "what failed is tried again"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("to", ["both", "workers"])
def test_a_frozen_nas_does_not_keep_it_from_ending(world: World, to: str) -> None:
    node = world.node()
    with start(node, str(node.mount), f"--to={to}", "--limit-rate=2MiB/s", "--passes=1") as process:
        wait_until(lambda: node.keeper.status(node.mount)["stats"]["nfs"]["bytes_read"] > 0, what="it to read",
                   limit_s=_LIMIT_S, interval_s=0.2)  # fmt: skip
        world.nas.pause()
        try:
            wait_until(lambda: node.keeper.status(node.mount)["stats"]["nfs"]["oldest_call_ms"] > 1000,
                       what="a call without an answer", limit_s=_LIMIT_S, interval_s=0.2)  # fmt: skip
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            with start(node, str(node.mount)) as refused:
                _, why = refused.communicate(timeout=_LIMIT_S)
        finally:
            world.nas.resume()
    assert process.returncode == 130, err
    assert out.startswith(f"Interrupted: {'read' if to == 'both' else 'looked at'} 0 files, "), out
    assert "Traceback" not in err
    assert refused.returncode == 2, "a mount that does not answer is not walked"
    assert why.count("\n") == 1, why


@pytest.mark.timeout(400)
def test_two_of_the_same_are_not_run_at_once(world: World) -> None:
    node = world.node()
    with start(node, str(node.mount)) as process:
        wait_until(lambda: (node.keeper.run_dir / "warmup").exists(), what="its note", limit_s=_LIMIT_S)
        with start(node, str(node.mount)) as other:
            _, err = other.communicate(timeout=_LIMIT_S)
        # On a busy machine a line before says that workers are late.
        said = "efc: another warm-up of the same paths is in progress"
        assert (other.returncode, err.splitlines()[-1]) == (2, said)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130


@pytest.mark.timeout(400)
def test_a_daemon_that_is_killed_costs_nothing(world: World) -> None:
    node = world.node()
    with start(node, str(node.mount), "--limit-rate=8MiB/s", "--passes=1", "--json") as process:
        wait_until(lambda: node.keeper.status(node.mount)["stats"]["nfs"]["bytes_read"] > 0, what="it to read",
                   limit_s=_LIMIT_S, interval_s=0.2)  # fmt: skip
        node.keeper.replace_daemon(node.mount)
        out, err = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 0, err
    assert json.loads(out)["bytes"] == 40 * MIB


def filled(node: Node) -> tuple[int, int]:
    """How many bytes the node's daemons have put into its store, and onto workers."""
    status = node.keeper.status(node.mount)
    return status["store"]["filled_bytes"], status["cache"]["workers_filled_bytes"]


@pytest.mark.timeout(400)
def test_one_level_is_filled_alone(world: World) -> None:
    """From whoever has the data: the NAS, the workers, the store."""
    total = sum(number * 7_001 for number in range(_SMALL_COUNT)) + _LARGE
    first = world.with_store()
    done = warmup(first, str(first.mount), "--to=workers", _PATIENTLY)
    assert (done["to"], done["files"], done["bytes"], done["missing_bytes"][0]) == (
        "workers", _SMALL_COUNT + 1, total, total,
    )  # fmt: skip
    assert done["missing_bytes"][-1] == 0
    from_store, on_workers = filled(first)
    assert (from_store, on_workers >= total) == (0, True)
    assert resident_pages(first.mount / "large") == 0, "no data comes to the kernel"
    again = warmup(first, str(first.mount), "--to=workers")
    assert (again["passes"], again["missing_bytes"], again["levels"]["nas"]) == (1, [0], 0), "they have all of it"
    assert (again["bytes"], again["bytes_looked_at"]) == (0, total)

    second = world.with_store()
    done = warmup(second, str(second.mount), "--to=local")
    cache = second.keeper.status(second.mount)["stats"]["cache"]
    assert (done["missing_bytes"][-1], cache["workers_misses"]) == (0, 0), "from the workers, where they were in time"
    assert cache["workers_bytes"] > 0
    in_store, on_workers = filled(second)
    assert (in_store >= total, on_workers) == (True, 0)

    second.keeper.efc("upgrade", str(second.mount), "-o", f"workers={world.worker().endpoint}")
    second.await_workers(1)
    done = warmup(second, str(second.mount), "--to=workers")
    assert (done["missing_bytes"][-1], done["levels"]["nas"]) == (0, 0), "from the store"
    assert filled(second)[1] >= total
    assert read_all(second.mount) == total + 7_001  # by both names

    third = world.node()
    with start(third, str(third.mount), "--to=local") as refused:
        _, err = refused.communicate(timeout=_LIMIT_S)
    assert (refused.returncode, err.count("\n")) == (2, 1)
    assert "has no local store (options cache-dir, cache-size)" in err
    assert third.keeper.status(third.mount)["stats"]["nfs"]["bytes_read"] == 0


@pytest.mark.timeout(400)
def test_a_daemon_that_is_killed_amid_it_knows_which_level_is_filled(world: World) -> None:
    node = world.with_store()
    with start(node, str(node.mount), "--to=workers", "--limit-rate=8MiB/s", "--json") as process:
        wait_until(lambda: filled(node)[1] > 0, what="it to fill", limit_s=_LIMIT_S, interval_s=0.2)
        node.keeper.replace_daemon(node.mount)
        out, err = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 0, out + err
    done = json.loads(out)
    assert (done["bytes"], done["missing_bytes"][-1]) == (40 * MIB, 0)
    assert filled(node)[0] == 0


@pytest.mark.timeout(400)
def test_one_level_is_filled_where_the_kernel_opens_files_by_itself(world: World) -> None:
    """The daemon hears of no open there: a question alone says what is wanted."""
    total = sum(number * 7_001 for number in range(_SMALL_COUNT)) + _LARGE
    node = world.with_store("ro", "consistency=bounded", "small-files=0:0")
    done = warmup(node, str(node.mount), "--to=local")
    assert (done["bytes"], done["missing_bytes"][-1]) == (total, 0)
    in_store, on_workers = filled(node)
    assert (in_store >= total, on_workers) == (True, 0)


@pytest.mark.timeout(400)
def test_workers_that_do_not_answer_are_a_failure(world: World) -> None:
    node = world.with_store()
    world.first_worker.kill()
    node.await_workers(0)
    done = warmup(node, str(node.mount), "--to=workers", status=1)
    assert (done["files"], done["bytes_looked_at"], done["bytes_refused"]) == (3, 3 * MIB, 3 * MIB)
    assert (done["bytes"], done["bytes_per_second"]) == (0, 0), "nothing was read"
    assert done["passes"] == 1, "they do not take it at a second time either"
    assert "workers do not answer" in done["stderr"]
    assert (done["levels"]["nas"], filled(node)) == (0, (0, 0)), "the NAS is not asked in vain"
    world.first_worker.start()
    node.await_workers(1)
    done = warmup(node, str(node.mount), "--to=workers")
    assert (done["files_noted"], done["bytes_refused"], done["missing_bytes"][-1]) == (0, 0, 0)


@pytest.mark.timeout(400)
def test_a_store_that_takes_nothing_in_is_a_failure(world: World, tmp_path: Path) -> None:
    """A job that believes in its exit status does not take the data for cached."""
    with small_disk(tmp_path / "caches", size_mib=24) as disk, ExitStack() as stack:
        (disk / "ballast").write_bytes(bytes(12 * MIB))
        node = stack.enter_context(world.with_store_alone(disk, "cache-free=60"))
        done = warmup(node, str(node.mount), status=1)
        assert (done["files"], done["bytes"], done["bytes_uncached"]) == (3, 3 * MIB, 3 * MIB)
        assert "3.0 MiB of 3.0 MiB is not in the caches" in done["stderr"]

        done = warmup(node, str(node.mount), "--to=local", status=1)
        assert (done["bytes"], done["bytes_looked_at"], done["bytes_refused"]) == (0, 3 * MIB, 3 * MIB)
        assert done["levels"]["nas"] == 0

        (disk / "ballast").unlink()

        def takes_all() -> bool:
            with start(node, str(node.mount), "--quiet") as process:
                return process.wait(_LIMIT_S) == 0

        wait_until(takes_all, what="the store to take all", limit_s=_LIMIT_S)
        store = node.keeper.status(node.mount)["store"]
        assert store["held_bytes"] >= 3 * MIB


@pytest.mark.timeout(400)
def test_workers_that_are_later_than_the_nas_are_filled_all_the_same(world: World) -> None:
    """As they are on a busy machine: no reader waits for them, so no reading would ever show what they have."""
    node = world.far_node(round_trip_us=600_000)
    done = warmup(node, str(node.mount))
    assert (done["bytes"], done["missing_bytes"][-1], done["bytes_uncached"]) == (8 * MIB, 0, 0)
    assert len(world.first_worker.everything()) == 8


@pytest.mark.timeout(400)
def test_each_level_is_filled_whichever_has_the_data(world: World) -> None:
    node = world.with_store()
    warmup(node, str(node.mount), "--to=local")
    assert world.first_worker.everything() == []
    done = warmup(node, str(node.mount))
    assert (done["missing_bytes"][-1], done["bytes_uncached"], done["levels"]["nas"]) == (0, 0, 0), "the store gave it"
    assert len(world.first_worker.everything()) == 8
