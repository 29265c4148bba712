"""Which namespaces may name which sources in a Dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from csi.base.errors import Code, DriverError
from csi.config.allowed_sources import parse
from csi.config.sources import Source
from csi.operator.datasets.allowed import AllowedSources
from csi.operator.datasets.decision import decide
from csi.operator.datasets.seen import Decision, Origin, Place, Probe, Seen
from tests.unit.operator.samples import SETTINGS
from tests.unit.operator.seen import BOUND, dataset, fresh, made, said, settled, several, user

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


X, Y = "nfs://nas/data/team", "nfs://nas/models"


def of_both(**others: Any) -> dict[str, Any]:
    """Of a Dataset with two mounts, that has pods or had some."""
    spec = {"mounts": [{"mountPoint": X, "path": "/x"}, {"mountPoint": Y, "path": "/y"}]}
    bound = dataset(spec=spec, status={"phase": "Bound", "conditions": [BOUND]})
    source = several(x=X, y=Y)
    return {"dataset": bound, "origin": Origin(source=source), "probe": Probe(source=source)} | others


def settled_of(**others: Any) -> Seen:
    return settled(made_of=of_both(**others))


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([X], f"may not name {Y} as one of several"),
        ([Y], f"may not name {X} as one of several"),
        (["nfs://nas/"], f"may not name {X} as one of several mounts, or one with a path"),
        ([X, Y], ""),
        ([X, Y, "nfs://nas/"], ""),
    ],
)
def test_each_of_several_must_be_listed_itself(sources: list[str], words: str) -> None:
    """What lies beneath a listed source may be a link that a tenant made, and each of several is opened as it is."""
    decision = decide(settled(made_of=of_both(), allowed=listed(*sources)), SETTINGS)
    ready = said(decision, "Ready")
    assert (ready["reason"] == "SourceNotAllowed") == bool(words)
    assert words in ready["message"]
    assert (decision.master is None) == bool(words)


def test_a_single_mount_with_a_path_is_as_one_of_several() -> None:
    spec = {"mounts": [{"mountPoint": SOURCE, "path": "/x"}]}
    given: dict[str, Any] = {"dataset": dataset(spec=spec), "origin": Origin(source=several(x=SOURCE))}
    assert said(decide(fresh(allowed=listed(TEAM), **given), SETTINGS), "Ready")["reason"] == "SourceNotAllowed"
    place = several(x=SOURCE)
    assert decide(fresh(allowed=listed(SOURCE), **given), SETTINGS).probe == Place(source=place, root=place)


def test_a_port_of_the_options_counts_for_each_of_several() -> None:
    given = of_both()
    given["dataset"] = dataset(spec=given["dataset"]["spec"] | {"sharedOptions": {"port": "2050"}})
    assert said(decide(fresh(allowed=listed(X, Y), **given), SETTINGS), "Ready")["reason"] == "SourceNotAllowed"
    ported = (X.replace("nas", "nas:2050"), Y.replace("nas", "nas:2050"))
    probe = decide(fresh(allowed=listed(*ported), **given), SETTINGS).probe
    assert probe is not None
    assert probe.source == several(x=ported[0], y=ported[1])


def test_with_a_list_nodes_take_several_sources_from_the_volume_alone() -> None:
    """The master runs in the namespace of those whom the list is about."""
    allowed, other = listed(X, Y, "nfs://nas/other"), "nfs://nas/other"
    assert volume_attributes(decide(settled_of(), SETTINGS))["live-sources"] == "true"
    seen = settled_of(allowed=allowed)
    assert "live-sources" not in seen.volumes[0]["spec"]["csi"]["volumeAttributes"]
    assert said(decide(seen, SETTINGS), "Updating") == {}
    spec = {"mounts": [{"mountPoint": X, "path": "/x"}, {"mountPoint": other, "path": "/z"}]}
    bound = dataset(spec=spec, status={"phase": "Bound", "conditions": [BOUND]})
    changed = replace(seen, dataset=bound, origin=Origin(source=several(x=X, z=other)))
    used = decide(replace(changed, users=(user(),)), SETTINGS)
    assert said(used, "Updating")["reason"] == "InUse"
    assert "dataset.allowedSources" in said(used, "Updating")["message"]
    assert used.master is not None
    assert [(one.path, one.source, one.root) for one in used.master.configuration.mounts] == [
        ("/x", X, X), ("/y", Y, Y),
    ]  # fmt: skip
    assert said(decide(changed, SETTINGS), "Updating")["reason"] == "NewVolume"


def test_a_list_that_comes_later_has_several_sources_fixed_when_nobody_uses_them() -> None:
    seen = replace(settled_of(), allowed=listed(X, Y))
    assert said(decide(replace(seen, users=(user(),)), SETTINGS), "Updating")["reason"] == "InUse"
    assert said(decide(seen, SETTINGS), "Updating")["reason"] == "NewVolume"
    without = replace(settled_of(allowed=listed(X, Y)), allowed=AllowedSources())
    assert said(decide(without, SETTINGS), "Updating") == {}, "nothing is made anew because a list has gone"
