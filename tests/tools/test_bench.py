"""The gate of `make bench`: a worse figure is noticed and named, one within the margin is not. No times."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import gate, nodes, picture
from bench.clients import KERNEL, MOUNT, NATIVE, Counters, parse_mountstats, why_not_mounted_with
from bench.memory import STEPS
from bench.rows import families
from bench.runs import GIB, Round
from tests.support.paths import ROOT

_BEFORE = {
    "operations": 500, "calls": 4.0, "read_bytes": 0.0, "written_bytes": 4096.0, "daemon_bytes": 7 << 20,
    "cpu_to": {NATIVE: {"median": 10.0, "noise": 0.2}},
}  # fmt: skip


def _worse(**changes: Any) -> list[str]:
    return list(gate.worse_than_baseline("create", _BEFORE | changes, _BEFORE))


@pytest.mark.parametrize("changes", [
    {},
    {"calls": 4.11},
    {"calls": 1.0, "written_bytes": 100.0},
    {"written_bytes": 4096 * 1.02},
    {"daemon_bytes": int(7.6 * 2**20)},
    {"cpu_to": {NATIVE: {"median": 11.6, "noise": 0.1}}},
    {"cpu_to": {NATIVE: {"median": 14.0, "noise": 5.0}}},
    {"cpu_to": {}},
])  # fmt: skip
def test_what_is_within_the_margin_holds(changes: dict[str, Any]) -> None:
    assert _worse(**changes) == []


@pytest.mark.parametrize(("changes", "says"), [
    ({"calls": 4.13}, "create: calls 4.13, the baseline's 4 (at most 4.12)"),
    ({"read_bytes": 4096.0}, "create: read_bytes 4,096, the baseline's 0"),
    ({"written_bytes": 4300.0}, "create: written_bytes 4,300"),
    ({"daemon_bytes": 9 << 20}, "create: daemon_bytes"),
    ({"cpu_to": {NATIVE: {"median": 12.0, "noise": 0.1}}}, "create: CPU is 12.00 times that of native ext4"),
])  # fmt: skip
def test_what_is_worse_is_named(changes: dict[str, Any], says: str) -> None:
    [line] = _worse(**changes)
    assert line.startswith(says)


def test_a_call_by_chance_is_no_difference() -> None:
    few = _BEFORE | {"operations": 1, "calls": 4.0}
    assert list(gate.worse_than_baseline("listing", few | {"calls": 6.0}, few)) == []
    [line] = gate.worse_than_baseline("listing", few | {"calls": 7.0}, few)
    assert "calls 7, the baseline's 4" in line


def test_a_row_without_a_baseline_is_named() -> None:
    [line] = gate.worse_than_baseline("new row", _BEFORE, None)
    assert line.startswith("new row: it has no baseline")


def test_another_build_of_less_cpu_is_noticed_beyond_the_noise() -> None:
    def worse(*ratios: float) -> list[str]:
        return list(gate.worse_than_other("write", _BEFORE, _BEFORE, gate.Ratio.of(ratios)))

    assert worse(1.02, 1.03, 1.02, 1.01, 1.02) == []
    assert worse(1.30, 0.80, 1.10, 0.90, 1.40) == [], "that is noise"
    [line] = worse(1.09, 1.10, 1.11, 1.10, 1.09)
    assert line.startswith("write: CPU is 1.100 times the other build's")


def test_counts_of_the_kernels_client() -> None:
    """Of this one mount: calls of all procedures, and what went to and came from the server."""
    one = """device 127.0.0.1:/export mounted on /mnt/{} with fstype nfs statvers=1.1
\topts:\trw,vers=3
\tbytes:\t1 2 3 4 {} 600 7 8
\tRPC iostats version: 1.1  p/v: 100003/3 (nfs)
\txprt:\ttcp 1 2 3
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t     GETATTR: {} 5 0 5 5 5 5 5 0
\t READDIRPLUS: 3 3 0 3 3 3 3 3 0

"""
    text = "device proc mounted on /proc with fstype proc\n" + one.format("other", 1, 7) + one.format("this", 500, 40)
    assert parse_mountstats(text, "/mnt/this") == Counters(calls=44, read_bytes=500, written_bytes=600)
    with pytest.raises(LookupError):
        parse_mountstats(text, "/mnt")


def test_every_row_has_a_baseline() -> None:
    names = {row.name for rows in families().values() for row in rows} | {f"memory: {step}" for step in STEPS}
    assert set(gate.read_baseline()) == names


def test_a_new_baseline_keeps_what_was_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"a": {"calls": 1, "kernel": {"calls": 2}}, "b": {"calls": 3}}))
    gate.write_baseline({"a": {"calls": 5, "cpu_to": {}}}, path)
    assert gate.read_baseline(path) == {"a": {"calls": 5, "kernel": {"calls": 2}, "cpu_to": {}}, "b": {"calls": 3}}


@pytest.mark.parametrize(("variant", "why_not"), [
    ("attr-ttl=5s,entry-ttl=5s", ""),
    ("no-such-option=1", "unknown option 'no-such-option' in the variant"),
    ("attr-ttl=long", "option 'attr-ttl' in the variant has value 'long'"),
])  # fmt: skip
def test_options_that_this_build_does_not_take_are_no_contender(variant: str, why_not: str) -> None:
    assert why_not_mounted_with(variant) == why_not


def test_a_picture_has_a_bar_for_each_figure(tmp_path: Path) -> None:
    out, file = tmp_path / "calls.svg", tmp_path / "baseline.json"
    rows = {
        "create < write": {"calls": 100.0, "kernel": {"calls": 10.0}},
        "stat": {"calls": 1.0, "kernel": {"calls": 0.0}},
        "without the other client": {"calls": 5.0},
    }
    file.write_text(json.dumps(rows))
    picture.main(["calls", str(out), str(file)])
    drawing = ElementTree.parse(out).getroot()
    texts = [element.text for element in drawing.findall(".//{*}text")]
    assert {"create < write", "stat", KERNEL, MOUNT, "100", "10", "1", "0"} <= set(texts)
    assert "without the other client" not in texts
    widths = [int(element.get("width", "0")) for element in drawing.findall(".//{*}rect")][3:]  # after paper and legend
    assert widths == [260, 520, 1, 1], "each power of ten is as long as the other, and nothing is nothing"


def _reading(**changes: Any) -> nodes.Reading:
    """One GiB from the NAS within a second."""
    some = dict.fromkeys((each.name for each in fields(nodes.Reading)), 0) | {"seconds": 1.0, "bytes": GIB}
    return nodes.Reading(**some | {"nas_bytes": GIB} | changes)


def _failing(case: nodes.Case) -> list[str]:
    return [gate.text for gate in case.gates if not gate.holds]


@pytest.mark.parametrize(("changes", "failing"), [
    ({"seconds": GIB / 600e6, "nas_bytes": 0}, []),
    ({"seconds": GIB / 580e6, "nas_bytes": 0}, ["the second node's part of its link"]),
    ({"seconds": GIB / 600e6, "nas_bytes": GIB // 50}, ["part that it had from the NAS"]),
])  # fmt: skip
def test_a_second_node_is_judged_by_its_link_and_by_what_the_nas_gave(
    changes: dict[str, Any], failing: list[str]
) -> None:
    case = nodes.Case(name="case", readings={"second node": [_reading(**changes)]})
    nodes.judge_slow_nas(case)
    assert _failing(case) == failing


@pytest.mark.parametrize(("changes", "failing"), [
    ({"seconds": 0.62, "daemons_cpu_s": 0.74}, []),
    ({"seconds": 0.65, "daemons_cpu_s": 0.74}, ["the second node's time to the first's"]),
    ({"seconds": 0.62, "daemons_cpu_s": 0.76},
     ["CPU per GiB from a worker, to 1.3 times that from the NAS into memory and the seal"]),
])  # fmt: skip
def test_a_second_node_is_judged_by_time_and_cpu_of_the_first(changes: dict[str, Any], failing: list[str]) -> None:
    first, second = _reading(daemons_cpu_s=0.6, seals_cpu_s=0.2), _reading(**changes)
    case = nodes.Case(name="case", readings={"first node": [first], "second node": [second]})
    case.readings["second node, TLS"] = [second]
    case.bare.append(
        Round(seconds=1, bytes=GIB, files=1, cpu_s=0.3, reader_cpu_s=0, memory_mib_max=0)
    )  # says what it is beside
    nodes.judge_free_links(case, seal_cpu_s=0.23)
    assert _failing(case) == failing


def test_nodes_at_once_are_judged_by_what_the_nas_gave_and_by_growth() -> None:
    """Of four nodes two had each block from the NAS, and they read no more together than three."""
    case = nodes.Case(name="case")
    for count in nodes.CROWDS:
        times = 2 if count == 4 else 1
        for link_mbit in (nodes.LINK_MBIT, nodes.SHORT_LINK_MBIT):
            shared = _reading(bytes=count * GIB, nas_bytes=times * GIB)
            case.readings[nodes.crowd(count, "empty workers", link_mbit)] = [shared]
        full = _reading(bytes=min(count, 3) * GIB)
        case.readings[nodes.crowd(count, "full workers", nodes.SHORT_LINK_MBIT)] = [full]
    nodes.judge_crowds(case)
    assert _failing(case) == [
        "times that 4 nodes had each block from the NAS, links 650 MB/s",
        "times that 4 nodes had each block from the NAS, links 100 MB/s",
        "throughput of 4 nodes to 3",
    ]
    assert [gate.only_aimed_at for gate in case.gates] == [False] * 3 + [True] * 3 + [False] * 2


def test_the_whole_command_fails_on_a_worse_count(tmp_path: Path) -> None:
    """One row, for real: against its own figures it holds, against half the calls it does not."""
    path = tmp_path / "baseline.json"
    bench = [sys.executable, "-m", "bench", "names", "--only=symlink", "--rounds=1", "--near", f"--baseline={path}"]
    bench += [f"--results={tmp_path / 'bench.json'}"]

    def run(*more: str) -> tuple[int, str]:
        done = subprocess.run([*bench, *more], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run("--write-baseline")[0] == 0
    figures = json.loads(path.read_text())["symlink"] | {"cpu_to": {}}  # a busy machine is no reason to fail
    path.write_text(json.dumps({"symlink": figures}))
    status, output = run()
    assert (status, "1 rows, 0 figures worse" in output) == (0, True), output
    path.write_text(json.dumps({"symlink": figures | {"calls": figures["calls"] / 2}}))
    status, output = run()
    assert (status, "WORSE symlink: calls" in output) == (1, True), output
