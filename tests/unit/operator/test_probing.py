"""Whose sources are tried when: with tries that are played."""

from __future__ import annotations

import asyncio

import pytest

from csi.base.children import Children
from csi.operator.datasets.probing import TRIES_MAX, Prober
from csi.operator.datasets.seen import Place


async def test_sources_that_are_silent_keep_those_of_no_other_namespace_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one namespace there may be any number, all at a NAS that does not answer."""
    tried: list[str] = []

    async def look(_self: Prober, place: Place) -> None:
        tried.append(place.source)
        if "silent" in place.source:
            await asyncio.Event().wait()

    monkeypatch.setattr(Prober, "_look", look)
    prober = Prober(Children())

    def reason(source: str, namespace: str) -> asyncio.Task[str]:
        return asyncio.create_task(prober.reason(Place(source=source, root=source), namespace=namespace))

    silent = [reason(f"nfs://silent/{number}", "one") for number in range(3 * TRIES_MAX)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert await reason("nfs://nas/data", "other") == ""
    for task in silent:
        task.cancel()
    await asyncio.gather(*silent, return_exceptions=True)
    assert len(tried) < TRIES_MAX
    async with asyncio.timeout(20):
        assert await reason("nfs://nas/data", "one") == ""
