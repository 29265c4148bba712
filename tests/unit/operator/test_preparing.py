"""What is prepared once for many decisions: they are those that would be made without it, whatever has changed."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from csi.config.allowed_sources import Rule
from csi.operator.datasets.allowed import AllowedSources
from csi.operator.datasets.decision import decide
from csi.operator.datasets.seen import Decision, Origin, Prepared, Secrets, Seen
from tests.unit.operator.samples import NOW, SETTINGS
from tests.unit.operator.seen import dataset, fresh, runtime, settled, with_identity


def _prepared(decision: Decision) -> Prepared:
    assert decision.prepared is not None
    return decision.prepared


def _said(decision: Decision) -> dict[str, Any]:
    """All that is decided; what is prepared is no part of it."""
    return {name: value for name, value in vars(decision).items() if name != "prepared"}


def test_the_second_decision_makes_nothing_anew() -> None:
    seen = settled()
    first = decide(seen, SETTINGS)
    again = decide(replace(seen, prepared=_prepared(first)), SETTINGS)
    assert _said(again) == _said(first)
    assert _prepared(again).wanted is _prepared(first).wanted


def _changes(seen: Seen) -> dict[str, Seen]:
    assert seen.service is not None
    other = with_identity({**dict(seen.service), "spec": {"clusterIP": "10.96.0.8"}}, "service")
    (volume,) = seen.volumes
    secrets = seen.secrets
    assert secrets.worker is not None
    damaged = {**secrets.worker, "data": {**secrets.worker["data"], "tls.key": "AAAA"}}
    sized = dataset(annotations={"pvc.fluid.io/resources.requests.storage": "5Gi"})
    return {
        "the Dataset's words": replace(seen, dataset=dataset(spec={"accessModes": ["ReadWriteMany"]})),
        "its annotations": replace(seen, dataset=sized),
        "the runtime's words": replace(seen, runtime=runtime(spec={"replicas": 5})),
        "the source": replace(seen, origin=Origin(source="nfs://nas/other")),
        "that there is none": replace(seen, origin=Origin(reason="no such claim")),
        "what is allowed": replace(seen, allowed=AllowedSources(rules=(Rule(namespaces=("x",), sources=()),))),
        "the Service's address": replace(seen, service=other),
        "the volume": replace(seen, volumes=(with_identity(dict(volume), "another"),)),
        "that there is no claim": replace(seen, claim=None),
        "a Secret": replace(seen, secrets=replace(secrets, worker=damaged)),
        "a certificate is due": replace(seen, now=seen.now + datetime.timedelta(days=300)),
    }  # fmt: skip


def test_what_a_clock_made_that_went_wrong_is_looked_at_again() -> None:
    ahead = replace(settled(), now=NOW + datetime.timedelta(days=200), secrets=Secrets())
    (authority,) = (one for one in decide(ahead, SETTINGS).objects if one["kind"] == "Secret")
    ahead = replace(ahead, secrets=Secrets(authority=with_identity(authority, "authority")))
    prepared = _prepared(decide(ahead, SETTINGS))
    put_back = replace(ahead, now=NOW)
    mended = decide(put_back, SETTINGS)
    assert [one["metadata"]["name"] for one in mended.objects if one["kind"] == "Secret"] == [
        authority["metadata"]["name"]
    ], "another authority, which signs nothing before it is stored"
    again = decide(replace(put_back, prepared=prepared), SETTINGS)
    assert len([one for one in again.objects if one["kind"] == "Secret"]) == 1


@pytest.mark.parametrize("what", _changes(settled()))
def test_what_has_changed_is_looked_at(what: str) -> None:
    """What was prepared before the change makes no difference; randomness is the only one there may be."""
    seen = settled()
    former = _prepared(decide(seen, SETTINGS))
    changed = _changes(seen)[what]
    with_former, without = (decide(replace(changed, prepared=one), SETTINGS) for one in (former, None))
    assert _prepared(with_former).wanted is not former.wanted
    names = ("deletions", "labels", "dataset_status", "runtime_status", "source", "probe", "again_seconds")
    assert {name: getattr(with_former, name) for name in names} == {name: getattr(without, name) for name in names}
    assert [one["metadata"]["name"] for one in with_former.objects] == [
        one["metadata"]["name"] for one in without.objects
    ]


def test_a_secret_that_was_deleted_is_made_anew() -> None:
    seen = settled()
    former = _prepared(decide(seen, SETTINGS))
    gone = replace(seen, secrets=replace(seen.secrets, authority=None), prepared=former)
    assert former.wanted is not None
    now_wanted = _prepared(decide(gone, SETTINGS)).wanted
    assert now_wanted is not None
    assert now_wanted.authority["data"] != former.wanted.authority["data"]


def test_identities_that_are_not_stored_yet_stay() -> None:
    """Each is made once, however many decisions there are until the API server has it."""
    seen = fresh(service=None)
    former = _prepared(decide(seen, SETTINGS))
    service = {"metadata": {"name": "s", "ownerReferences": []}, "spec": {"clusterIP": "10.96.0.7"}}
    later = _prepared(decide(replace(seen, service=service, prepared=former), SETTINGS))
    assert former.wanted is not None
    assert later.wanted is not None
    assert later.wanted is not former.wanted
    assert later.wanted.identities is former.wanted.identities
