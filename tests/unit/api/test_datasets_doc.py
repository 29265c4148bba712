"""docs/DATASETS.md has the fields as they are, and its manifests are right."""

from __future__ import annotations

import re

import pytest
import yaml

from csi.api import crds
from csi.api.checks import problems
from csi.api.dataset import MOUNTS_MAX, Dataset, DatasetSpec
from csi.api.efcruntime import LEVELS_MAX, EFCRuntime, EFCRuntimeSpec
from csi.api.fields import Change
from csi.api.ignored import ignored_fields
from csi.api.reference import markdown
from csi.api.rules import QUOTA_MIN
from csi.api.sources import SIZE_ANNOTATION, SIZE_DEFAULT
from csi.api.status import ConditionType
from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "DATASETS.md").read_text()


@pytest.mark.parametrize("spec", [DatasetSpec, EFCRuntimeSpec])
def test_the_tables_are_those_of_the_models(spec: type[DatasetSpec | EFCRuntimeSpec]) -> None:
    assert markdown(spec) in DOCUMENT, "run python -m csi.api.reference"


@pytest.mark.parametrize("spec", [DatasetSpec, EFCRuntimeSpec])
def test_every_field_says_when_it_counts(spec: type[DatasetSpec | EFCRuntimeSpec]) -> None:
    allowed = {change.value for change in Change}
    for row in markdown(spec).splitlines()[2:]:
        assert row.rpartition(" | ")[2].removesuffix(" |") in allowed, row


def test_the_quick_starts_manifests() -> None:
    written, *_ = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    example = (ROOT / "deploy" / "examples" / "dataset.yaml").read_text()
    for text in (written.replace("//NAS:/DIR", "//nas.example.com:/data"), example):
        dataset, runtime = yaml.safe_load_all(text)
        data, served = Dataset.model_validate(dataset), EFCRuntime.model_validate(runtime)
        assert problems(data) == problems(served) == []
        assert ignored_fields(data, served) == []
    assert list(yaml.safe_load_all(written.replace("//NAS:/DIR", "//nas.example.com:/data"))) == list(
        yaml.safe_load_all(example)
    )


def test_the_application_uses_the_examples_claim() -> None:
    app = yaml.safe_load((ROOT / "deploy" / "examples" / "dataset-app.yaml").read_text())
    (volume,) = app["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "efc-demo"


def test_columns_conditions_and_limits() -> None:
    for column in crds.crds()[0]["spec"]["versions"][0]["additionalPrinterColumns"]:
        if column["name"] != "Age":
            assert f"| {column['name'].upper()} " in DOCUMENT
            assert f"`{column['jsonPath'].removeprefix('.status.')}`" in DOCUMENT
    for condition in set(ConditionType) - {ConditionType.NOT_READY}:
        assert f"`{condition}`" in DOCUMENT
    assert f"{MOUNTS_MAX} mounts and {LEVELS_MAX} levels" in DOCUMENT
    assert f"below {QUOTA_MIN}" in DOCUMENT
    assert f"`{SIZE_DEFAULT}`" in DOCUMENT
    assert f"`{SIZE_ANNOTATION}: 10Gi`" in DOCUMENT
