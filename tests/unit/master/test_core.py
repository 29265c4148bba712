"""What a master knows, and what follows: time is an argument, and nothing is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from csi._proto import dataset_pb2
from csi.master.core import REMEMBERED_SECONDS, SILENT_SECONDS, Core
from csi.master.totals import Counted, Line, Totals
from csi.master.window import WINDOW_SECONDS, Counts, Window
from csi.master.workers import cached_bytes

ONE, OTHER = "nfs://nas/one", "nfs://nas/other"


def report(
    node: str = "a", *, session: str = "s", total: int = 0, workers: int = 0, **fields: Any
) -> dataset_pb2.NodeReport:
    return dataset_pb2.NodeReport(
        node=node, daemon_session=session, bytes_read=total, bytes_from_workers=workers, **fields
    )


def configuration(revision: int = 1, *sources: str, **fields: Any) -> dataset_pb2.Configuration:
    mounts = [dataset_pb2.SourceMount(source=source) for source in sources]
    return dataset_pb2.Configuration(revision=revision, uid="u", mounts=mounts, **fields)


# ------------------------------------------------------------ the window


def test_what_a_node_had_read_before_it_came_is_not_counted() -> None:
    window = Window()
    window.count("a", "s", Counts(100, 0, 50), now=0)
    assert window.sum(0) == Counts()
    window.count("a", "s", Counts(110, 0, 55), now=1)
    assert window.sum(1) == Counts(10, 0, 5)


def test_another_session_counts_from_0() -> None:
    window = Window()
    window.count("a", "s", Counts(100), now=0)
    window.count("a", "t", Counts(30), now=1)
    assert window.sum(1) == Counts(30)
    window.count("a", "", Counts(), now=2)  # not known yet
    window.count("a", "t", Counts(35), now=3)
    assert window.sum(3) == Counts(35)


def test_bytes_leave_the_window_in_time() -> None:
    window = Window()
    for at, total in ((0, 0), (1, 10), (2, 20), (100, 50)):
        window.count("a", "s", Counts(total), now=at)
    assert window.sum(100) == Counts(50)
    assert window.next_change(100) == 1 + WINDOW_SECONDS
    assert window.sum(1 + WINDOW_SECONDS) == Counts(30)
    assert window.sum(100 + WINDOW_SECONDS) == Counts()
    assert window.next_change(500) is None


def test_nodes_are_added_up_and_a_node_that_was_forgotten_begins_anew() -> None:
    window = Window()
    for node in ("a", "b"):
        window.count(node, "s", Counts(), now=0)
        window.count(node, "s", Counts(7, 2, 3), now=1)
    assert window.sum(1) == Counts(14, 4, 6)
    window.forget("a")
    window.count("a", "s", Counts(1000), now=2)
    assert window.sum(2) == Counts(14, 4, 6)


def test_a_window_is_saved() -> None:
    window = Window()
    window.count("a", "s", Counts(), now=0)
    window.count("a", "s", Counts(7, 2, 3), now=1)
    restored = Window.restored(json.loads(json.dumps(window.saved())))
    restored.count("a", "s", Counts(8, 2, 3), now=2)
    assert restored.sum(2) == Counts(8, 2, 3)


@pytest.mark.parametrize(
    "saved", [None, [], {}, {"last": {}}, {"last": {"a": []}, "buckets": []}, {"last": {}, "buckets": [1]}]
)
def test_a_window_that_makes_no_sense_is_empty(saved: object) -> None:
    assert Window.restored(saved).sum(0) == Counts()


# ------------------------------------------------------------ totals


def counting(*sources: str) -> Totals:
    totals = Totals()
    totals.configure(sources, b"")
    return totals


def test_mounts_are_walked_in_order_and_added_up() -> None:
    totals = counting(ONE, OTHER)
    walk = totals.begin(0)
    assert (walk.source, walk.checkpoint) == (ONE, "")
    totals.progress(walk, Counted(bytes=5, files=1, directories=1, checkpoint="p"), is_done=False, now=1)
    figures = totals.figures()
    assert (figures.bytes, figures.files, figures.known, figures.directories_done) == (5, 1, False, 1)
    totals.progress(walk, Counted(bytes=10, files=2, directories=3), is_done=True, now=2)
    walk = totals.begin(2)
    assert walk.source == OTHER
    totals.progress(walk, Counted(bytes=1, files=1, directories=1), is_done=True, now=4)
    figures = totals.figures()
    assert (figures.bytes, figures.files, figures.known, figures.directories_done) == (11, 3, True, 0)


def test_totals_that_are_known_stay_until_all_is_counted_again() -> None:
    totals = counting(ONE)
    totals.progress(totals.begin(0), Counted(bytes=10, files=2), is_done=True, now=4)
    assert totals.due(every_seconds=600, now=5) == 604
    walk = totals.begin(604)
    totals.progress(walk, Counted(bytes=1, directories=9, checkpoint="p"), is_done=False, now=605)
    figures = totals.figures()
    assert (figures.bytes, figures.known, figures.directories_done) == (10, True, 9)
    totals.progress(walk, Counted(bytes=20, files=2), is_done=True, now=606)
    assert totals.figures().bytes == 20


@pytest.mark.parametrize(("took", "due"), [(0.01, 2.0), (1.0, 20.0)])
def test_changes_bring_the_next_walk_forward(took: float, due: float) -> None:
    totals = counting(ONE)
    totals.note_changes("a", "s", 5)
    totals.progress(totals.begin(0), Counted(), is_done=True, now=took)
    totals.note_changes("a", "s", 5)
    assert totals.due(every_seconds=600, now=1) == took + 600
    totals.note_changes("a", "s", 6)
    assert totals.due(every_seconds=600, now=1) == pytest.approx(took + due)
    totals.progress(totals.begin(took + due), Counted(), is_done=True, now=took + due)
    assert totals.due(every_seconds=600, now=took + due) == took + due + 600


def test_a_walk_goes_on_after_a_restart() -> None:
    totals = counting(ONE, OTHER)
    totals.progress(totals.begin(0), Counted(bytes=10, files=2), is_done=True, now=1)
    totals.progress(totals.begin(1), Counted(bytes=1, files=1, checkpoint="p"), is_done=False, now=2)
    later = Totals()
    later.configure([ONE, OTHER], totals.figures().checkpoint)
    assert later.due(every_seconds=600, now=100) == 100
    walk = later.begin(100)
    assert (walk.source, walk.checkpoint) == (OTHER, "p")
    later.progress(walk, Counted(bytes=2, files=2), is_done=True, now=101)
    assert (later.figures().bytes, later.figures().known) == (12, True)
    others = Totals()
    others.configure([OTHER], totals.figures().checkpoint)
    assert others.figures().bytes == 0


def test_a_walk_that_fails_goes_on_later_and_without_a_checkpoint_that_is_refused() -> None:
    totals = counting(ONE)
    walk = totals.begin(0)
    totals.progress(walk, Counted(bytes=1, checkpoint="p"), is_done=False, now=1)
    totals.fail(walk, "the NAS does not answer", is_checkpoint_bad=False, now=2)
    assert totals.figures().reason == "the NAS does not answer"
    assert totals.due(every_seconds=600, now=2) == 4
    walk = totals.begin(4)
    assert walk.checkpoint == "p"
    totals.fail(walk, "refused", is_checkpoint_bad=True, now=5)
    assert totals.due(every_seconds=600, now=5) == 9
    assert totals.begin(9).checkpoint == ""
    for _ in range(20):
        totals.fail(walk, "still", is_checkpoint_bad=False, now=10)
    assert totals.due(every_seconds=600, now=10) == 70


def test_a_walk_of_former_mounts_counts_nothing() -> None:
    totals = counting(ONE)
    walk = totals.begin(0)
    totals.configure([OTHER], b"")
    totals.progress(walk, Counted(bytes=10), is_done=True, now=1)
    assert (totals.figures().bytes, totals.figures().known) == (0, False)


def test_what_the_owner_may_not_see_is_told() -> None:
    totals = counting(ONE)
    totals.progress(totals.begin(0), Counted(skipped=3), is_done=True, now=1)
    assert "spec.owner" in totals.figures().reason


@pytest.mark.parametrize(
    "checkpoint", [b"", b"{}", b"[]", b"\xff", b'{"version":1,"sources":["nfs://nas/one"],"known":3}']
)
def test_a_checkpoint_that_makes_no_sense_is_none(checkpoint: bytes) -> None:
    totals = Totals()
    totals.configure([ONE], checkpoint)
    assert totals.begin(0).checkpoint == ""


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"1", b"nonsense", b'{"bytes":"x","files":1,"directories":1,"done":true}']
)
def test_a_line_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        Line.parse(text)


# ------------------------------------------------------------ configuration, orders, figures


def test_only_newer_configurations_are_taken() -> None:
    core = Core()
    assert core.orders() is None
    assert core.configure(configuration(2, ONE))
    assert not core.configure(configuration(2, OTHER))
    assert not core.configure(configuration(1, OTHER))
    assert core.totals.sources == [ONE]


def test_orders_are_new_only_when_they_say_something_else() -> None:
    core = Core()
    worker = dataset_pb2.Worker(name="w", address="h:1")
    core.configure(configuration(1, ONE, workers=[worker], orders=dataset_pb2.Orders(options={"ro": ""})))
    first = core.orders()
    assert first is not None
    assert (first.revision, list(first.workers), dict(first.options)) == (1, [worker], {"ro": ""})
    core.configure(configuration(2, OTHER, workers=[worker], orders=dataset_pb2.Orders(options={"ro": ""})))
    assert core.orders() is first
    core.configure(configuration(3, OTHER, orders=dataset_pb2.Orders(options={"ro": ""})))
    assert core.orders() == dataset_pb2.Orders(revision=3, options={"ro": ""})


def test_nodes_are_remembered_for_a_while() -> None:
    core, old, new = Core(), object(), object()
    core.report(report(volumes=2, serving=True), old, now=0)
    core.report(report(volumes=3, serving=True, conditions=["c"]), new, now=1)
    core.lost(old, now=2)
    (node,) = core.figures(3).nodes
    assert node == dataset_pb2.NodeFigures(node="a", volumes=3, serving=True, connected=True, conditions=["c"])
    core.lost(new, now=4)
    (node,) = core.figures(5).nodes
    assert (node.volumes, node.connected) == (3, False)
    assert core.next_change(5) == 4 + REMEMBERED_SECONDS
    assert core.figures(4 + REMEMBERED_SECONDS).nodes
    assert not core.figures(4 + REMEMBERED_SECONDS + 1).nodes


def test_a_node_that_says_nothing_is_not_connected() -> None:
    core = Core()
    core.report(report(), object(), now=0)
    assert core.next_change(1) == SILENT_SECONDS
    assert core.figures(SILENT_SECONDS).nodes[0].connected
    assert not core.figures(SILENT_SECONDS + 1).nodes[0].connected
    assert not core.figures(REMEMBERED_SECONDS + 1).nodes


def test_figures_of_workers_are_those_of_the_configured_ones() -> None:
    core = Core()
    workers = [dataset_pb2.Worker(name=name, capacity_bytes=10) for name in ("v", "w")]
    core.configure(configuration(1, ONE, workers=workers))
    core.worker_answered("v", 7)
    core.worker_answered("w", 8)
    core.worker_silent("w")
    assert list(core.figures(0).workers) == [
        dataset_pb2.WorkerFigures(name="v", cached_bytes=7, capacity_bytes=10, reachable=True),
        dataset_pb2.WorkerFigures(name="w", capacity_bytes=10),
    ]
    core.configure(configuration(2, ONE, workers=workers[1:]))
    assert [worker.name for worker in core.figures(0).workers] == ["w"]


def test_figures_come_back_after_a_restart() -> None:
    core = Core()
    core.configure(configuration(1, ONE))
    core.totals.progress(core.totals.begin(0), Counted(bytes=10, files=2), is_done=True, now=1)
    core.report(report(), object(), now=1)
    core.report(report(total=9, workers=4), object(), now=2)
    later = Core()
    later.restore(core.saved())
    later.configure(configuration(7, ONE))
    later.report(report(total=10, workers=5), object(), now=3)
    figures = later.figures(3)
    assert (figures.totals.bytes, figures.totals.known) == (10, True)
    assert (figures.read.total, figures.read.from_workers) == (10, 5)


def test_a_walk_that_was_under_way_waits_for_the_configuration() -> None:
    core = Core()
    core.configure(configuration(1, ONE))
    core.totals.progress(core.totals.begin(0), Counted(bytes=1, checkpoint="p"), is_done=False, now=1)
    later = Core(watchers=1)
    later.restore(core.saved())
    assert later.walk_due(2) is None
    later.configure(configuration(1, ONE))
    assert later.walk_due(2) == 2
    assert later.totals.begin(2).checkpoint == "p"


def _saved_totals(**known: object) -> bytes:
    counted = {"bytes": 0, "files": 0, "directories": 0, "skipped": 0, "checkpoint": ""} | known
    totals = {"version": 1, "sources": [ONE], "known": counted, "finished": [], "current": counted}
    return json.dumps({"totals": json.dumps(totals)}).encode()


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"[]",
        b"{}",
        b"{",
        b'{"totals":"x"}',
        b'{"totals":"[]","window":3}',
        b'{"window":{"last":[],"buckets":[]}}',
        b'{"window":{"last":{"a":["s",1e999,0,0]},"buckets":[]}}',
        b'{"window":{"last":{},"buckets":[[1,-5,0,0]]}}',
        b'{"window":{"last":{},"buckets":[[1,0,0,99999999999999999999]]}}',
        _saved_totals(bytes=-1),
        _saved_totals(files=1 << 64),
        _saved_totals(bytes=1.5),
    ],
)
def test_a_state_that_makes_no_sense_is_nothing(saved: bytes) -> None:
    core = Core()
    core.restore(saved)
    core.configure(configuration(1, ONE))
    assert core.figures(0).totals.bytes == 0


def test_what_a_nas_claims_can_be_told() -> None:
    """Of several mounts together it may be more than a message can say."""
    core = Core()
    core.configure(configuration(1, ONE, OTHER))
    for _ in range(2):
        core.totals.progress(core.totals.begin(0), Counted(bytes=(1 << 64) - 1, files=1), is_done=True, now=1)
    assert core.figures(2).totals == dataset_pb2.Totals(
        bytes=(1 << 64) - 1, files=2, known=True, checkpoint=core.totals.saved()
    )


def test_a_node_that_claims_to_be_many_costs_no_more_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csi.master.core.NODES_MAX", 3)
    core = Core()
    for number in range(10):
        core.report(report(f"n{number}"), object(), now=0)
    core.report(report("n0", volumes=7), object(), now=1)
    nodes = core.figures(2).nodes
    assert [node.node for node in nodes] == ["n0", "n1", "n2"]
    assert nodes[0].volumes == 7
    core.figures(SILENT_SECONDS + REMEMBERED_SECONDS + 2)
    core.report(report("n9"), object(), now=1000)
    assert [node.node for node in core.figures(1000).nodes] == ["n9"]
    assert [*core.totals._changes] == ["n9"], "of a node that is gone nothing is kept"


@pytest.mark.parametrize("said", [{"conditions": ["w" * 1000] * 8}, {"sources": "s" * 20_000}])
def test_figures_of_many_nodes_can_still_be_taken(said: dict[str, Any]) -> None:
    """An operator takes 4 MiB in one message: rather without words than not at all."""
    core = Core()
    for number in range(1000):
        core.report(report(f"n{number}", volumes=1, serving=True, **said), object(), now=0)
    figures = core.figures(1)
    assert figures.ByteSize() < 4 << 20
    assert len(figures.nodes) == 1000
    assert all(node.serving and bool(node.sources) == ("sources" in said) for node in figures.nodes)


def test_secrets_are_not_saved() -> None:
    core = Core()
    secrets = dataset_pb2.Secrets(block_key=b"K" * 32, private_key=b"PRIVATE")
    core.configure(configuration(1, ONE, orders=dataset_pb2.Orders(secrets=secrets)))
    assert b"PRIVATE" not in core.saved()
    assert b"KKKK" not in core.saved()


def test_walks_are_as_often_as_it_is_said() -> None:
    core = Core(watchers=1)
    assert core.walk_due(0) is None
    core.configure(configuration(1, ONE, walk_every_ms=5000))
    core.totals.progress(core.totals.begin(0), Counted(), is_done=True, now=10)
    assert core.walk_due(11) == 15
    core.configure(configuration(2, ONE))
    assert core.walk_due(11) == 610


def test_padding_of_blocks_is_not_cached() -> None:
    """Of 64 blocks, as memcached counts them with its heads."""
    assert abs(cached_bytes({"bytes": str(64 * (65 * 16320 + 96))}) - 64 * (1 << 20)) <= 64
    assert cached_bytes({"bytes": "0"}) == 0
    for stats in ({}, {"bytes": "x"}):
        with pytest.raises(ValueError):
            cached_bytes(stats)


def test_what_is_known_of_a_source_is_not_said_of_another() -> None:
    core = Core()
    core.configure(configuration(1, ONE))
    core.source = dataset_pb2.Reachability(known=True, reachable=True)
    core.configure(configuration(2, ONE, workers=[dataset_pb2.Worker(name="w")]))
    assert core.figures(0).source.known
    core.configure(configuration(3, OTHER))
    assert not core.figures(0).source.known
