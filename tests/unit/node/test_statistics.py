"""Reports of daemons, in the form of each release."""

from __future__ import annotations

import json

from csi._proto import efc_pb2
from csi.node.statistics import FLAT, SUBSYSTEMS, described, sort_by_subsystem


def flat_report() -> efc_pb2.DaemonStats:
    """As keepers of 0.1.0 send it, with another value in each field."""
    report = efc_pb2.DaemonStats(uptime_ms=1, resumed=True)
    for number, name in enumerate(FLAT, start=2):
        setattr(report, name, name == "nas_responding" or number)
    return report


def test_a_report_of_the_first_release_is_sorted() -> None:
    report = flat_report()
    sort_by_subsystem(report)
    for flat, (subsystem, name) in FLAT.items():
        assert getattr(getattr(report, subsystem), name) == getattr(report, flat)


def test_a_report_by_subsystem_is_taken_as_it_is() -> None:
    report = efc_pb2.DaemonStats(nfs=efc_pb2.NfsStats(calls=5), nfs_calls=7)
    sort_by_subsystem(report)
    assert (report.nfs.calls, report.HasField("fuse")) == (5, False)


def test_the_flat_names_are_all_that_the_first_release_had() -> None:
    fields = {field.name for field in efc_pb2.DaemonStats.DESCRIPTOR.fields}
    assert fields == {"uptime_ms", "resumed", "sources", *FLAT, *SUBSYSTEMS}


def test_json_has_both_forms() -> None:
    report = flat_report()
    sort_by_subsystem(report)
    shown = described(report)
    assert shown["nfs"] == {name: getattr(report.nfs, name) for name in (f.name for f in report.nfs.DESCRIPTOR.fields)}
    assert {name: shown[name] for name in FLAT} == {name: getattr(report, name) for name in FLAT}
    assert described(efc_pb2.DaemonStats())["nfs_calls"] == 0
    latency = efc_pb2.LatencyStats(bounds_us=[50], reads=[efc_pb2.Latency(of="nas", sum_us=3, buckets=[1, 0])])
    shown = json.loads(json.dumps(described(efc_pb2.DaemonStats(latency=latency))))["latency"]
    assert shown == {"bounds_us": [50], "reads": [{"of": "nas", "sum_us": 3, "buckets": [1, 0]}], "operations": []}
