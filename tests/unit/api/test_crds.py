"""deploy/crds.yaml is what the models make, and a superset of Fluid's CRDs, whose fields stand in fluid_fields.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from csi.api import crds
from tests.support.paths import ROOT

FLUIDS = (Path(__file__).parent / "fluid_fields.txt").read_text().splitlines()[1:]
#: Limits that Fluid's do not have: what the rules cost depends on them. Nobody comes near them.
_LIMITS = {"maxItems": 12, "maxLength": 512}


def _fields(schema: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """The schema of each field within, by its path."""
    found = {path: schema}
    for name, inner in schema.get("properties", {}).items():
        found |= _fields(inner, f"{path}.{name}")
    if "items" in schema:
        found |= _fields(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        found |= _fields(schema["additionalProperties"], f"{path}{{}}")
    return found


_OURS = {
    (crd["spec"]["names"]["plural"], path): schema
    for crd in crds.crds()
    for path, schema in _fields(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "").items()
}


def test_the_committed_file_is_the_one_of_the_models() -> None:
    assert (ROOT / "deploy" / "crds.yaml").read_text() == crds.text(), "run python -m csi.api.crds > deploy/crds.yaml"


def test_the_committed_file_is_read_back_as_it_was() -> None:
    assert list(yaml.safe_load_all((ROOT / "deploy" / "crds.yaml").read_text())) == crds.crds()


@pytest.mark.parametrize("plural", ["datasets", "efcruntimes"])
def test_every_field_of_fluids_is_there_and_no_narrower(plural: str) -> None:
    seen = set()
    for line in FLUIDS:
        kind, path, type_, *limits = line.split(" ")
        if kind != plural:
            continue
        seen.add(path)
        ours = _OURS[kind, path]
        assert ("quantity" if ours.get("x-kubernetes-int-or-string") else ours["type"]) == type_, line
        theirs = dict(limit.split("=", 1) for limit in limits)
        assert str(ours.get("format", "")) == theirs.get("format", ""), line
        assert str(ours.get("default", "")) == theirs.get("default", ""), line
        assert "enum" not in ours or set(theirs["enum"].split("|")) <= set(ours["enum"]), line
        assert set(ours.get("required", [])) <= set(theirs.get("required", "").split("|")), line
        for limit in ("minimum", "minLength", "minItems"):
            assert ours.get(limit, 0) <= int(theirs.get(limit, 0)), line
        assert all(ours.get(limit, least) >= least for limit, least in _LIMITS.items()), line
    assert len(seen) > 70


def test_what_is_more_than_fluids() -> None:
    theirs = {tuple(line.split(" ")[:2]) for line in FLUIDS}
    more = {f"{kind} {path}" for kind, path in _OURS if (kind, path) not in theirs}
    assert {entry for entry in more if ".resources." not in entry and ".volumeSource." not in entry} == {
        f"{kind} {path}"
        for kind in ("datasets", "efcruntimes")
        for path in ("", ".apiVersion", ".kind", ".metadata", ".status.observedGeneration")
    } | {f"efcruntimes .status.workers{path}" for path in ("", "[]", "[].name", "[].cached")}


def test_every_field_is_described() -> None:
    """`kubectl explain` says something of each field of ours, and of each group."""
    nameless = [
        f"{kind} {path}"
        for (kind, path), schema in _OURS.items()
        if path.startswith((".spec", ".status")) and not path.endswith(("[]", "{}")) and "description" not in schema
    ]
    parts = (".resources.", ".volumeSource.", ".required.", ".tolerations[].", ".cacheAffinity.")
    assert [entry for entry in nameless if not any(part in entry for part in parts)] == []


def test_names_columns_and_subresources() -> None:
    dataset, runtime = crds.crds()
    assert dataset["spec"]["names"]["shortNames"] == ["dataset"]
    assert runtime["spec"]["names"]["shortNames"] == ["efc"]
    assert {crd["spec"]["names"]["categories"][0] for crd in (dataset, runtime)} == {"fluid"}
    version = runtime["spec"]["versions"][0]
    columns = [
        (column["name"], column["jsonPath"], column.get("priority", 0))
        for column in version["additionalPrinterColumns"]
    ]
    assert columns == [
        ("Ready Masters", ".status.masterNumberReady", 10),
        ("Desired Masters", ".status.desiredMasterNumberScheduled", 10),
        ("Master Phase", ".status.masterPhase", 0),
        ("Ready Workers", ".status.workerNumberReady", 10),
        ("Desired Workers", ".status.desiredWorkerNumberScheduled", 10),
        ("Worker Phase", ".status.workerPhase", 0),
        ("Ready Fuses", ".status.fuseNumberReady", 10),
        ("Desired Fuses", ".status.desiredFuseNumberScheduled", 10),
        ("Fuse Phase", ".status.fusePhase", 0),
        ("Age", ".metadata.creationTimestamp", 0),
    ]
    assert version["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
