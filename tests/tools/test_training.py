"""Of `python -m bench training` and `filling`: what is read in which order, how it is summed up, and what is judged."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bench import filling, nodes
from bench.bare import Gate
from bench.clients import NATIVE
from bench.runs import GIB
from bench.training import case, dlio, files, loader
from bench.training.bench import contenders
from bench.training.case import Case
from bench.training.clients import BOUNDED, DEFAULT, FUSE_NFS, SEALED, libnfs_url
from bench.training.run import LOADER, Epoch, Run, sent_bytes


def test_sizes_are_the_same_each_time_and_spread_over_all_scales() -> None:
    sizes = list(files.sizes(10_000))
    assert sizes == list(files.sizes(10_000))
    assert min(sizes) >= files.SIZE_MIN
    assert max(sizes) < files.SIZE_MAX
    small, large = (sum(low <= size < 2 * low for size in sizes) for low in (8 << 10, 64 << 10))
    assert small == pytest.approx(large, rel=0.1)


def test_files_differ_and_have_their_sizes(tmp_path: Path) -> None:
    files.make(tmp_path / "data", 200)
    paths = [tmp_path / "data" / f"{number % 100:03}" / f"{number // 100:04}" for number in range(200)]
    contents = [path.read_bytes() for path in paths]
    assert [len(content) for content in contents] == list(files.sizes(200))
    assert len({content[: files.SIZE_MIN] for content in contents}) == 200


def test_each_epoch_reads_all_in_another_order_that_everybody_has() -> None:
    mine, others = (loader.Batches(files=130, size=64, seed=1) for _ in range(2))
    epochs = [[*mine] for _ in range(3)]
    assert [len(batch) for batch in epochs[0]] == [64, 64, 2]
    assert len(mine) == 3
    assert all(sorted(itertools.chain(*epoch)) == list(range(130)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs == [[*others] for _ in range(3)]


def test_a_loader_reads_what_it_is_told_and_waits_between_epochs(tmp_path: Path) -> None:
    """With a pool of processes: the Python of the tests has no torch."""
    files.make(tmp_path / "data", 200)
    sizes = list(files.sizes(200))
    of_three = sum(size for number, size in enumerate(sizes) if number % 100 < 3)
    command = [sys.executable, LOADER, tmp_path / "data", "--directories=3", "--epochs=2", "--readers=2", "--batch=4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline())]
        for _ in range(3):
            process.stdin.write("\n")
            process.stdin.flush()
            found.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        assert process.wait(60) == 0
    assert found[0] == {"loader": "a pool of processes"}
    assert [(one["files"], one["bytes"]) for one in found[1:]] == [(6, 0), (6, of_three), (6, of_three)]


def _epoch(seconds: float, **changes: Any) -> Epoch:
    return Epoch(**dict.fromkeys((each.name for each in fields(Epoch)), 0) | {"seconds": seconds} | changes)


def _run(*seconds: float, part: float = 1, **changes: Any) -> Run:
    """The first one is the listing's."""
    listing, *epochs = (_epoch(one, **changes) for one in seconds)
    return Run(
        part=part, loader="", listing=listing, epochs=epochs, memory_mib_max=0, memory_after_mib=0
    )  # fmt: skip


def test_a_part_of_the_files_is_scaled_to_all() -> None:
    run = _run(1, 4, 3, 2, part=0.1, nas_calls=50)
    assert run.total_s == pytest.approx(100)
    assert run.epoch_s(0) == pytest.approx(40)
    assert run.first_share == pytest.approx(0.5)
    assert run.total("nas_calls") == pytest.approx(2000)


def _failing(gates: Sequence[Gate]) -> list[tuple[str, float]]:
    return [(gate.text, gate.limit) for gate in gates if not gate.holds]


def test_a_training_is_judged_by_clients_without_a_cache() -> None:
    """`sealed` holds all, `bounded` is too slow for either gate, and no aim makes the bench fail."""
    runs = {FUSE_NFS: _run(0, 10, part=0.1), DEFAULT: _run(0, 48), SEALED: _run(0, 4), BOUNDED: _run(0, 14)}
    judged = Case(name="1 ms", runs=runs)
    case.judge(judged)
    assert _failing(judged.gates) == [
        (f"{BOUNDED}: total to that of {FUSE_NFS}", 0.13),
        (f"{BOUNDED}: total to that of {DEFAULT}", 0.25),
        (f"{BOUNDED}: total to that of {FUSE_NFS}", 0.05),
    ]
    assert [gate.only_aimed_at for gate in judged.gates] == [False, False, True] * 2


def test_who_was_skipped_is_no_measure() -> None:
    judged = Case(name="1 ms", runs={DEFAULT: _run(0, 50), SEALED: _run(0, 5)}, skipped={FUSE_NFS: "not built"})
    case.judge(judged)
    assert [gate.text for gate in judged.gates] == [f"{SEALED}: total to that of {DEFAULT}"]


def test_a_profile_says_whose_time_it_is() -> None:
    run, native = _run(1, 4, 5, daemon_cpu_s=2.0, readers_cpu_s=1.5), _run(0, 1, readers_cpu_s=0.5)
    said = case.profile_of(run, native)
    assert "50% of 10.0 s are the listing and the first epoch" in said
    assert "CPU of the daemon 6.0 s, of the loader 4.5 s (1.0 s on native ext4, 1.0 s of time)" in said


def test_the_picture_is_of_totals() -> None:
    document = {"training": {"1 ms": Case(name="1 ms", runs={NATIVE: _run(1, 2, 3)}).as_json(), "DLIO": {"runs": {}}}}
    assert case.totals(document) == {"1 ms": {NATIVE: 6}}


def test_bytes_that_a_namespace_has_sent() -> None:
    text = """Inter-|   Receive                         |  Transmit
 face |bytes    packets errs drop fifo frame multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0    0   0      700       1    0    0    0     0       0          0
  efc0: 1180000     200    0    0    0     0    0   0 55500123     100    0    0    0     0       0          0
"""
    assert sent_bytes(text) == 55500123


def test_ports_are_arguments_to_libnfs() -> None:
    url = "nfs://192.0.2.1:20049/export?mountport=20048"
    assert libnfs_url(url) == "nfs://192.0.2.1/export?nfsport=20049&mountport=20048"


def test_stores_have_room_for_all_files() -> None:
    for one in contenders(50_000):
        cache_mib = getattr(one, "cache_mib", 0)
        assert (cache_mib << 20 > sum(files.sizes(50_000))) == (one.name in (SEALED, BOUNDED))


def test_dlio_is_told_what_is_smaller(tmp_path: Path) -> None:
    shape = next(one for one in dlio.SHAPES if one.name == "unet3d")
    told = dlio.arguments(shape, tmp_path / "data", tmp_path / "out", generates=False)
    assert told[0] == "workload=unet3d_h100"
    assert {"++workload.workflow.generate_data=False", "++workload.workflow.train=True"} <= set(told)
    assert f"++workload.dataset.data_folder={tmp_path}/data/unet3d" in told
    summary = {"metric": {"train_au_percentage": [2.4, 90.6], "train_throughput_samples_per_second": [3, 40.2]}}
    assert dlio.said(dlio.Figures.read(summary, seconds=9)) == "AU 2, 91 %; 3, 40 samples/s"


def _reading(**changes: Any) -> nodes.Reading:
    some = dict.fromkeys((each.name for each in fields(nodes.Reading)), 0) | {"seconds": 1.0, "bytes": GIB}
    return nodes.Reading(**some | changes)


@pytest.mark.parametrize(("changes", "failing"), [
    ({"seconds": GIB / 630e6, "daemons_cpu_s": 0.57, "seals_cpu_s": 0.1}, []),
    ({"seconds": GIB / 610e6, "daemons_cpu_s": 0.57}, ["empty store and worker: part of the link"]),
    ({"seconds": GIB / 630e6, "daemons_cpu_s": 0.58}, ["daemon's CPU to that of default options"]),
])  # fmt: skip
def test_filling_is_judged_by_link_and_cpu(changes: dict[str, Any], failing: list[str]) -> None:
    reads = {filling.UNCACHED: [_reading(daemons_cpu_s=0.5)], filling.FILLING: [_reading(**changes)]}
    judged = nodes.Case(name="link", readings=reads)
    filling.judge_link(judged)
    assert [text for text, _ in _failing(judged.gates)] == failing


def test_filling_is_judged_by_what_a_writer_asks() -> None:
    rounds = {
        filling.UNCACHED: [filling.Writing(seconds=1, nfs_calls=1000, daemon_cpu_s=1)],
        filling.FILLING: [filling.Writing(seconds=1, nfs_calls=1011, daemon_cpu_s=1.05)],
    }
    judged = filling.Writings(rounds=rounds)
    filling.judge_writes(judged)
    assert [text for text, _ in _failing(judged.gates)] == ["calls to those of default options"]


def test_filling_writes_what_it_says(tmp_path: Path) -> None:
    filling.write_all(tmp_path / "written")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "written").iterdir())
    assert sizes == [filling.SMALL_BYTES] * filling.SMALL_FILES + [filling.WRITTEN_MIB << 20]
