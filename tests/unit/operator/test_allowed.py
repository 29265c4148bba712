"""Which namespaces may name which sources in a Dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from csi.base.errors import Code, DriverError
from csi.config.allowed_sources import parse
from csi.config.sources import Source
from csi.operator.datasets.allowed import AllowedSources
from csi.operator.datasets.decision import decide
from csi.operator.datasets.seen import Decision, Origin, Place, Probe
from tests.unit.operator.samples import SETTINGS
from tests.unit.operator.test_decision import BOUND, dataset, fresh, made, said, settled, user

TEAM, SOURCE = "nfs://nas/data/team", "nfs://nas/data/team/x"


def listed(*sources: str, namespace: str = "default") -> AllowedSources:
    rules = [{"namespaces": [namespace], "sources": list(sources)}] if sources else []
    return AllowedSources(rules=tuple(parse(json.dumps(rules).encode())))


def test_without_a_list_all_is_allowed_and_opened_as_it_is_named() -> None:
    source = Source.parse(SOURCE)
    assert AllowedSources.of(None).root(source, namespace="any", present="") == source


def test_nothing_is_allowed_by_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    for file in (tmp_path / "missing", tmp_path / "damaged"):
        (tmp_path / "damaged").write_text("[{")
        with pytest.raises(DriverError, match="list of allowed sources") as refusal:
            AllowedSources.of(file).root(Source.parse(SOURCE), namespace="default", present="")
        assert refusal.value.code is Code.PERMISSION_DENIED
        assert str(file) in refusal.value.message


def test_the_nearest_listed_directory_is_opened_and_one_that_is_in_use_stays_while_it_is_listed() -> None:
    allowed, source = listed(TEAM, "nfs://nas/data", SOURCE), Source.parse(f"{SOURCE}/y")

    def root(present: str) -> str:
        return allowed.root(source, namespace="default", present=present).canonical()

    assert root("") == SOURCE
    assert root("nfs://nas/data") == "nfs://nas/data"
    assert root("nfs://nas/other") == SOURCE
    assert root(source.canonical()) == SOURCE, "what nobody lists is not opened by its own name"


def volume_attributes(decision: Decision) -> dict[str, str]:
    (volume,) = (one for one in decision.objects if one["kind"] == "PersistentVolume")
    found: dict[str, str] = volume["spec"]["csi"]["volumeAttributes"]
    return found


def test_a_listed_source_is_opened_from_the_listed_directory_on() -> None:
    given: dict[str, Any] = {"origin": Origin(source=SOURCE), "allowed": listed(TEAM)}
    assert decide(fresh(**given), SETTINGS).probe == Place(source=SOURCE, root=TEAM)
    reached = fresh(probe=Probe(source=SOURCE), service=settled().service, **given)
    attributes = volume_attributes(decide(reached, SETTINGS))
    assert (attributes["source"], attributes["path"]) == (TEAM, "x")


@pytest.mark.parametrize("namespace", ["default", "another"])
def test_another_source_is_refused_in_words_that_mend_it(namespace: str) -> None:
    seen = fresh(origin=Origin(source="nfs://nas/data"), allowed=listed(TEAM, namespace=namespace))
    decision = decide(seen, SETTINGS)
    assert (decision.objects, decision.probe, decision.master) == ([], None, None)
    ready = said(decision, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "SourceNotAllowed")
    assert (
        'can add {"namespaces": ["default"], "sources": ["nfs://nas/data"]} to dataset.allowedSources'
        in ready["message"]
    )
    assert ("name what lies at or beneath nfs://nas/data/team" in ready["message"]) == (namespace == "default")


def test_a_port_of_the_options_counts() -> None:
    spec = {"sharedOptions": {"port": "2050"}}
    seen = fresh(dataset=dataset(spec=spec), origin=Origin(source=SOURCE), allowed=listed(TEAM))
    assert said(decide(seen, SETTINGS), "Ready")["reason"] == "SourceNotAllowed"
    seen = fresh(dataset=dataset(spec=spec), origin=Origin(source=SOURCE))
    with_port = "nfs://nas:2050/data/team/x"
    assert decide(seen, SETTINGS).probe == Place(source=with_port, root=with_port)


def test_a_list_that_comes_later_takes_nothing_away_and_opens_anew_when_nobody_uses_it() -> None:
    bound = dataset(status={"phase": "Bound", "conditions": [BOUND]})
    refused = decide(settled(dataset=bound, allowed=listed()), SETTINGS)
    assert refused.dataset_status is not None
    assert refused.dataset_status["phase"] == "Failed"
    assert (refused.deletions, refused.objects) == ([], [])
    beneath = listed("nfs://nas/")
    used = decide(settled(dataset=bound, allowed=beneath, users=(user(),)), SETTINGS)
    assert said(used, "Updating")["reason"] == "InUse"
    assert "spec.mounts[0].mountPoint" in said(used, "Updating")["message"]
    assert made(used, "PersistentVolume") == []
    unused = decide(settled(dataset=bound, allowed=beneath), SETTINGS)
    assert said(unused, "Updating")["reason"] == "NewVolume"
