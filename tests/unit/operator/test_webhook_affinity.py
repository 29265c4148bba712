"""What the webhook makes of a pod: what it says itself holds on, also by what a scheduler makes of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.operator.names import WORKER_ROLE, Names
from csi.operator.webhook.affinity import (
    OPT_OUT_LABEL,
    PLACED_LABEL,
    SIDECAR_LABEL,
    Admitted,
    Refused,
    claims,
    mutate,
)

NAMES = ("data", "more", "a.b")
DATASETS = {name: Names(namespace="team", name=name, uid=f"uid-{name}") for name in NAMES}
REQUIRED_TERMS = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED_TERMS = "preferredDuringSchedulingIgnoredDuringExecution"
NODES = ("n1", "n2", "n3")
LABELS = ({"app": "x"}, {"app": "y"}, DATASETS["data"].selector(WORKER_ROLE), DATASETS["more"].selector(WORKER_ROLE))

Pod = dict[str, Any]


def pod(labels: dict[str, str], *claimed: str, affinity: object = None) -> Pod:
    volumes = [{"name": name.replace(".", "-"), "persistentVolumeClaim": {"claimName": name}} for name in claimed]
    spec: Pod = {"volumes": volumes}
    if affinity is not None:
        spec["affinity"] = affinity
    return {"metadata": {"name": "p", "labels": labels}, "spec": spec}


def required(name: str) -> str:
    return f"fluid.io/dataset.{name}.sched"


def patched(subject: Pod, datasets: dict[str, Names] | None = None) -> Pod:
    """The pod as the API server goes on with it: adding a member replaces one that is there (RFC 6902, 4.1)."""
    decision = mutate(subject, DATASETS if datasets is None else datasets)
    assert isinstance(decision, Admitted)
    result = copy.deepcopy(subject)
    for operation in json.loads(json.dumps(decision.patch)):
        assert (operation["op"], operation["path"]) == ("add", "/spec/affinity")
        result["spec"]["affinity"] = operation["value"]
    return result


def workers_term(name: str) -> Pod:
    return {
        "labelSelector": {"matchLabels": DATASETS[name].selector(WORKER_ROLE)},
        "topologyKey": "kubernetes.io/hostname",
    }


# ------------------------------------------------------------ one by one


def test_a_labelled_pod_prefers_the_workers_of_each_of_its_datasets() -> None:
    affinity = patched(pod({PLACED_LABEL: "true"}, "data", "none", "more"))["spec"]["affinity"]
    wanted = [{"weight": 100, "podAffinityTerm": workers_term(name)} for name in ("data", "more")]
    assert affinity == {"podAffinity": {PREFERRED_TERMS: wanted}}


def test_required_is_said_of_one_dataset() -> None:
    affinity = patched(pod({PLACED_LABEL: "true", required("a.b"): "required"}, "data", "a.b"))["spec"]["affinity"]
    assert affinity == {
        "podAffinity": {
            REQUIRED_TERMS: [workers_term("a.b")],
            PREFERRED_TERMS: [{"weight": 100, "podAffinityTerm": workers_term("data")}],
        }
    }


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {PLACED_LABEL: "false"},
        {PLACED_LABEL: "true", OPT_OUT_LABEL: "false"},
        {SIDECAR_LABEL: "true", OPT_OUT_LABEL: "false"},
        {required("data"): "required"},
    ],
)
def test_others_stay_as_they_are(labels: dict[str, str]) -> None:
    assert mutate(pod(labels, "data"), DATASETS) == Admitted()


def test_without_a_dataset_nothing_changes() -> None:
    assert mutate(pod({PLACED_LABEL: "true"}, "claim"), {}) == Admitted()
    assert mutate({"metadata": {"labels": {PLACED_LABEL: "true"}}, "spec": {}}, {}) == Admitted()


def test_a_dataset_of_another_runtime_is_left_to_others() -> None:
    labels = {PLACED_LABEL: "true", required("data"): "required"}
    assert mutate(pod(labels, "data"), {"data": None}) == Admitted()


def test_a_sidecar_is_refused_with_what_to_do() -> None:
    for labels in ({SIDECAR_LABEL: "true"}, {SIDECAR_LABEL: "true", PLACED_LABEL: "true"}):
        decision = mutate(pod(labels, "data"), DATASETS)
        assert isinstance(decision, Refused)
        assert "no sidecars here. Remove the label" in decision.reason


def test_a_required_dataset_that_is_not_there_is_refused() -> None:
    decision = mutate(pod({PLACED_LABEL: "true", required("gone"): "required"}, "data"), DATASETS)
    assert isinstance(decision, Refused)
    assert f"{required('gone')}: the pod has no claim 'gone'" in decision.reason


def test_a_pod_that_comes_again_stays() -> None:
    once = patched(pod({PLACED_LABEL: "true", required("more"): "required"}, "data", "more"))
    assert mutate(once, DATASETS) == Admitted()


def test_claims_are_names_of_objects() -> None:
    assert claims(pod({}, "b", "a", "b", "../x", "", "X", "a/b", "x" * 253, "x" * 254)) == ("b", "a", "x" * 253)
    assert claims({"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "e", "ephemeral": {}}]}}) == ()


# ------------------------------------------------------------ for all affinities, by a scheduler's rules


def expressions() -> st.SearchStrategy[Pod]:
    return st.fixed_dictionaries(
        {
            "key": st.sampled_from(["kubernetes.io/hostname"]),
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(st.sampled_from(NODES), min_size=1, max_size=2),
        }
    )


def node_terms() -> st.SearchStrategy[Pod]:
    """Terms of a node affinity; one without expressions is for no node."""
    return st.lists(expressions(), max_size=2).map(lambda found: {"matchExpressions": found} if found else {})


def pod_terms() -> st.SearchStrategy[Pod]:
    return st.sampled_from(LABELS).map(
        lambda labels: {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    )


def between_pods() -> st.SearchStrategy[Pod | None]:
    weighted = st.fixed_dictionaries({"weight": st.integers(1, 100), "podAffinityTerm": pod_terms()})
    return st.none() | st.fixed_dictionaries(
        {},
        optional={
            REQUIRED_TERMS: st.none() | st.lists(pod_terms(), max_size=2),
            PREFERRED_TERMS: st.none() | st.lists(weighted, max_size=2),
        },
    )


def affinities() -> st.SearchStrategy[Pod | None]:
    terms = st.lists(node_terms(), min_size=1, max_size=2)
    to_nodes = st.fixed_dictionaries({REQUIRED_TERMS: st.fixed_dictionaries({"nodeSelectorTerms": terms})})
    return st.none() | st.fixed_dictionaries(
        {},
        optional={
            "nodeAffinity": st.none() | to_nodes,
            "podAffinity": between_pods(),
            "podAntiAffinity": between_pods(),
        },
    )


def clusters() -> st.SearchStrategy[dict[str, list[dict[str, str]]]]:
    """Nodes -> labels of the pods there."""
    return st.fixed_dictionaries({node: st.lists(st.sampled_from(LABELS), max_size=2) for node in NODES})


def fits(affinity: Pod | None, node: str, present: list[dict[str, str]]) -> bool:
    """Whether a scheduler may place a pod on the node, by what the API's reference says of each field."""
    affinity = affinity or {}
    to_nodes = (affinity.get("nodeAffinity") or {}).get(REQUIRED_TERMS)
    if to_nodes and not any(node_fits(term, node) for term in to_nodes["nodeSelectorTerms"]):
        return False
    with_pods = (affinity.get("podAffinity") or {}).get(REQUIRED_TERMS) or ()
    without_pods = (affinity.get("podAntiAffinity") or {}).get(REQUIRED_TERMS) or ()
    return all(is_there(term, present) for term in with_pods) and not any(
        is_there(term, present) for term in without_pods
    )


def node_fits(term: Pod, node: str) -> bool:
    found = term.get("matchExpressions") or ()
    return bool(found) and all((node in one["values"]) is (one["operator"] == "In") for one in found)


def is_there(term: Pod, present: list[dict[str, str]]) -> bool:
    wanted = term["labelSelector"]["matchLabels"].items()
    return any(wanted <= labels.items() for labels in present)


def preferences(affinity: Pod | None, kind: str) -> list[Pod]:
    return list((((affinity or {}).get(kind)) or {}).get(PREFERRED_TERMS) or ())


@given(own=affinities(), pods=clusters(), musts=st.sets(st.sampled_from(NAMES)), used=st.sets(st.sampled_from(NAMES)))
def test_a_pods_own_affinity_stands(
    own: Pod | None, pods: dict[str, list[dict[str, str]]], musts: set[str], used: set[str]
) -> None:
    musts &= used
    labels = {PLACED_LABEL: "true", **{required(name): "required" for name in musts}}
    datasets = {name: DATASETS[name] for name in used}
    before = pod(labels, *sorted(used), affinity=own)
    kept = copy.deepcopy(before)
    after = patched(before, datasets)
    assert before == kept, "what came is not written to"
    new = after["spec"].get("affinity")
    for node in NODES:
        has_workers = all(is_there(workers_term(name), pods[node]) for name in musts)
        assert fits(new, node, pods[node]) is (fits(own, node, pods[node]) and has_workers)
    # Preferences are added to, in their order; nothing else of the affinity is touched.
    wanted = preferences(own, "podAffinity")
    assert preferences(new, "podAffinity")[: len(wanted)] == wanted
    added = [entry["podAffinityTerm"] for entry in preferences(new, "podAffinity")[len(wanted) :]]
    present = [entry for entry in wanted if entry["weight"] == 100]
    for name in used - musts:
        assert workers_term(name) in added or {"weight": 100, "podAffinityTerm": workers_term(name)} in present
    assert len(added) <= len(used - musts)
    for kind in ("nodeAffinity", "podAntiAffinity"):
        assert (new or {}).get(kind) == (own or {}).get(kind)
    assert {**after["spec"], "affinity": None} == {**before["spec"], "affinity": None}
