"""The operator's connection to a master, with the real program at the other end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from csi._proto import dataset_pb2
from csi.master import serving
from csi.master.service import MasterService
from csi.operator import masters
from csi.operator.masters import Master, Masters
from tests.support.master import Authority, DatasetMaster


@pytest.fixture
def authority() -> Iterator[Authority]:
    """A Dataset's authority, as in its Secret."""
    with Authority.made() as made:
        yield made


@pytest.fixture
def program(authority: Authority) -> Iterator[DatasetMaster]:
    """Its master."""
    with DatasetMaster(authority=authority) as running:
        yield running


def wanted(program: DatasetMaster, authority: Authority, *workers: str) -> Master:
    configuration = dataset_pb2.Configuration(
        dataset="shop/data",
        uid=program.uid,
        workers=[dataset_pb2.Worker(name=name, address="127.0.0.1:1", capacity_bytes=1) for name in workers],
    )
    files = dict(authority.files)
    return Master(address=f"127.0.0.1:{program.port}", authority=files, configuration=configuration)


async def until(condition: Callable[[], bool], *, limit_s: float = 20) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # of what tells nobody
            await asyncio.sleep(0.01)


def workers_of(talking: Masters, uid: str) -> list[str]:
    figures = talking.figures.get(uid, dataset_pb2.Figures())
    return [worker.name for worker in figures.workers]


async def test_a_change_reaches_the_master_and_its_figures_come_back(
    program: DatasetMaster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masters, "_RETRY_SECONDS_MAX", 0.5)
    told: list[str] = []
    talking = Masters(lambda uid, _: told.append(uid))
    try:
        talking.set(program.uid, wanted(program, authority, "w-0"))
        await until(lambda: workers_of(talking, program.uid) == ["w-0"])
        assert talking.is_connected(program.uid)
        first = talking.figures[program.uid].revision
        talking.set(program.uid, wanted(program, authority, "w-0", "w-1"))
        await until(lambda: workers_of(talking, program.uid) == ["w-0", "w-1"])
        assert talking.figures[program.uid].revision > first
        # Said again, it is no change.
        second = talking.figures[program.uid].revision
        talking.set(program.uid, wanted(program, authority, "w-0", "w-1"))
        await asyncio.sleep(0.3)
        assert talking.figures[program.uid].revision == second
        assert set(told) == {program.uid}

        program.stop()
        await until(lambda: not talking.is_connected(program.uid))
        assert workers_of(talking, program.uid) == ["w-0", "w-1"]  # what is known stays
        program.start()
        await until(lambda: talking.is_connected(program.uid) and talking.figures[program.uid].revision > second)
        talking.forget(program.uid)
        assert program.uid not in talking.figures
    finally:
        talking.close()


async def test_a_master_of_another_authority_is_not_believed(program: DatasetMaster, authority: Authority) -> None:
    talking = Masters(lambda *_: None)
    with Authority.made() as stranger:
        try:
            talking.set(program.uid, wanted(program, stranger, "w-0"))
            await asyncio.sleep(1.5)
            assert not talking.is_connected(program.uid)
            assert program.uid not in talking.figures
            talking.set(program.uid, wanted(program, authority, "w-0"))
            await until(lambda: talking.is_connected(program.uid))
        finally:
            talking.close()


async def test_what_a_worker_held_that_does_not_answer_now_it_still_holds() -> None:
    talking = Masters(lambda *_: None)

    def figures(cached: int, *, reachable: bool) -> dataset_pb2.Figures:
        worker = dataset_pb2.WorkerFigures(name="w-0", cached_bytes=cached, reachable=reachable)
        return dataset_pb2.Figures(workers=[worker])

    talking.came("uid", figures(500, reachable=True))
    talking.came("uid", figures(0, reachable=False))
    assert talking.figures["uid"].workers[0].cached_bytes == 500
    talking.came("uid", figures(100, reachable=True))
    assert talking.figures["uid"].workers[0].cached_bytes == 100


async def test_what_only_figures_changed_in_can_wait() -> None:
    told: list[bool] = []
    talking = Masters(lambda _, is_urgent: told.append(is_urgent))
    node = dataset_pb2.NodeFigures(node="n1", serving=True)
    worded = dataset_pb2.NodeFigures(node="n1", serving=True, conditions=["its store has 17 MiB free"])
    for figures in (
        dataset_pb2.Figures(nodes=[node]),
        dataset_pb2.Figures(nodes=[node], read=dataset_pb2.ReadFigures(total=1)),
        dataset_pb2.Figures(nodes=[node], read=dataset_pb2.ReadFigures(total=1)),
        dataset_pb2.Figures(nodes=[worded], read=dataset_pb2.ReadFigures(total=1)),
        dataset_pb2.Figures(nodes=[], read=dataset_pb2.ReadFigures(total=1)),
        dataset_pb2.Figures(totals=dataset_pb2.Totals(known=True)),
    ):
        talking.came("uid", figures)
    assert told == [True, False, False, True, True]


async def test_figures_past_all_measure_take_no_memory() -> None:
    """Whoever reads Secrets in a namespace can pass for the masters of all its Datasets."""
    talking = Masters(lambda *_: None)
    node = dataset_pb2.NodeFigures(node="n1", serving=True, conditions=["w" * (3 << 20)])
    talking.came("uid", dataset_pb2.Figures(nodes=[node], totals=dataset_pb2.Totals(checkpoint=b"c" * (1 << 20))))
    kept = talking.figures["uid"]
    assert (kept.nodes[0].serving, kept.ByteSize() < 100) == (True, True)
    assert talking.checkpoint("uid") == b""
    endless = dataset_pb2.Figures(source=dataset_pb2.Reachability(known=True, reason="r" * (3 << 20)))
    talking.came("uid", endless)
    assert talking.figures["uid"] == kept


async def test_a_master_that_hangs_is_noticed_by_pings(
    program: DatasetMaster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masters, "_KEEPALIVE_MS", 5500)  # a master takes no more than one in 5 s
    monkeypatch.setattr(masters, "_PING_MS_MAX", 500)
    talking = Masters(lambda *_: None)
    try:
        talking.set(program.uid, wanted(program, authority))
        await until(lambda: talking.is_connected(program.uid))
        await asyncio.sleep(2)  # until nothing is said any more
        os.kill(program.pid, signal.SIGSTOP)
        # gRPC's own limit for the answer to a ping is a minute.
        await until(lambda: not talking.is_connected(program.uid), limit_s=40)
    finally:
        os.kill(program.pid, signal.SIGCONT)
        talking.close()


async def test_a_master_that_says_figures_without_end_is_listened_to_twice_a_second(
    program: DatasetMaster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else who has its certificate may do so."""
    listened = 0
    came = Masters.came

    def count(self: Masters, uid: str, figures: dataset_pb2.Figures) -> None:
        nonlocal listened
        listened += 1
        came(self, uid, figures)

    async def flood(self: MasterService, _request: object, _context: object) -> AsyncIterator[dataset_pb2.Figures]:
        del self
        number = 0
        while True:
            number += 1
            strangers = [dataset_pb2.WorkerFigures(name=name) for name in ("w-0", "nobody's")]
            yield dataset_pb2.Figures(read=dataset_pb2.ReadFigures(total=number), workers=strangers)

    monkeypatch.setattr(Masters, "came", count)
    monkeypatch.setattr(MasterService, "WatchFigures", flood)
    pauses: list[float] = []
    real = asyncio.sleep

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    program.stop()
    talking = Masters(lambda *_: None)
    listen, state = f"127.0.0.1:{program.port}", program.folder / "flooding"
    async with serving.Master(listen=listen, tls=authority.signed("master"), state=state):
        talking.set(program.uid, wanted(program, authority, "w-0"))
        await until(lambda: talking.is_connected(program.uid))
        monkeypatch.setattr("csi.operator.masters.asyncio.sleep", pause)
        before = listened
        async with asyncio.timeout(20):
            while listened < before + 100:
                await real(0.01)
        assert pauses.count(masters._FIGURES_SECONDS_MIN) >= listened - before - 1
        assert workers_of(talking, program.uid) == ["w-0"]
        talking.close()
