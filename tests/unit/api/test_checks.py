"""What is said of wrong objects when the API server lets them through."""

from __future__ import annotations

import pytest

from csi.api.checks import Problem, problems
from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.api.ignored import ignored_fields
from csi.api.sources import SIZE_ANNOTATION
from tests.support.dataset_objects import RIGHT, WRONG, Object, Wrong, dataset, level, runtime


def _read(written: Object) -> Dataset | EFCRuntime:
    kinds: dict[str, type[Dataset | EFCRuntime]] = {"Dataset": Dataset, "EFCRuntime": EFCRuntime}
    return kinds[written["kind"]].model_validate(written)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.case)
def test_wrong(wrong: Wrong) -> None:
    (problem,) = problems(_read(wrong.object))
    assert problem.field == wrong.field
    assert wrong.words in problem.message


@pytest.mark.parametrize("written", RIGHT.values(), ids=RIGHT)
def test_right(written: Object) -> None:
    assert problems(_read(written)) == []


@pytest.mark.parametrize(
    ("written", "field", "words"),
    [
        (dataset(), "spec.mounts", "there is nothing to mount"),
        (dataset("nfs://nas:99999/a"), "spec.mounts[0].mountPoint", "from 1 to 65535"),
        (dataset("nfs://nas/a//b"), "spec.mounts[0].mountPoint", "empty component"),
        (dataset("nfs://nas/a", accessModes=["ReadMany"]), "spec.accessModes", "did you mean 'ReadOnlyMany'?"),
        (
            dataset("nfs://nas/a") | {"metadata": {"name": "a", "annotations": {SIZE_ANNOTATION: "big"}}},
            f"metadata.annotations[{SIZE_ANNOTATION}]", "'big' is not a quantity",
        ),
    ],
)  # fmt: skip
def test_what_only_parsing_tells(written: Object, field: str, words: str) -> None:
    (problem,) = problems(_read(written))
    assert problem.field == field
    assert words in problem.message


def test_each_wrong_field_has_a_problem() -> None:
    found = problems(_read(runtime(replicas=-1, fuse={"cleanPolicy": "Never", "networkMode": "Host"})))
    assert {problem.field for problem in found} == {"spec.replicas", "spec.fuse.cleanPolicy", "spec.fuse.networkMode"}


def test_a_password_is_not_repeated() -> None:
    for problem in problems(_read(dataset("nfs://user:hunter2@nas/data"))):
        assert "hunter2" not in problem.message


def test_a_problem_in_one_line() -> None:
    said = str(Problem(field="spec.placement", value="Both", message="'Both' is unknown"))
    assert said == "spec.placement: 'Both' is unknown"
    (problem,) = problems(_read(level(quota="1Mi")))
    assert str(problem).startswith("spec.tieredstore.levels[0].quota: '1Mi': a quota this small")


def test_nothing_is_ignored_of_the_quick_start() -> None:
    data = Dataset.model_validate(RIGHT["quick-start"])
    for name in ("quick-start-runtime", "runtime-in-a-directory-of-the-pod", "empty-runtime"):
        assert ignored_fields(data, EFCRuntime.model_validate(RIGHT[name])) == []


def test_fields_that_do_nothing_are_listed() -> None:
    mount = {"mountPoint": "nfs://nas/a", "shared": True}
    data = dataset(mount, runtimes=[{"name": "other"}], owner={"uid": 0, "gid": 0, "user": "root"})
    served = runtime(
        worker={"replicas": 2, "ports": {"rpc": 14555, "web": 80}, "version": {"image": "closed"}, "properties": {}},
        master={"replicas": 5},
        initFuse={"version": {"image": "closed"}},
        osAdvise={"osVersion": "centos"},
        cleanCachePolicy={"gracePeriodSeconds": 60, "maxRetryAttempts": 3},
        fuse={
            "cleanPolicy": "OnFuseChanged",
            "networkMode": "ContainerNetwork",
            "properties": {"g_tier_EnableClusterCache": "true", "read-ahead": "4MiB"},
            "resources": {
                "limits": {"memory": "1Gi", "cpu": 1},
                "requests": {"memory": "1Gi"},
                "claims": [{"name": "a"}],
            },
        },
        tieredstore={"levels": [{"mediumtype": "MEM", "high": "0.9", "volumeSource": {"emptyDir": {}}}]},
    )
    found = ignored_fields(Dataset.model_validate(data), EFCRuntime.model_validate(served), has_pod_network=False)
    assert found == [
        "spec.mounts[0].shared",
        "spec.owner.user",
        "spec.runtimes",
        "spec.worker.replicas",
        "spec.worker.version",
        "spec.worker.ports",
        "spec.initFuse",
        "spec.tieredstore.levels[0].high",
        "spec.osAdvise",
        "spec.master.replicas",
        "spec.fuse.properties.g_tier_EnableClusterCache",
        "spec.fuse.resources.claims",
        "spec.fuse.resources.limits.cpu",
        "spec.fuse.resources.requests.memory",
        "spec.fuse.cleanPolicy",
        "spec.fuse.networkMode",
        "spec.tieredstore.levels[0].volumeSource.emptyDir",
    ]
