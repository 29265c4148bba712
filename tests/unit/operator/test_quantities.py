"""Quantities of Kubernetes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.base.errors import DriverError
from csi.operator.quantities import quantity
from tests.unit.operator.samples import unhurried


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("15Gi", 15 << 30), ("1.5Gi", 3 << 29), ("64Mi", 64 << 20), ("100Pi", 100 << 50), ("2G", 2 * 10**9),
        ("1E", 10**18), ("1e3", 1000), ("1E3", 1000), ("12e-1", 2), ("100m", 1), ("1500m", 2), ("0", 0), (4096, 4096),
        (".5Ki", 512), ("1.", 1), ("+1", 1), ("-1", -1),
    ],
)  # fmt: skip
def test_what_they_are(text: object, number: int) -> None:
    assert quantity(text, noun="quota") == number


@pytest.mark.parametrize(
    "text", ["", "Gi", "15GiB", "15 Gi", "1e3Gi", "1,5Gi", "0x10", "1e", "e3", "1" * 99, "nan", None]
)
def test_what_is_none_is_refused_by_its_noun(text: object) -> None:
    with pytest.raises(DriverError, match=r"the quota is .*: expected a quantity, for example 15Gi"):
        quantity(text, noun="the quota")


@unhurried
@given(st.text(max_size=20))
def test_every_text_is_one_or_refused(text: str) -> None:
    with contextlib.suppress(DriverError):
        quantity(text, noun="it")
